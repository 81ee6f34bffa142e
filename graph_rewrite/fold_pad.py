"""A Pad with zeros in front of a Conv becomes part of its pads: pads are what the operators skip."""

from collections.abc import Mapping

import onnx_ir as ir

from ort_cks.graph_rewrite.constants import constant, scalar
from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.records import NodeRecord


class FoldPadPass(ir.passes.InPlacePass):
    """Lets a Conv read the Pad's input instead of its output; the Pad goes when nobody else reads it.

    Holds for a Pad of mode "constant", value 0 and known, non-negative pads on spatial axes only, and a Conv
    with explicit pads. Not for ConvTranspose, whose pads mean the opposite.
    """

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node, record in self._records.items():
            while node.op_type == "Conv" and self._fold(Convolution(node)):
                record.fused.append("Pad")
                modified = True
        return ir.passes.PassResult(model, modified=modified)

    @staticmethod
    def _fold(conv: Convolution) -> bool:
        pad = conv.x.producer()
        if pad is None or pad.op_type != "Pad" or pad.domain or conv.auto_pad != "NOTSET":
            return False
        more = zero_pads(pad, conv.rank + 2)
        if more is None or any(more[axis] != (0, 0) for axis in (0, 1)):
            return False
        conv.node.replace_input_with(0, pad.inputs[0])
        conv.write_pads([(a + c, b + d) for (a, b), (c, d) in zip(conv.pads, more[2:], strict=True)])
        return True


def zero_pads(pad: ir.Node, rank: int) -> list[tuple[int, int]] | None:
    """The zeros that the Pad puts around each of its axes; None where it does anything else."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        return None
    if len(pad.inputs) > 1:  # opset 11 and newer
        flat, axes = constant(pad.inputs[1]), list(range(rank))
        value = scalar(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else 0
        if len(pad.inputs) > 3 and pad.inputs[3] is not None:
            given = constant(pad.inputs[3])
            axes = None if given is None else [int(axis) % rank for axis in given]
    else:
        flat, axes = pad.attributes.get_ints("pads"), list(range(rank))
        value = pad.attributes.get_float("value", 0.0)
    if flat is None or axes is None or value != 0 or len(flat) != 2 * len(axes) or min(flat, default=0) < 0:
        return None
    pads = [(0, 0)] * rank
    for axis, begin, end in zip(axes, flat[: len(axes)], flat[len(axes) :], strict=True):
        pads[axis] = (int(begin), int(end))
    return pads
