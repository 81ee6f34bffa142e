"""Relu(LeakyRelu(x)) = Relu(x), read from left to right or back, whichever leaves fewer kernels.

The skip connections of an image translator hand one convolution's output to a LeakyRelu, on the way down, and
to a Relu, on the way up. If the Relu reads the LeakyRelu's output instead, the LeakyRelu alone reads the
convolution, and becomes part of it.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import only_consumer
from ort_cks.graph_rewrite.recognize_activation import of_node, slopes_below_zero
from ort_cks.graph_rewrite.records import NodeRecord


class SimplifyRelusPass(ir.passes.InPlacePass):
    """Holds for LeakyRelu and PRelu whose slopes are not negative, and for Relu itself."""

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for graph in model.graphs():
            for node in graph:
                if _is_relu(node):
                    modified |= _skip_leaky_relu(node)
                elif of_node(node) and _keeps_what_relu_keeps(node):  # it can become the convolution's own
                    modified |= node.inputs[0].producer() in self._records and _let_relus_read(node)
        return ir.passes.PassResult(model, modified=modified)


def _skip_leaky_relu(relu: ir.Node) -> bool:
    """Drops what stands in front of the Relu, where nothing else needs it."""
    before = relu.inputs[0].producer()
    if before is None or not _keeps_what_relu_keeps(before) or only_consumer(relu.inputs[0]) is not relu:
        return False
    relu.replace_input_with(0, before.inputs[0])
    before.graph.remove(before, safe=True)
    return True


def _let_relus_read(leaky_relu: ir.Node) -> bool:
    """Hands the Relus beside a LeakyRelu its output, where it then alone reads their common input."""
    x = leaky_relu.inputs[0]
    others = [user for user, _ in x.uses() if user is not leaky_relu]
    if not others or x.is_graph_output() or not all(_is_relu(user) for user in others):
        return False
    if any(user.graph is not x.producer().graph for user in (leaky_relu, *others)):
        return False
    leaky_relu.graph.remove(leaky_relu)
    x.producer().graph.insert_after(x.producer(), leaky_relu)
    for user in others:
        user.replace_input_with(0, leaky_relu.outputs[0])
    return True


def _is_relu(node: ir.Node) -> bool:
    return node.op_type == "Relu" and node.domain in ("", "ai.onnx")


def _keeps_what_relu_keeps(node: ir.Node) -> bool:
    """Positive values as they are, and no others made positive."""
    slopes = slopes_below_zero(node)
    return slopes is not None and bool(np.all(slopes >= 0))
