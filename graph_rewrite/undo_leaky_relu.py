"""A LeakyRelu beside residual connections goes into the operator in front of it, and they undo it.

In x + conv(LeakyRelu(x)) the LeakyRelu cannot simply move into the operator that makes x: x itself is needed
too, as the residual. But a LeakyRelu with a positive alpha loses nothing: x = y < 0 ? y / alpha : y. So the
operator makes y alone, and the one that adds the residual is told the alpha.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import absorb
from ort_cks.graph_rewrite.constants import ConstantFactory
from ort_cks.graph_rewrite.recognize_activation import Activation, of_node
from ort_cks.graph_rewrite.records import NodeRecord

_RESIDUAL = 3  # the index of Z
# float16 thins out below 6e-5, where y has few digits: a smaller alpha would take them from larger x.
_LEAST_ALPHA = float(np.float32(0.01))


class UndoLeakyReluPass(ir.passes.InPlacePass):
    """Where nothing reads a value but LeakyRelus of one alpha and, as residual, swapped operators."""

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        names, modified = ConstantFactory(model), False
        for node, record in self._records.items():
            readers = self._readers(node)
            if readers is None:
                continue
            activation, leaky_relus, residuals = readers
            node.attributes["activation"] = ir.AttrString("activation", activation.name)
            node.attributes["activation_params"] = ir.AttrFloat32s("activation_params", activation.params)
            for leaky_relu in leaky_relus:
                absorb(node, [leaky_relu])
            if residuals:  # they mean another value in the native model, whose name this must not have
                node.outputs[0].name = names.free_name(f"{node.outputs[0].name}_and_residual")
            for reader in residuals:
                reader.attributes["residual_alpha"] = ir.AttrFloat32("residual_alpha", activation.params[0])
            record.fused.append(activation.name)
            modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _readers(self, node: ir.Node) -> tuple[Activation, list[ir.Node], list[ir.Node]] | None:
        """The one activation, the LeakyRelus that are it, and the operators that add what they read."""
        y = node.outputs[0]
        if "activation" in node.attributes or y.is_graph_output():
            return None
        activations, leaky_relus, residuals = set(), [], []
        for reader, index in y.uses():
            if reader.graph is not node.graph:
                return None
            if reader in self._records and index == _RESIDUAL:
                residuals.append(reader)
            elif reader.op_type == "LeakyRelu" and not reader.outputs[0].is_graph_output():
                activations.add(of_node(reader))
                leaky_relus.append(reader)
            else:
                return None
        if len(activations) != 1:
            return None
        (activation,) = activations
        if activation is None or activation.params[0] < _LEAST_ALPHA:
            return None
        return activation, leaky_relus, residuals
