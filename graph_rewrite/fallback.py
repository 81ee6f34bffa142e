"""Model-local functions that say in standard ONNX operators what the ort_cks operators of a model compute.

A session with the library registered runs its kernels; one without it inlines these functions. So a rewritten
model runs anywhere, and shape inference, checkers and optimisers can look into it.

One function serves all nodes that differ only in attributes a function body can refer to; what it cannot
refer to (the activation, the layout, the data type) makes the function's `overload`, e.g.
"nhwc2d_residual_Relu".
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.fallback_activations import activate
from ort_cks.graph_rewrite.fallback_guard import guard_attribute, guarded, set_guard
from ort_cks.graph_rewrite.fallback_weight_gradient import weight_gradient
from ort_cks.graph_rewrite.function_body import FunctionBody, to_channels_first, to_channels_last

DOMAIN = "ort_cks"

_STANDARD_OPERATORS = {"ConvV2": "Conv", "SkDilated": "Conv", "KSDeconv": "ConvTranspose"}
_CONV_ATTRIBUTES = {
    "auto_pad": ir.AttributeType.STRING,
    "dilations": ir.AttributeType.INTS,
    "group": ir.AttributeType.INT,
    "kernel_shape": ir.AttributeType.INTS,
    "pads": ir.AttributeType.INTS,
    "strides": ir.AttributeType.INTS,
}
_CONV_TRANSPOSE_ATTRIBUTES = _CONV_ATTRIBUTES | {
    "output_padding": ir.AttributeType.INTS,
    "output_shape": ir.AttributeType.INTS,
}
_OWN_ATTRIBUTES = ("activation", "activation_params", "layout", "precision")
_OVERLOAD_IR_VERSION = 10  # the first in which a function has an overload


def add_fallback_functions(model: ir.Model) -> None:
    """Gives every node of the ort_cks domain, in the graph and its subgraphs, its function.

    Sets each node's overload and the attribute that guards it, and raises the model's IR version to 10, the
    first that knows overloads. Nodes within other model-local functions are left alone: ONNX Runtime forgets
    their overloads when it inlines those functions. The rewriter inlines functions that hold convolutions, so
    it makes no such nodes.

    Raises:
        RewriteError: a node's data type or, in NHWC, its rank is unknown, or the opset lacks what its
            function needs.
    """
    opset_version = model.graph.opset_imports[""]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain != DOMAIN:
            continue
        build = _weight_gradient_function if node.op_type == "SkDilatedWeightGrad" else _convolution_function
        try:
            function = build(node, opset_version)
        except ValueError as error:
            raise RewriteError(f"Node '{node.name}' cannot have a fallback function: {error}.") from error
        node.overload = function.overload
        set_guard(node)
        model.functions[function.identifier()] = function
    if any(domain == DOMAIN for domain, _, _ in model.functions):
        model.ir_version = max(model.ir_version, _OVERLOAD_IR_VERSION)


@dataclass(frozen=True)
class _Variant:
    """What tells the functions of one operator apart."""

    element_type: ir.DataType
    channels_last_rank: int | None  # the number of spatial axes, which an NHWC body's Transposes depend on
    residual: bool
    activation: str
    params: tuple[float, ...]

    @classmethod
    def of(cls, node: ir.Node) -> "_Variant":
        channels_last = node.attributes.get_string("layout", "NCHW") == "NHWC"
        return cls(
            element_type=_element_type(node),
            channels_last_rank=_spatial_rank(node) if channels_last else None,
            residual=len(node.inputs) > 3 and node.inputs[3] is not None,
            activation=node.attributes.get_string("activation", ""),
            params=tuple(node.attributes.get_floats("activation_params", ())),
        )

    def overload(self) -> str:
        parts = [*_type_part(self.element_type), *_layout_part(self.channels_last_rank)]
        if self.residual:
            parts.append("residual")
        if self.activation:
            # as float, the shortest decimal that is the same float: 0.1, not 0.10000000149011612
            parts += [self.activation, *(str(np.float32(value)) for value in self.params)]
        return "_".join(parts)


def _convolution_function(node: ir.Node, opset_version: int) -> ir.Function:
    variant = _Variant.of(node)
    rank = variant.channels_last_rank
    standard_op = _STANDARD_OPERATORS[node.op_type]
    attributes = _CONV_TRANSPOSE_ATTRIBUTES if standard_op == "ConvTranspose" else _CONV_ATTRIBUTES
    overload = variant.overload()
    body = FunctionBody(opset_version, variant.element_type)

    x, w, b = (body.input(name) for name in "XWB")
    # Reference attributes have no defaults: one that the node lacks is absent in the body too.
    references = {name: ir.RefAttr(name, name, kind) for name, kind in attributes.items()}
    y = body.op(
        standard_op,
        x if rank is None else body.transpose(x, to_channels_first(rank)),
        w,
        b,
        **references,
    )
    y = guarded(body, y, overload)
    if rank is not None:
        y = body.transpose(y, to_channels_last(rank))
    if variant.residual:
        y = body.op("Add", y, body.input("Z"))
    y = body.output(activate(body, variant.activation, variant.params, y))
    return body.function(
        (DOMAIN, node.op_type, overload),
        y,
        [*attributes, *_OWN_ATTRIBUTES, guard_attribute(overload)],
        f"What {node.op_type} computes, in standard ONNX operators.",
    )


def _weight_gradient_function(node: ir.Node, opset_version: int) -> ir.Function:
    # Before opset 11 Pad and Slice take no run-time inputs.
    if opset_version < 11:
        raise ValueError(f"a weight gradient needs opset 11 or newer, and the model has {opset_version}")
    element_type = _element_type(node)
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
        *_layout_part(rank if channels_last else None),
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
    return body.function(
        (DOMAIN, node.op_type, overload),
        body.output(guarded(body, dw, overload)),
        [*_CONV_ATTRIBUTES, "layout", "precision", guard_attribute(overload)],
        "The weight gradient of a Conv as a Conv with batch and channels, strides and dilations exchanged.",
    )


def _type_part(element_type: ir.DataType) -> list[str]:
    return [] if element_type == ir.DataType.FLOAT else [element_type.name.lower()]


def _layout_part(channels_last_rank: int | None) -> list[str]:
    return [] if channels_last_rank is None else [f"nhwc{channels_last_rank}d"]


def _by(extents) -> str:
    return "x".join(map(str, extents))


def _element_type(node: ir.Node) -> ir.DataType:
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype is not None:
            return value.dtype
    raise ValueError("the data type of its inputs is unknown")


def _spatial_rank(node: ir.Node) -> int:
    for name, values_per_axis in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 2)):
        if name in node.attributes:
            return len(node.attributes[name].as_ints()) // values_per_axis
    for value in (*node.inputs[:2], *node.outputs):
        if value is not None and value.shape is not None:
            return value.shape.rank() - 2
    raise ValueError("the rank of its input is unknown")
