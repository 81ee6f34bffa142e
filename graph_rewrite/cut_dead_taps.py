"""Rows, columns and planes of a filter that meet padding at every output are cut from the weights.

A 3x3 convolution with dilation 36 on a 33x33 map becomes a 1x1; a 4x4 transposed one with stride 2 and pad 1
on a 1x1 map becomes a 2x2 without pads. Standard ONNX says both, so sessions without the library profit too.
"""

from collections.abc import Mapping

import onnx_ir as ir

from ort_cks.graph_rewrite.constants import ConstantFactory, derived, is_constant
from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.geometry import cut_dead_taps
from ort_cks.graph_rewrite.records import NodeRecord


class CutDeadTapsPass(ir.passes.InPlacePass):
    """Cuts constant weights where all shapes are static. Other readers of the weights keep all of them."""

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        constants, modified = ConstantFactory(model), False
        for node, record in self._records.items():
            conv = Convolution(node)
            axes = conv.axes()
            if axes is None or not is_constant(conv.w):
                continue
            cuts = [cut_dead_taps(axis) for axis in axes]
            after = [axis for _, axis in cuts]
            if [a.kernel for a in after] == [a.kernel for a in axes]:
                continue
            taps = (slice(None), slice(None), *(kept for kept, _ in cuts))
            source = ir.convenience.get_const_tensor(conv.w)
            shape = (*source.shape.numpy()[:2], *(axis.kernel for axis in after))
            cut = derived(source, lambda w, taps=taps: w[taps], shape)
            node.replace_input_with(1, constants.add(node.graph, f"{node.name}.weight_cut", cut))
            conv.write(after)
            sizes = ("x".join(str(axis.kernel) for axis in side) for side in (axes, after))
            record.reason = "filter cut from {} to {}".format(*sizes)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
