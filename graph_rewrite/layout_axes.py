"""NHWC for the operators that name axes: their axes, and what they have for each axis, move with the data."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import constant, is_constant
from ort_cks.graph_rewrite.function_body import to_channels_first, to_channels_last
from ort_cks.graph_rewrite.layout_pooling import mean_by_pool, mean_pools_faster
from ort_cks.graph_rewrite.layout_rule import LayoutRule, has_input, spatial_rank, to_nhwc_axis
from ort_cks.graph_rewrite.node_editor import NodeEditor

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
REDUCTIONS = tuple(f"Reduce{name}" for name in _REDUCTIONS)


def split(node: ir.Node) -> LayoutRule | None:
    return _along_axis(node, 0, tuple(range(len(node.outputs))))


def normalization(node: ir.Node) -> LayoutRule | None:
    """Softmax and its like of opset 13 and newer, and LpNormalization: what an axis has is normalized."""
    return _along_axis(node, -1, (0,))


def arg_reduction(node: ir.Node) -> LayoutRule | None:
    """ArgMax and ArgMin."""
    rule = _along_axis(node, 0, (0,))
    if rule is None:
        return None
    return _with_outputs_of_reduction(node, rule, [node.attributes.get_int("axis", 0)])


def _along_axis(node: ir.Node, default: int, outputs: tuple[int, ...]) -> LayoutRule | None:
    rank = spatial_rank(node.inputs[0])
    if rank is None:
        return None
    return LayoutRule(rank, False, (0,), outputs, convert=relabel_axis(rank, default))


def relabel_axis(rank: int, default: int = 0) -> Callable[[ir.Node, NodeEditor], None]:
    def relabel(node: ir.Node, _: NodeEditor) -> None:
        axis = to_nhwc_axis(node.attributes.get_int("axis", default), rank)
        node.attributes["axis"] = ir.AttrInt64("axis", axis)

    return relabel


def cumulative_sum(node: ir.Node) -> LayoutRule | None:
    rank, axis = spatial_rank(node.inputs[0]), constant(node.inputs[1])
    if rank is None or axis is None:
        return None

    def convert(node: ir.Node, editor: NodeEditor) -> None:
        moved = axis * 0 + to_nhwc_axis(int(axis.reshape(())), rank)  # of the same type and rank
        node.replace_input_with(1, editor.array(moved, "axis"))

    return LayoutRule(rank, False, (0,), (0,), convert=convert)


def reduction(node: ir.Node) -> LayoutRule | None:
    rank, axes = spatial_rank(node.inputs[0]), _axes(node, 1)
    if rank is None or axes is None:
        return None
    if not axes:  # none is named, so all are reduced
        if node.attributes.get_int("noop_with_empty_axes", 0):
            return None
        axes = list(range(rank + 2))

    def convert(node: ir.Node, editor: NodeEditor) -> None:
        moved = sorted(to_nhwc_axis(axis, rank) for axis in axes)
        is_mean_of_map = node.op_type == "ReduceMean" and moved == list(range(1, rank + 1))
        if is_mean_of_map and mean_pools_faster(node.inputs[0]):
            keepdims = bool(node.attributes.get_int("keepdims", 1))
            editor.replace(mean_by_pool(node.inputs[0], editor, keepdims))
        elif "axes" in node.attributes:
            node.attributes["axes"] = ir.AttrInt64s("axes", moved)
        elif has_input(node, 1):
            node.replace_input_with(1, editor.ints(moved, "axes"))

    return _with_outputs_of_reduction(node, LayoutRule(rank, False, (0,), (0,), convert=convert), axes)


def _with_outputs_of_reduction(node: ir.Node, rule: LayoutRule, axes: Sequence[int]) -> LayoutRule | None:
    """Without keepdims a result has no layout; None where the axes that it keeps change their order."""
    if node.attributes.get_int("keepdims", 1):
        return rule
    reduced = {axis % (rule.rank + 2) for axis in axes}
    kept = [axis for axis in to_channels_last(rule.rank) if axis not in reduced]
    return LayoutRule(rule.rank, False, (0,), (), convert=rule.convert) if kept == sorted(kept) else None


def slice_(node: ir.Node) -> LayoutRule | None:
    rank = spatial_rank(node.inputs[0])
    axes = _axes(node, 3)
    if rank is None or axes is None:
        return None
    if not axes:  # the first ones, as many as there are starts
        starts = node.attributes.get_ints("starts")
        count = node.inputs[1].shape[0] if has_input(node, 1) and node.inputs[1].shape else None
        count = len(starts) if starts is not None else count
        if not isinstance(count, int):
            return None
        axes = list(range(count))

    def convert(node: ir.Node, editor: NodeEditor) -> None:
        moved = [to_nhwc_axis(axis, rank) for axis in axes]
        if has_input(node, 1):  # opset 10 and newer; all are of one integer type
            node.resize_inputs(max(len(node.inputs), 4))
            dtype = node.inputs[1].dtype.numpy()
            node.replace_input_with(3, editor.array(np.array(moved, dtype), "axes"))
        else:
            node.attributes["axes"] = ir.AttrInt64s("axes", moved)

    return LayoutRule(rank, False, (0,), (0,), convert=convert)


def pad(node: ir.Node) -> LayoutRule | None:
    rank = spatial_rank(node.inputs[0])
    if rank is None:
        return None
    order = to_channels_last(rank)
    both_sides = [*order, *(axis + rank + 2 for axis in order)]
    if has_input(node, 3):  # opset 18 and newer
        axes = constant(node.inputs[3])

        def convert(node: ir.Node, editor: NodeEditor) -> None:
            moved = [to_nhwc_axis(int(axis), rank) for axis in axes]
            node.replace_input_with(3, editor.array(axes * 0 + moved, "axes"))

        return None if axes is None else LayoutRule(rank, False, (0,), (0,), convert=convert)

    def convert_all(node: ir.Node, editor: NodeEditor) -> None:
        if has_input(node, 1):  # opset 11 and newer
            node.replace_input_with(1, editor.select(node.inputs[1], both_sides, "pads"))
        else:
            pads = node.attributes["pads"].as_ints()
            node.attributes["pads"] = ir.AttrInt64s("pads", [pads[i] for i in both_sides])

    return LayoutRule(rank, False, (0,), (0,), convert=convert_all)


def expand(node: ir.Node) -> LayoutRule | None:
    rank = spatial_rank(node.inputs[0])
    shape = node.inputs[1].shape
    if rank is None or spatial_rank(node.outputs[0]) != rank or shape is None:
        return None
    given = shape[0]
    if not isinstance(given, int) or given > rank + 2:
        return None
    missing = rank + 2 - given  # in front, where an Expand takes them to be 1
    order = [None if axis < missing else axis - missing for axis in to_channels_last(rank)]

    def convert(node: ir.Node, editor: NodeEditor) -> None:
        node.replace_input_with(1, editor.select(node.inputs[1], order, "shape"))

    return LayoutRule(rank, False, (0,), (0,), convert=convert)


def shape_of(node: ir.Node) -> LayoutRule | None:
    """Shape: a few integers are put in order again, so that no tensor is transposed to be measured."""
    rank = spatial_rank(node.inputs[0])
    if rank is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", rank + 2)
    order = to_channels_first(rank)[slice(start, end)]

    def convert(node: ir.Node, editor: NodeEditor) -> None:
        whole = editor.op("Shape", node.inputs[0], shape=[rank + 2])
        editor.replace(editor.select(whole, order, "shape"))

    return LayoutRule(rank, False, (0,), (), convert=convert, cost=1) if order else None


def _axes(node: ir.Node, index: int) -> list[int] | None:
    """The axes that an attribute or the input at the index gives, none where nothing does; None where they
    are not constant.
    """
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    if not has_input(node, index):
        return []
    if not is_constant(node.inputs[index]):
        return None
    return [int(axis) for axis in constant(node.inputs[index])]
