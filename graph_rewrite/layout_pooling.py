"""Pooling in NHWC, in standard operators, which know pools of NCHW only.

A 2-D pool of [N, H, W, C] is a 3-D pool of the view [N, 1, H, W, C] whose window is one channel deep. One of
[N, D, H, W, C] would be a 4-D pool, which cuDNN has not: it is a pool over D and H of the view
[N, 1, D, H, W C], and then one over W of [N, 1, D H, W, C]. Both views are free.
"""

from collections.abc import Sequence

import onnx_ir as ir

from ort_cks.graph_rewrite.layout_rule import LayoutRule, spatial_rank
from ort_cks.graph_rewrite.node_editor import NodeEditor

_GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


def runs_well_in_nhwc(node: ir.Node) -> bool:
    """Whether the pool, as it is spelled here, costs less than its NCHW form between two Transposes.

    It reads and writes what the NCHW form does, so it is taken for equal to it; the Transposes are saved.
    """
    return True


def pool(node: ir.Node) -> LayoutRule | None:
    """MaxPool, without its second output, and AveragePool."""
    rank = spatial_rank(node.inputs[0])
    if rank is None or rank != spatial_rank(node.outputs[0]) or any(value.name for value in node.outputs[1:]):
        return None
    if not runs_well_in_nhwc(node):
        return None
    if rank < 3:
        return LayoutRule(rank, False, (0,), (0,), convert=_pool_with_channels_as_an_axis)
    x, y = node.inputs[0].shape, node.outputs[0].shape
    if not all(isinstance(dim, int) for dim in (*x[1:], *y[1:])):
        return None
    return LayoutRule(rank, False, (0,), (0,), convert=_pool_in_two)


def global_pool(node: ir.Node) -> LayoutRule | None:
    rank = spatial_rank(node.inputs[0])

    def convert(node: ir.Node, editor: NodeEditor) -> None:
        axes, shape = list(range(1, rank + 1)), node.outputs[0].shape
        editor.replace(editor.over_axes(_GLOBAL[node.op_type], node.inputs[0], axes, shape=shape))

    return None if rank is None else LayoutRule(rank, False, (0,), (0,), convert=convert)


def _pool_with_channels_as_an_axis(node: ir.Node, editor: NodeEditor) -> None:
    n, *extents = node.outputs[0].shape
    rank = len(extents) - 1
    y = editor.op(
        node.op_type,
        editor.unsqueeze(node.inputs[0], 1),
        shape=[n, 1, *extents],
        attributes=_window(node, [*range(rank), None]),
    )
    editor.replace(editor.squeeze(y, 1))


def _pool_in_two(node: ir.Node, editor: NodeEditor) -> None:
    n, d, h, w, c = node.inputs[0].shape
    _, d_out, h_out, w_out, _ = node.outputs[0].shape
    planes = editor.reshape(node.inputs[0], [0, 1, d, h, w * c], [n, 1, d, h, w * c])
    attributes = _window(node, [0, 1, None])
    y = editor.op(node.op_type, planes, shape=[n, 1, d_out, h_out, w * c], attributes=attributes)
    rows = editor.reshape(y, [0, 1, d_out * h_out, w, c], [n, 1, d_out * h_out, w, c])
    attributes = _window(node, [None, 2, None])
    y = editor.op(node.op_type, rows, shape=[n, 1, d_out * h_out, w_out, c], attributes=attributes)
    editor.replace(editor.reshape(y, [0, d_out, h_out, w_out, c], node.outputs[0].shape))


def _window(node: ir.Node, axes: Sequence[int | None]) -> dict[str, ir.Attr]:
    """The node's attributes for some of its spatial axes; None is an axis that is not pooled."""
    attributes = {name: attr for name, attr in node.attributes.items() if name != "storage_order"}
    for name, unpooled in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
        if name in attributes:
            given = attributes[name].as_ints()
            attributes[name] = ir.AttrInt64s(name, [unpooled if a is None else given[a] for a in axes])
    if "pads" in attributes:
        given = attributes["pads"].as_ints()
        rank = len(given) // 2
        begins = [0 if a is None else given[a] for a in axes]
        ends = [0 if a is None else given[a + rank] for a in axes]
        attributes["pads"] = ir.AttrInt64s("pads", begins + ends)
    return attributes
