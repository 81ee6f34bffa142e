"""Which nodes can compute in NHWC, and what has to change in them for it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite import layout_axes, layout_pooling, layout_resize
from ort_cks.graph_rewrite.constants import is_constant
from ort_cks.graph_rewrite.function_body import to_channels_last
from ort_cks.graph_rewrite.layout_batch_normalization import batch_normalization
from ort_cks.graph_rewrite.layout_rule import LayoutRule, spatial_rank
from ort_cks.graph_rewrite.node_editor import NodeEditor
from ort_cks.graph_rewrite.operators import CONVOLUTIONS, DOMAIN, WEIGHT_GRADIENT

# The inputs of our operators that have a layout; W, B and dW do not.
_OPERATOR_INPUTS = {**dict.fromkeys(CONVOLUTIONS, (0, 3)), WEIGHT_GRADIENT: (0, 1)}

_UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor
    Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu
    Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
"""
_BROADCAST = """
    Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
    Mul Or PRelu Pow Sub Sum Where Xor
"""
_ELEMENTWISE = frozenset((_UNARY + _BROADCAST).split())


# Operators that need more than that: the node's rule, and from which opset on it holds.
_RULES: dict[str, tuple[Callable[[ir.Node], LayoutRule | None], int]] = {
    "BatchNormalization": (batch_normalization, 1),
    "Split": (layout_axes.split, 1),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), (layout_axes.normalization, 13)),
    "LpNormalization": (layout_axes.normalization, 1),
    **dict.fromkeys(("ArgMax", "ArgMin"), (layout_axes.arg_reduction, 1)),
    "CumSum": (layout_axes.cumulative_sum, 1),
    **dict.fromkeys(layout_axes.REDUCTIONS, (layout_axes.reduction, 1)),
    "Slice": (layout_axes.slice_, 1),
    "Pad": (layout_axes.pad, 2),
    "Expand": (layout_axes.expand, 1),
    "Shape": (layout_axes.shape_of, 1),
    "MaxPool": (layout_pooling.max_pool, 7),
    "AveragePool": (layout_pooling.average_pool, 7),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), (layout_pooling.global_pool, 1)),
    **dict.fromkeys(("Resize", "Upsample"), (layout_resize.resize, 1)),
    "DepthToSpace": (layout_resize.depth_to_space, 1),
    "SpaceToDepth": (layout_resize.space_to_depth, 1),
}


def layout_rule(node: ir.Node, opset_version: int) -> LayoutRule | None:
    """The node's rule; None where this pass knows it in NCHW only, and where it is in NHWC already."""
    if node.domain == DOMAIN and node.op_type in _OPERATOR_INPUTS:
        return _operator_rule(node)
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _ELEMENTWISE:
        return _elementwise_rule(node)
    if node.op_type == "Concat":
        rule = _same_rank_rule(node)
        return None if rule is None else replace(rule, convert=layout_axes.relabel_axis(rule.rank))
    make, since = _RULES.get(node.op_type, (None, 0))
    return make(node) if make is not None and opset_version >= since else None


def _operator_rule(node: ir.Node) -> LayoutRule | None:
    if node.attributes.get_string("layout", "NCHW") == "NHWC":
        return None
    gradient = node.op_type == WEIGHT_GRADIENT
    rank = spatial_rank(node.inputs[0])
    if rank is None and not gradient:
        rank = spatial_rank(node.inputs[1])
    if rank is None:
        return None
    inputs = tuple(
        i for i in _OPERATOR_INPUTS[node.op_type] if i < len(node.inputs) and node.inputs[i] is not None
    )
    return LayoutRule(rank, True, inputs, () if gradient else (0,), convert=_relabel_layout)


def _relabel_layout(node: ir.Node, _: NodeEditor) -> None:
    node.attributes["layout"] = ir.AttrString("layout", "NHWC")


def _elementwise_rule(node: ir.Node) -> LayoutRule | None:
    if "broadcast" in node.attributes or "axis" in node.attributes:  # broadcasting as it was before opset 7
        return None
    return _same_rank_rule(node)


def _same_rank_rule(node: ir.Node) -> LayoutRule | None:
    """For nodes with one rank for all outputs, and all inputs but constants and single elements."""
    rank = spatial_rank(node.outputs[0])
    if rank is None or any(spatial_rank(value) not in (None, rank) for value in node.outputs):
        return None
    inputs, constants = [], []
    for index, value in enumerate(node.inputs):
        if value is None or _is_single(value, rank):
            continue
        if is_constant(value) and value.shape is not None and len(value.shape) <= rank + 2:
            constants.append(index)
        elif spatial_rank(value) == rank:
            inputs.append(index)
        else:
            return None
    if not inputs:
        return None
    return LayoutRule(rank, False, tuple(inputs), tuple(range(len(node.outputs))), tuple(constants))


def lay_out_constant(array: np.ndarray, rank: int) -> np.ndarray:
    """A constant that broadcasts against NCHW, made to broadcast against NHWC."""
    return np.transpose(array.reshape((1,) * (rank + 2 - array.ndim) + array.shape), to_channels_last(rank))


def _is_single(value: ir.Value, rank: int) -> bool:
    """Whether the value is of one element, in no more axes than its partner: the same in every layout."""
    return value.shape is not None and len(value.shape) <= rank + 2 and all(dim == 1 for dim in value.shape)
