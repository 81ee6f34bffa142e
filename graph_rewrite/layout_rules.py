"""Which nodes can compute in NHWC, and what has to change in them for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import is_constant
from ort_cks.graph_rewrite.fallback import DOMAIN
from ort_cks.graph_rewrite.function_body import to_channels_last

# The inputs of our operators that have a layout; W, B and dW do not.
_OPERATOR_INPUTS = {"ConvV2": (0, 3), "SkDilated": (0, 3), "KSDeconv": (0, 3), "SkDilatedWeightGrad": (0, 1)}

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


@dataclass(frozen=True)
class LayoutRule:
    """How one node takes part in a layout.

    Attributes:
        rank: the number of spatial axes of its tensors.
        fixed: it is to compute in NHWC whatever its neighbours do; for others the pass chooses.
        inputs: the indices of the inputs that come in the node's layout.
        outputs: the indices of the outputs that leave in it.
        constants: the indices of constant inputs to be laid out with the node.
        relabel: changes the node's attributes from NCHW to NHWC.
    """

    rank: int
    fixed: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[int, ...] = ()
    relabel: Callable[[ir.Node], None] = lambda node: None


def layout_rule(node: ir.Node) -> LayoutRule | None:
    """The node's rule; None where this pass knows it in NCHW only, and where it is in NHWC already."""
    if node.domain == DOMAIN and node.op_type in _OPERATOR_INPUTS:
        return _operator_rule(node)
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _ELEMENTWISE:
        return _elementwise_rule(node)
    if node.op_type == "Concat":
        rule = _same_rank_rule(node)
        return None if rule is None else replace(rule, relabel=_relabel_axis(rule.rank))
    if node.op_type == "Split":
        rank = _rank(node.inputs[0])
        outputs = tuple(range(len(node.outputs)))
        return None if rank is None else LayoutRule(rank, False, (0,), outputs, relabel=_relabel_axis(rank))
    return None


def _operator_rule(node: ir.Node) -> LayoutRule | None:
    if node.attributes.get_string("layout", "NCHW") == "NHWC":
        return None
    gradient = node.op_type == "SkDilatedWeightGrad"
    rank = _rank(node.inputs[0])
    if rank is None and not gradient:
        rank = _rank(node.inputs[1])
    if rank is None:
        return None
    inputs = tuple(
        i for i in _OPERATOR_INPUTS[node.op_type] if i < len(node.inputs) and node.inputs[i] is not None
    )
    return LayoutRule(rank, True, inputs, () if gradient else (0,), relabel=_relabel_layout)


def _relabel_layout(node: ir.Node) -> None:
    node.attributes["layout"] = ir.AttrString("layout", "NHWC")


def _elementwise_rule(node: ir.Node) -> LayoutRule | None:
    if "broadcast" in node.attributes or "axis" in node.attributes:  # broadcasting as it was before opset 7
        return None
    return _same_rank_rule(node)


def _relabel_axis(rank: int) -> Callable[[ir.Node], None]:
    def relabel(node: ir.Node) -> None:
        axis = node.attributes.get_int("axis", 0) % (rank + 2)
        node.attributes["axis"] = ir.AttrInt64("axis", to_channels_last(rank).index(axis))

    return relabel


def _same_rank_rule(node: ir.Node) -> LayoutRule | None:
    """For nodes with one rank for all outputs, and all inputs but constants and single elements."""
    rank = _rank(node.outputs[0])
    if rank is None or any(_rank(value) not in (None, rank) for value in node.outputs):
        return None
    inputs, constants = [], []
    for index, value in enumerate(node.inputs):
        if value is None or _is_single(value, rank):
            continue
        if is_constant(value) and value.shape is not None and len(value.shape) <= rank + 2:
            constants.append(index)
        elif _rank(value) == rank:
            inputs.append(index)
        else:
            return None
    if not inputs:
        return None
    return LayoutRule(rank, False, tuple(inputs), tuple(range(len(node.outputs))), tuple(constants))


def lay_out_constant(array: np.ndarray, rank: int) -> np.ndarray:
    """A constant that broadcasts against NCHW, made to broadcast against NHWC."""
    return np.transpose(array.reshape((1,) * (rank + 2 - array.ndim) + array.shape), to_channels_last(rank))


def _rank(value: ir.Value) -> int | None:
    """The number of spatial axes; None where it is not known, or not 1 to 3."""
    if value.shape is None or not 3 <= len(value.shape) <= 5:
        return None
    return len(value.shape) - 2


def _is_single(value: ir.Value, rank: int) -> bool:
    """Whether the value is of one element, in no more axes than its partner: the same in every layout."""
    return value.shape is not None and len(value.shape) <= rank + 2 and all(dim == 1 for dim in value.shape)
