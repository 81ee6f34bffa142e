"""Which swapped nodes are slower on this machine than the native operators they stand for."""

import logging
from collections.abc import Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ort_cks.graph_rewrite.convolution import static_shape
from ort_cks.graph_rewrite.fallback import DOMAIN, add_fallback_functions
from ort_cks.graph_rewrite.measure import Timing, measure_node
from ort_cks.graph_rewrite.simplify import serialize_inline

logger = logging.getLogger(__name__)


def measure_nodes(model: ir.Model, nodes: Sequence[ir.Node], layout: str) -> dict[ir.Node, Timing]:
    """Times each node of the ort_cks domain alone, in NCHW as they are now, against its standard operators.

    Ours runs on tensors in `layout`, because in the model its neighbours are in that layout too. Nodes whose
    shapes are not static are left out.
    """
    timings = {}
    for done, node in enumerate(nodes):
        logger.info("measuring %d of %d: %s", done + 1, len(nodes), node.name)
        if all(
            static_shape(value) is not None for value in (*node.inputs, *node.outputs) if value is not None
        ):
            native, swapped = native_model(model, node), single_node_model(model, node, layout.upper())
            timings[node] = measure_node(native, serialize_inline(swapped))
    return timings


def native_model(model: ir.Model, node: ir.Node) -> onnx.ModelProto:
    """The convolution and what was fused into it, in standard operators: the node's fallback function."""
    alone = single_node_model(model, node, "NCHW")
    add_fallback_functions(alone)
    InlinePass()(alone)
    return serialize_inline(alone)


def single_node_model(model: ir.Model, node: ir.Node, layout: str) -> ir.Model:
    """The node with its weights and bias as they are, other inputs as the model's inputs."""
    inputs, initializers = [], []
    weight_gradient = node.op_type == "SkDilatedWeightGrad"
    for index, value in enumerate(node.inputs):
        copy = ir.Value(name=f"input_{index}", type=value.type, shape=ir.Shape(static_shape(value)))
        copy.const_value = ir.convenience.get_const_tensor(value)
        if copy.const_value is not None:
            initializers.append(copy)
        else:
            inputs.append(copy)
            if weight_gradient or index != 1:  # weights, and their gradient, are in ONNX's layout in either
                copy.shape = _in_layout(copy.shape, layout)
    by_name = {value.name: value for value in (*inputs, *initializers)}
    attributes = dict(node.attributes) | {"layout": ir.AttrString("layout", layout)}
    alone = ir.Node(
        DOMAIN, node.op_type, [by_name[f"input_{i}"] for i in range(len(node.inputs))], attributes.values()
    )
    y = alone.outputs[0]
    y.name, y.type = "output", node.outputs[0].type
    y.shape = _in_layout(ir.Shape(static_shape(node.outputs[0])), "NCHW" if weight_gradient else layout)
    opsets = {"": model.opset_imports[""], DOMAIN: 1}
    graph = ir.Graph(
        inputs, [y], nodes=[alone], initializers=initializers, opset_imports=opsets, name=node.name
    )
    return ir.Model(graph, ir_version=max(model.ir_version, 8))


def _in_layout(shape: ir.Shape, layout: str) -> ir.Shape:
    if layout == "NCHW" or len(shape) < 3:
        return shape
    n, c, *spatial = shape
    return ir.Shape([n, *spatial, c])
