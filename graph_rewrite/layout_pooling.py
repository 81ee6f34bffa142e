"""Pooling in NHWC. MaxPool has an operator of ours; standard operators know pools of NCHW only.

A 2-D AveragePool of [N, H, W, C] is a 3-D one of the view [N, 1, H, W, C] whose window is one channel deep.
One of [N, D, H, W, C] would be a 4-D pool, which cuDNN has not: it is a pool over D and H of the view
[N, 1, D, H, W C], and then one over W of [N, 1, D H, W, C]. Both views are free.
"""

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from ort_cks.graph_rewrite.layout_rule import LayoutRule, spatial_rank
from ort_cks.graph_rewrite.node_editor import NodeEditor
from ort_cks.graph_rewrite.operators import DOMAIN, MAX_POOL

_GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
_MAX_POOL_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

# A reduction over H and W of NHWC against a pool with a window of the whole map, microseconds on an H200 in
# float16, onnxruntime 1.31.1 with cuDNN 9.19 (docs/notebook.md):
#                      ReduceMean  AveragePool of the view  ReduceMax  MaxPoolNhwc
#   [128, 4, 4, 512]      39.1             5.5               40.3         3.4
#   [32, 7, 7, 2048]      63.1            11.4               63.9        10.3
#   [32, 16, 16, 512]     81.4            38.1
#   [2, 16, 16, 2048]     30.1            37.4
#   [2, 24, 24, 512]      22.1            80.0
#   [2, 8, 8, 256]         8.5            11.3
#   [1, 65, 65, 2048]     13.3           566.8
# A thread of a pool goes over a whole window, some 0.14 us a pixel however many threads there are; cuDNN's
# reduction takes some 20 us a million elements. So the pool is faster from 7000 results on. A batch of 1 is
# the rows of one matrix, for which ONNX Runtime has a kernel of its own.
_FEWEST_POOLED = 8192
_AVERAGED_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def max_pool(node: ir.Node) -> LayoutRule | None:
    """MaxPool without its second output."""
    rank = _rank(node)
    if rank is None or any(value.name for value in node.outputs[1:]):
        return None
    if node.inputs[0].dtype not in _MAX_POOL_TYPES or _is_same_and_dilated(node):
        return None
    return LayoutRule(rank, False, (0,), (0,), convert=_to_own_operator)


def average_pool(node: ir.Node) -> LayoutRule | None:
    rank = _rank(node)
    if rank is None:
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
        x, y = node.inputs[0], node.outputs[0]
        if node.op_type == "GlobalAveragePool" and mean_pools_faster(x):
            editor.replace(mean_by_pool(x, editor, keepdims=True))
        elif node.op_type == "GlobalMaxPool" and x.dtype in _MAX_POOL_TYPES and _pools_faster(x):
            node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", list(x.shape[1:-1]))
            _to_own_operator(node, editor)
        else:
            axes = list(range(1, rank + 1))
            editor.replace(editor.over_axes(_GLOBAL[node.op_type], x, axes, shape=y.shape))

    return None if rank is None else LayoutRule(rank, False, (0,), (0,), convert=convert)


def mean_pools_faster(x: ir.Value) -> bool:
    """Whether the mean over all spatial axes of x, in NHWC, is faster as a pool than as a ReduceMean."""
    return x.dtype in _AVERAGED_TYPES and _pools_faster(x)


def mean_by_pool(x: ir.Value, editor: NodeEditor, keepdims: bool) -> ir.Value:
    """The mean over all spatial axes of x, in NHWC."""
    n, *extents, c = x.shape
    window = [prod(extents[:-1]), extents[-1]]
    view = editor.reshape(x, [n, 1, *window, c], [n, 1, *window, c])
    attributes = {"kernel_shape": [*window, 1]}
    y = editor.op("AveragePool", view, shape=[n, 1, 1, 1, c], attributes=attributes)
    ones = [1] * len(extents) if keepdims else []
    return editor.reshape(y, [n, *ones, c], [n, *ones, c])


def _pools_faster(x: ir.Value) -> bool:
    batch, channels = x.shape[0], x.shape[-1]
    known = all(isinstance(extent, int) for extent in x.shape)
    return known and batch > 1 and batch * channels >= _FEWEST_POOLED


def _rank(node: ir.Node) -> int | None:
    rank = spatial_rank(node.inputs[0])
    return rank if rank == spatial_rank(node.outputs[0]) else None


def _is_same_and_dilated(node: ir.Node) -> bool:
    """ONNX and ONNX Runtime do not agree on the padding of such a pool."""
    same = node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
    return same and any(dilation > 1 for dilation in node.attributes.get_ints("dilations", ()))


def _to_own_operator(node: ir.Node, _: NodeEditor) -> None:
    node.op_type, node.domain, node.version = MAX_POOL, DOMAIN, None
    node.attributes.pop("storage_order", None)
    node.resize_outputs(1)


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
    attributes = dict(node.attributes)
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
