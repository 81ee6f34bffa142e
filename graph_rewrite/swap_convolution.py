"""Conv and ConvTranspose become operators of the ort_cks domain, in place: name, inputs and outputs stay."""

from collections.abc import Mapping

import onnx_ir as ir

from ort_cks.graph_rewrite.constants import is_constant
from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.operators import DOMAIN
from ort_cks.graph_rewrite.records import NodeRecord


class SwapConvolutionPass(ir.passes.InPlacePass):
    """Conv -> ConvV2, or SkDilated where a dilation exceeds 1; ConvTranspose -> KSDeconv."""

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node, record in self._records.items():
            record.reason = _reason(record, Convolution(node))
            node.op_type = record.new_op = _operator(Convolution(node))
            node.domain, node.version = DOMAIN, None
            record.decision = "swapped"
            dtype = next(
                value.dtype for value in (*node.inputs[:2], node.outputs[0]) if value.dtype is not None
            )
            node.outputs[0].dtype = dtype
        if self._records:
            model.opset_imports[DOMAIN] = 1
        return ir.passes.PassResult(model, modified=bool(self._records))


def _operator(conv: Convolution) -> str:
    if conv.transposed:
        return "KSDeconv"
    return "SkDilated" if any(dilation > 1 for dilation in conv.dilations) else "ConvV2"


def _reason(record: NodeRecord, conv: Convolution) -> str:
    reasons = [record.reason] if record.reason else []  # that its filter was cut
    if record.zero_fraction is None:
        reasons.append("its zeros depend on each run's shapes")
    elif record.zero_fraction >= 0.005:
        reasons.append("its zeros are skipped")
    else:
        reasons.append("no zeros, but fewer kernels")
    if not is_constant(conv.w):
        reasons.append("weights come at run time and are packed on every run")
    return "; ".join(reasons)
