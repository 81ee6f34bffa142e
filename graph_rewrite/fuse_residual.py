"""The Add of a residual connection becomes the fourth input of the convolution in front of it."""

from collections.abc import Mapping

import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import absorb, only_consumer
from ort_cks.graph_rewrite.constants import ConstantFactory
from ort_cks.graph_rewrite.convolution_weights import ensure_bias
from ort_cks.graph_rewrite.records import NodeRecord
from ort_cks.graph_rewrite.symbolic_shapes import SymbolicShapes


class FuseResidualPass(ir.passes.InPlacePass):
    """Add(Y, Z) with Y from a swapped convolution and nobody else reading it, and Z of exactly Y's shape.

    The node moves to the Add's place, where Z is known. Z cannot depend on Y, because the Add is all that
    reads Y. Where two convolutions meet in an Add, the later one takes it.
    """

    def __init__(self, records: Mapping[ir.Node, NodeRecord], shapes: SymbolicShapes):
        super().__init__()
        self._records = records
        self._shapes = shapes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        constants, modified = ConstantFactory(model), False
        for node, record in reversed(self._records.items()):
            y, add = node.outputs[0], only_consumer(node.outputs[0])
            if (
                add is None
                or add.op_type not in ("Add", "Sum")
                or add.domain not in ("", "ai.onnx")
                or len(add.inputs) != 2
            ):
                continue
            z = add.inputs[1] if add.inputs[0] is y else add.inputs[0]
            if z.dtype != y.dtype or not self._shapes.same(y, z):
                continue
            if not ensure_bias(node, y.shape[1], constants):
                continue
            node.resize_inputs(4)
            node.replace_input_with(3, z)
            graph = node.graph
            graph.remove(node)
            graph.insert_before(add, node)
            absorb(node, [add])
            record.fused.append("residual Add")
            modified = True
        return ir.passes.PassResult(model, modified=modified)
