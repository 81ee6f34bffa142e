"""Every attribute written out, so that later passes and the kernels need not resolve auto_pad or
output_shape.
"""

from collections.abc import Iterable

import onnx_ir as ir

from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.geometry import Axis, same_pads


class ExplicitAttributesPass(ir.passes.InPlacePass):
    """Writes kernel_shape, strides, dilations and pads.

    auto_pad stays where the pads depend on an extent that is only known in a run: SAME on a strided Conv.
    output_shape stays where pads cannot express it, or depend on such an extent.
    """

    def __init__(self, nodes: Iterable[ir.Node]):
        super().__init__()
        self._nodes = list(nodes)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in self._nodes:
            conv = Convolution(node)
            axes = conv.axes()
            if axes is not None:
                conv.write(axes)
            elif (pads := _fixed_pads(conv)) is not None:
                conv.write_pads(pads)
        return ir.passes.PassResult(model, modified=bool(self._nodes))


def _fixed_pads(conv: Convolution) -> list[tuple[int, int]] | None:
    """The pads, where they are the same for every input extent."""
    strides, kernel = conv.spatial("strides", 1), conv.kernel_shape
    if "output_shape" in conv.node.attributes:
        return None
    if not conv.auto_pad.startswith("SAME"):
        return conv.pads
    if kernel is None or (not conv.transposed and any(stride > 1 for stride in strides)):
        return None
    extra = conv.spatial("output_padding", 0)
    return [
        same_pads(Axis(conv.transposed, 1, k, s, d, output_padding=e), conv.auto_pad)
        for k, s, d, e in zip(kernel, strides, conv.dilations, extra, strict=True)
    ]
