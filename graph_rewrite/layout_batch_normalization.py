"""A BatchNormalization that no convolution took in is a Mul and an Add in NHWC: a number a channel each."""

import onnx_ir as ir

from ort_cks.graph_rewrite.batch_normalization import scale_and_shift
from ort_cks.graph_rewrite.constants import fits
from ort_cks.graph_rewrite.layout_rule import LayoutRule, elements, spatial_rank
from ort_cks.graph_rewrite.node_editor import NodeEditor


def batch_normalization(node: ir.Node) -> LayoutRule | None:
    x = node.inputs[0]
    rank = spatial_rank(x)
    if rank is None or x.dtype is None or not isinstance(x.shape[1], int):
        return None
    both = scale_and_shift(node, x.shape[1])
    if both is None or not all(fits(values, x.dtype) for values in both):
        return None

    def convert(node: ir.Node, editor: NodeEditor) -> None:
        shape = node.outputs[0].shape
        scale, shift = (values.astype(x.dtype.numpy()) for values in both)
        scaled = editor.op("Mul", node.inputs[0], editor.array(scale, "scale"), shape=shape)
        editor.replace(editor.op("Add", scaled, editor.array(shift, "shift"), shape=shape))

    # The second of the two kernels passes over the data once more.
    return LayoutRule(rank, False, (0,), (0,), convert=convert, cost=elements(x))
