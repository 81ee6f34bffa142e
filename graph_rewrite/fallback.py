"""Model-local functions that say in standard ONNX operators what the ort_cks operators of a model compute.

A session with the library registered runs its kernels; one without it inlines these functions. So a rewritten
model runs anywhere, and shape inference, checkers and optimisers can look into it.

The function of a node has an `overload` that says its data type, concatenated input, residual and
activation, e.g. "residual_Relu"; of a ReluEach its data type and how many inputs there are, e.g. "float16_7".
"""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.fallback_convolution import CONV_ATTRIBUTES, ConvolutionFunction, Epilogue
from ort_cks.graph_rewrite.fallback_guard import PREFIX, guard_attribute, guarded
from ort_cks.graph_rewrite.fallback_max_pool import max_pool_function
from ort_cks.graph_rewrite.fallback_relu_each import relu_each_function
from ort_cks.graph_rewrite.fallback_weight_gradient import weight_gradient
from ort_cks.graph_rewrite.function_body import FunctionBody
from ort_cks.graph_rewrite.operators import DOMAIN, MAX_POOL, RELU_EACH, WEIGHT_GRADIENT

_OVERLOAD_IR_VERSION = 10  # the first in which a function has an overload


def add_fallback_functions(model: ir.Model) -> None:
    """Gives every node of the ort_cks domain, in the graph and its subgraphs, its function.

    Sets each node's overload and the attributes that its function asks for, and raises the model's IR version
    to 10, the first that knows overloads. Nodes within other model-local functions are left alone: ONNX
    Runtime forgets their overloads when it inlines those functions. The rewriter inlines functions that hold
    convolutions, so it makes no such nodes.

    Raises:
        RewriteError: a node's data type or, in NHWC, its rank is unknown, or the opset lacks what its
            function needs.
    """
    opset_version = model.graph.opset_imports[""]
    groups: dict[tuple, list[ir.Node]] = {}
    nodes = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.domain == DOMAIN]
    for node in nodes:
        for earlier in [name for name in node.attributes if name.startswith(PREFIX)]:
            del node.attributes[earlier]
        with _naming(node):
            element_type = _element_type(node)
        groups.setdefault((node.op_type, element_type, _inputs(node, element_type)), []).append(node)
    for (op_type, element_type, _), group in groups.items():
        if op_type == WEIGHT_GRADIENT:
            functions = _give_weight_gradients(group, element_type, opset_version)
        elif op_type == MAX_POOL:
            overload = "_".join(_type_part(element_type))
            functions = [max_pool_function(group, element_type, opset_version, overload)]
        elif op_type == RELU_EACH:
            overload = "_".join([*_type_part(element_type), str(len(group[0].inputs))])
            functions = [relu_each_function(group, element_type, opset_version, overload)]
        else:
            functions = _give_convolutions(group, element_type, opset_version)
        model.functions.update({function.identifier(): function for function in functions})
    if nodes:
        model.ir_version = max(model.ir_version, _OVERLOAD_IR_VERSION)


def _inputs(node: ir.Node, element_type: ir.DataType) -> int | tuple[str, ...]:
    """In which inputs nodes must agree to share a body."""
    if node.op_type == RELU_EACH:
        return len(node.inputs)
    # Inputs in bfloat16 are cast, and a body that casts one is none for a node without it.
    return Epilogue.of(node).inputs if element_type == ir.DataType.BFLOAT16 else ()


def _give_convolutions(
    nodes: list[ir.Node], element_type: ir.DataType, opset_version: int
) -> list[ir.Function]:
    with _naming(nodes[0]):
        convolution = ConvolutionFunction(nodes, element_type, opset_version)
    for node in nodes:
        with _naming(node):
            convolution.set_attributes(node)
        node.overload = "_".join(filter(None, (*_type_part(element_type), Epilogue.of(node).overload())))
    return [convolution.function(overload) for overload in sorted({node.overload for node in nodes})]


def _give_weight_gradients(
    nodes: list[ir.Node], element_type: ir.DataType, opset_version: int
) -> list[ir.Function]:
    functions = []
    for node in nodes:
        with _naming(node):
            functions.append(_weight_gradient_function(node, element_type, opset_version))
        node.overload = functions[-1].overload
        node.attributes.add(ir.AttrInt64(guard_attribute(node.overload), 1))
    return functions


@contextmanager
def _naming(node: ir.Node) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise RewriteError(f"Node '{node.name}' cannot have a fallback function: {error}.") from error


def _weight_gradient_function(node: ir.Node, element_type: ir.DataType, opset_version: int) -> ir.Function:
    # Before opset 11 Pad and Slice take no run-time inputs.
    if opset_version < 11:
        raise ValueError(f"a weight gradient needs opset 11 or newer, and the model has {opset_version}")
    channels_last = node.attributes.get_string("layout", "NCHW") == "NHWC"
    kernel_shape = node.attributes["kernel_shape"].as_ints()
    rank = len(kernel_shape)
    group = node.attributes.get_int("group", 1)
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    strides = node.attributes.get_ints("strides", [1] * rank)
    dilations = node.attributes.get_ints("dilations", [1] * rank)
    pads = node.attributes.get_ints("pads", [0] * (2 * rank))

    parts = [
        *_type_part(element_type),
        *([f"nhwc{rank}d"] if channels_last else []),
        f"kernel{_by(kernel_shape)}",
        f"strides{_by(strides)}",
        f"dilations{_by(dilations)}",
        f"pads{_by(pads)}" if auto_pad == "NOTSET" else auto_pad,
        f"group{group}",
    ]
    overload = "_".join(parts)

    body = FunctionBody(opset_version, element_type)
    dw = weight_gradient(
        body,
        body.input("X"),
        body.input("dY"),
        channels_last=channels_last,
        group=group,
        auto_pad=auto_pad,
        kernel_shape=kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
    )
    guard = guard_attribute(overload)
    return body.function(
        (DOMAIN, node.op_type, overload),
        [body.output(guarded(body, dw, guard))],
        [*CONV_ATTRIBUTES, "layout", "precision", guard],
        "The weight gradient of a Conv as a Conv with batch and channels, strides and dilations exchanged.",
    )


def _type_part(element_type: ir.DataType) -> list[str]:
    return [] if element_type == ir.DataType.FLOAT else [element_type.name.lower()]


def _by(extents) -> str:
    return "x".join(map(str, extents))


def _element_type(node: ir.Node) -> ir.DataType:
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is not None:
            return value.dtype
    raise ValueError("the data type of its inputs is unknown")
