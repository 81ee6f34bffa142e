"""How a node takes part in a layout, and the words that rules share."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from ort_cks.graph_rewrite.function_body import to_channels_last
from ort_cks.graph_rewrite.node_editor import NodeEditor

# Stands for a dimension that is unknown before a run. Only comparisons between values depend on it.
_UNKNOWN_EXTENT = 16


@dataclass(frozen=True)
class LayoutRule:
    """How one node takes part in a layout.

    Attributes:
        rank: the number of spatial axes of its tensors.
        fixed: it is to compute in NHWC whatever its neighbours do; for others the pass chooses.
        inputs: the indices of the inputs that come in the node's layout.
        outputs: the indices of the outputs that leave in it; the others are the same in both.
        constants: the indices of constant inputs to be laid out with the node.
        convert: makes of the node, whose inputs and outputs are in NHWC by then, one that computes so.
        cost: how many elements are passed over in NHWC only.
    """

    rank: int
    fixed: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[int, ...] = ()
    convert: Callable[[ir.Node, NodeEditor], None] = lambda node, editor: None
    cost: int = 0


def spatial_rank(value: ir.Value | None) -> int | None:
    """The number of spatial axes; None where it is not known, or not 1 to 3."""
    if value is None or value.shape is None or not 3 <= len(value.shape) <= 5:
        return None
    return len(value.shape) - 2


def to_nhwc_axis(axis: int, rank: int) -> int:
    """Where an axis of NCHW, counted from either end, is in NHWC."""
    return to_channels_last(rank).index(axis % (rank + 2))


def elements(value: ir.Value) -> int:
    """The size of a tensor, at least 1; a guess where an extent is open."""
    count = 1
    for dim in value.shape or ():
        count *= dim if isinstance(dim, int) else _UNKNOWN_EXTENT
    return max(count, 1)


def has_input(node: ir.Node, index: int) -> bool:
    return index < len(node.inputs) and node.inputs[index] is not None
