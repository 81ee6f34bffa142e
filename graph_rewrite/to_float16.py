"""A model of floats as one of float16, for the rewriter's ``to="fp16"``.

ONNX Runtime's own converter (onnxruntime.transformers.float16) retypes the graph. It never sees the weights:
it has no use for them but to convert them, and here that is done as each is written. What it leaves to its
caller is decided here:

1. Nodes keep computing in float whose weights float16 does not hold, and those that compute with extents.
   (A bound or a mask that float16 does not hold, -1e9 say, becomes float16's largest number.)
2. A weight that such a node shares with others becomes two.
3. Casts that undo each other, and those that do nothing, go.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass, TopologicalSortPass

from ort_cks.graph_rewrite.constants import ConstantFactory, derived
from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.operators import DOMAIN

logger = logging.getLogger(__name__)

_FLOAT, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LARGEST, _SMALLEST_NORMAL = 65504.0, 2.0**-14

# The constants that scale what a node computes, and those that are only added to it, by index of the input.
_SCALES = {
    **dict.fromkeys(("Conv", "ConvTranspose"), (1,)),
    **dict.fromkeys(("Gemm", "MatMul", "Mul", "Div"), (0, 1)),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), (1,)),
}
_SUMMANDS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "InstanceNormalization"), (2,)),
    "BatchNormalization": (2, 3, 4),
}
# Inputs that ONNX has in float whatever the node computes in, by ONNX's operators.
_ALWAYS_FLOAT = {"Resize": (2,)}


def to_float16(model: ir.Model, keep_io: bool) -> ir.Model:
    """The model in float16; the same one, where it has no float, or computes in float16 or bfloat16 already.

    Args:
        model: with constants as initializers and shapes inferred. It is changed.
        keep_io: leave the model's inputs and outputs in float.

    Raises:
        RewriteError: it was rewritten before, or the converter cannot convert it, and why.
    """
    types = {value.dtype for graph in model.graphs() for value in graph.initializers.values()}
    if types & {_FLOAT16, ir.DataType.BFLOAT16}:
        logger.warning("The model computes in 16 bits already; its types stay as they are.")
        return model
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN:
            raise RewriteError(
                f"The model was rewritten already (node '{node.name}' is a {node.op_type}); convert the "
                "original."
            )
    both = [value.name for value in model.graph.outputs if value.is_graph_input()]
    if keep_io and both:
        raise RewriteError(f"'{both[0]}' is an input and an output: drop --keep-io, or one of them.")
    converter = _converter()
    InlinePass()(model)
    _make_initializer_names_unique(model)
    in_float = _nodes_to_keep(model, converter.DEFAULT_OP_BLOCK_LIST)
    _split_shared_weights(model, in_float)
    with _without_weights(model) as weights:
        proto = ir.to_proto(model)
    try:
        converted = ir.from_proto(
            converter.convert_float_to_float16(
                proto,
                keep_io_types=keep_io,
                disable_shape_infer=True,  # as stand-ins, the weights have no shape
                op_block_list=[],
                node_block_list=[node.name for node in in_float],
            )
        )
    except Exception as error:  # it raises whatever its assertions and lookups raise
        raise RewriteError(f"ONNX Runtime's converter to float16 failed: {error}.") from error
    _put_weights_back(converted, weights, converter.convert_np_to_float16)
    _remove_needless_casts(converted)
    RemoveUnusedNodesPass()(converted)
    TopologicalSortPass()(converted)  # the converter puts its Casts at the end
    _check_types(converted)
    return converted


def _converter():
    try:
        from onnxruntime.transformers import float16
    except ImportError as error:
        raise RewriteError(
            f"Converting to float16 needs onnxruntime with its transformers folder: {error}."
        ) from error
    return float16


def _make_initializer_names_unique(model: ir.Model) -> None:
    """The converter wants that of the branches of an If, too."""
    names, seen = ConstantFactory(model), set()
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            if value.name in seen:
                value.name = names.free_name(value.name)
            seen.add(value.name)


def _nodes_to_keep(model: ir.Model, unsupported: list[str]) -> list[ir.Node]:
    """The nodes that go on in float, each with a name of its own."""
    extents = _nodes_of_extents(model)
    kept = [
        node
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if (node.op_type in unsupported and node.domain in ("", "ai.onnx"))
        or node in extents
        or _has_weights_out_of_range(node)
    ]
    names = {node.name for node in ir.traversal.RecursiveGraphIterator(model.graph)}
    for node in kept:
        if node.graph is not model.graph:
            raise RewriteError(
                f"Node '{node.name}' ({node.op_type}), in the body of another, has to compute in float; ONNX "
                "Runtime's converter to float16 leaves nodes of the main graph in float only."
            )
        if not node.name:
            node.name = next(
                name for i in range(len(names) + 1) if (name := f"{node.op_type}_{i}") not in names
            )
            names.add(node.name)
    return kept


def _nodes_of_extents(model: ir.Model) -> set[ir.Node]:
    """Nodes that compute with nothing but extents and constants: float16 has integers up to 2048 only."""
    found: set[ir.Node] = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        varying = [value for value in node.inputs if value is not None and value.const_value is None]
        sources = {value.producer() for value in varying}
        if sources and all(
            source is not None and (source in found or source.op_type in ("Shape", "Size"))
            for source in sources
        ):
            found.add(node)
    return {
        node
        for node in found
        if any(value.dtype == _FLOAT for value in (*node.inputs, *node.outputs) if value)
    }


def _has_weights_out_of_range(node: ir.Node) -> bool:
    for indices, least in ((_SCALES, _SMALLEST_NORMAL), (_SUMMANDS, 0.0)):
        for index in indices.get(node.op_type, ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or value.const_value is None or value.dtype != _FLOAT:
                continue
            array = np.abs(value.const_value.numpy())
            largest = array[np.isfinite(array)].max(initial=0)
            if largest > _LARGEST or 0 < largest < least:
                return True
    return False


def _split_shared_weights(model: ir.Model, in_float: list[ir.Node]) -> None:
    kept, constants = set(in_float), ConstantFactory(model)
    for graph in list(model.graphs()):
        for value in list(graph.initializers.values()):
            uses = [
                (node, index)
                for node, index in value.uses()
                if node in kept or index in _ALWAYS_FLOAT.get(node.op_type, ())
            ]
            if value.dtype != _FLOAT or not uses or len(uses) == len(value.uses()):
                continue
            tensor = value.const_value
            copy = constants.add(
                graph, f"{value.name}_float", derived(tensor, lambda array: array, tensor.shape)
            )
            for node, index in uses:
                node.replace_input_with(index, copy)


@contextmanager
def _without_weights(model: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """The model with an empty tensor in place of each weight of floats; the weights by name."""
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    weights = {value: value.const_value for value in values if value.dtype in (_FLOAT, _FLOAT16)}
    for value in weights:
        value.const_value = ir.tensor(np.zeros(0, value.dtype.numpy()), name=value.name)
    try:
        yield {value.name: tensor for value, tensor in weights.items()}
    finally:
        for value, tensor in weights.items():
            value.const_value = tensor


def _put_weights_back(
    model: ir.Model,
    weights: Mapping[str, ir.TensorProtocol],
    convert: Callable[[np.ndarray], np.ndarray],
) -> None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.name not in weights:
                continue
            tensor = weights[value.name]
            if value.const_value.dtype == _FLOAT16:
                tensor = _in_float16(tensor, convert)
            tensor.name = value.name
            value.const_value, value.shape, value.dtype = tensor, ir.Shape(tensor.shape), tensor.dtype


def _in_float16(tensor: ir.TensorProtocol, convert: Callable[[np.ndarray], np.ndarray]) -> ir.TensorProtocol:
    def read() -> ir.Tensor:
        array = tensor.numpy()
        return ir.Tensor(convert(array.reshape(-1)).reshape(array.shape), dtype=_FLOAT16)  # it wants an axis

    return ir.LazyTensor(read, dtype=_FLOAT16, shape=ir.Shape(tensor.shape))


def _remove_needless_casts(model: ir.Model) -> None:
    """Casts to the type that a value has, and float16 between a float node and the next."""
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.op_type != "Cast" or node.domain not in ("", "ai.onnx"):
            continue
        source, target = node.inputs[0], ir.DataType(node.attributes.get_int("to"))
        maker = source.producer()
        if target == _FLOAT and maker is not None and maker.op_type == "Cast" and source.dtype == _FLOAT16:
            source = maker.inputs[0]
        if source.dtype == target and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(source)


def _check_types(model: ir.Model) -> None:
    """Raises RewriteError where the inputs of a node do not fit together: the converter does not ask."""
    with _without_weights(model):
        proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True)
    except onnx.shape_inference.InferenceError as error:
        raise RewriteError(
            f"ONNX Runtime's converter to float16 leaves types that do not fit: {error}."
        ) from error
