"""NHWC for what changes the size of a map: Resize, Upsample, DepthToSpace, SpaceToDepth.

Of a Resize, ONNX Runtime's CUDA kernel takes "nearest" in any layout. "linear" it takes for the last two or
three axes, so in NHWC a 2-D one is a 3-D one of the view [N, 1, H, W, C] that keeps C: it reads twice as many
elements, which lie in cache, and saves two Transposes. "cubic" and 3-D "linear" stay NCHW.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import constant, is_constant
from ort_cks.graph_rewrite.function_body import to_channels_last
from ort_cks.graph_rewrite.layout_rule import LayoutRule, has_input, spatial_rank, to_nhwc_axis
from ort_cks.graph_rewrite.node_editor import NodeEditor


def resize(node: ir.Node) -> LayoutRule | None:
    """Resize and, before opset 10, Upsample."""
    attributes = node.attributes
    rank = spatial_rank(node.inputs[0])
    if rank is None or rank != spatial_rank(node.outputs[0]) or "scales" in attributes:  # until opset 8
        return None
    crops = attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    stretches = attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    if crops or not stretches:
        return None
    mode = attributes.get_string("mode", "nearest")
    if _repeats_one_pixel(node):
        return LayoutRule(rank, False, (0,), (0,), convert=_expand)
    if "axes" in attributes:
        return LayoutRule(rank, False, (0,), (0,), convert=_relabel_axes) if mode == "nearest" else None
    if mode == "nearest":
        return LayoutRule(rank, False, (0,), (0,), convert=_reorder)
    if mode == "linear" and rank < 3 and not attributes.get_int("antialias", 0):
        return LayoutRule(rank, False, (0,), (0,), convert=_resize_with_channels_as_an_axis)
    return None


def _repeats_one_pixel(node: ir.Node) -> bool:
    """Whether a map of one pixel is resized: every interpolation within the map gives that pixel again.

    With exclude_outside a weight of zero may be all that is left of it, and 0 / 0.
    """
    x, y = node.inputs[0].shape, node.outputs[0].shape
    known = y is not None and _is_static(y[2:])
    return (
        all(dim == 1 for dim in x[2:])
        and (known or (has_input(node, 3) and "axes" not in node.attributes))
        and _keeps_batch_and_channels(node)
        and not node.attributes.get_int("exclude_outside", 0)
    )


def _keeps_batch_and_channels(node: ir.Node) -> bool:
    """Only "nearest" may resize them, and nobody does; but where it is not ruled out, nothing rests on it."""
    if node.attributes.get_string("mode", "nearest") != "nearest":
        return True
    x, y = node.inputs[0].shape[:2], (node.outputs[0].shape or ())[:2]
    scales = constant(node.inputs[_scales_index(node)]) if has_input(node, _scales_index(node)) else None
    static = _is_static(x) and tuple(x) == tuple(y)
    return static or (scales is not None and len(scales) > 2 and all(scales[:2] == 1))


def _scales_index(node: ir.Node) -> int:
    return 1 if len(node.inputs) == 2 else 2  # 2 since opset 11, behind roi


def _expand(node: ir.Node, editor: NodeEditor) -> None:
    y = node.outputs[0].shape
    if y is not None and _is_static(y[1:-1]):
        target = editor.ints([1, *y[1:-1], 1], "shape")
    else:
        target = editor.select(node.inputs[3], to_channels_last(len(node.inputs[0].shape) - 2), "shape")
    editor.replace(editor.op("Expand", node.inputs[0], target, shape=y))


def _relabel_axes(node: ir.Node, editor: NodeEditor) -> None:
    rank = len(node.inputs[0].shape) - 2
    moved = [to_nhwc_axis(axis, rank) for axis in node.attributes["axes"].as_ints()]
    node.attributes["axes"] = ir.AttrInt64s("axes", moved)


def _reorder(node: ir.Node, editor: NodeEditor) -> None:
    _reorder_sizes(node, to_channels_last(len(node.inputs[0].shape) - 2), editor)


def _reorder_sizes(node: ir.Node, order: Sequence[int | None], editor: NodeEditor) -> None:
    """Puts scales and sizes, whichever there are, in this order; what is new keeps its size."""
    for index in range(1, len(node.inputs)):
        value = node.inputs[index]
        if value is None or (is_constant(value) and constant(value).size == 0):
            continue
        if index < _scales_index(node):  # roi, which only tf_crop_and_resize reads
            node.replace_input_with(index, editor.array(np.empty(0, value.dtype.numpy()), "roi"))
        else:
            node.replace_input_with(index, editor.select(value, order, "sizes"))


def _resize_with_channels_as_an_axis(node: ir.Node, editor: NodeEditor) -> None:
    rank = len(node.inputs[0].shape) - 2
    n, *extents = node.outputs[0].shape
    _reorder_sizes(node, [0, None, *range(2, rank + 2), 1], editor)
    x = editor.unsqueeze(node.inputs[0], 1)
    shape = [n, 1, *extents]
    y = editor.op(node.op_type, x, *node.inputs[1:], shape=shape, attributes=node.attributes)
    editor.replace(editor.squeeze(y, 1))


def depth_to_space(node: ir.Node) -> LayoutRule | None:
    """One Transpose of rows of channels, which is what ONNX Runtime runs for NCHW too."""

    def convert(node: ir.Node, editor: NodeEditor) -> None:
        x, y = node.inputs[0], node.outputs[0].shape
        n, h, w, c = x.shape
        b = node.attributes["blocksize"].as_int()
        column_row = node.attributes.get_string("mode", "DCR") == "CRD"
        blocks = [c // b**2, b, b] if column_row else [b, b, c // b**2]
        order = [0, 1, 4, 2, 5, 3] if column_row else [0, 1, 3, 2, 4, 5]
        moved = _move_blocks(editor, x, [0, 0, 0, *blocks], [n, h, w, *blocks], order)
        if _is_static(y[1:]):
            editor.replace(editor.reshape(moved, [0, *y[1:]], y))
            return
        size = editor.op("Shape", x, shape=[4], dtype=ir.DataType.INT64)
        for op_type, by in (("Mul", [1, b, b, 1]), ("Div", [1, 1, 1, b**2])):
            size = editor.op(op_type, size, editor.ints(by, "by"), shape=[4], dtype=ir.DataType.INT64)
        editor.replace(editor.op("Reshape", moved, size, shape=y))

    return _block_rule(node, convert) if isinstance(_channels(node), int) else None


def space_to_depth(node: ir.Node) -> LayoutRule | None:
    def convert(node: ir.Node, editor: NodeEditor) -> None:
        x, y = node.inputs[0], node.outputs[0].shape
        n, h, w, c = x.shape
        b = node.attributes["blocksize"].as_int()
        split = [h // b, b, w // b, b, c]
        moved = _move_blocks(editor, x, [0, *split], [n, *split], [0, 1, 3, 2, 4, 5])
        editor.replace(editor.reshape(moved, [0, *y[1:]], y))

    x, y = node.inputs[0].shape, node.outputs[0].shape
    known = x is not None and y is not None and _is_static((*x[1:], *y[1:]))
    return _block_rule(node, convert) if known else None


def _block_rule(node: ir.Node, convert: Callable[[ir.Node, NodeEditor], None]) -> LayoutRule | None:
    ranks = spatial_rank(node.inputs[0]), spatial_rank(node.outputs[0])
    return LayoutRule(2, False, (0,), (0,), convert=convert) if ranks == (2, 2) else None


def _channels(node: ir.Node) -> int | ir.SymbolicDim | None:
    shape = node.inputs[0].shape
    return shape[1] if shape is not None and len(shape) == 4 else None


def _move_blocks(
    editor: NodeEditor, x: ir.Value, target: Sequence[int], split: Sequence, order: Sequence[int]
) -> ir.Value:
    """Splits axes, by a Reshape's target that gives the shape `split`, and moves the parts."""
    parts = editor.reshape(x, target, split)
    shape = [split[axis] for axis in order]
    return editor.op("Transpose", parts, shape=shape, attributes={"perm": list(order)})


def _is_static(dims: Sequence[int | ir.SymbolicDim]) -> bool:
    return all(isinstance(dim, int) for dim in dims)
