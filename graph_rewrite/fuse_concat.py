"""The Concat of a skip connection goes: the convolutions behind it read its two inputs themselves."""

from collections.abc import Mapping

import onnx_ir as ir

from ort_cks.graph_rewrite.constants import ConstantFactory
from ort_cks.graph_rewrite.convolution_weights import ensure_bias
from ort_cks.graph_rewrite.operators import CONVOLUTIONS, DOMAIN, reads_two
from ort_cks.graph_rewrite.records import NodeRecord

# What the kernels of a GPU read two tensors in place by: whole blocks of X's channels, whole chunks of X2's.
_BLOCK_BYTES, _CHUNK_BYTES = 128, 16
# Before, the branches of an If must have one shape; those of the fallback choose between X and the Concat.
_FIRST_OPSET = 11


class FuseConcatPass(ir.passes.InPlacePass):
    """Concat([X, X2]) along the channels of NHWC, where swapped convolutions alone read it, as their X.

    A convolution that cannot read the two in place copies them first, which is what the Concat did; where
    there are several readers, each would. So then all must be able to.
    """

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        constants, modified = ConstantFactory(model), False
        if model.opset_imports[""] < _FIRST_OPSET:
            return ir.passes.PassResult(model, modified)
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if not _joins_channels(node):
                continue
            readers = [reader for reader, _ in node.outputs[0].uses()]
            if not all(reader in self._records for reader in readers):
                continue
            if len(readers) > 1 and not all(_reads_in_place(reader, *node.inputs) for reader in readers):
                continue
            for reader in readers:
                self._take_in(reader, *node.inputs, constants)
            node.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _take_in(self, node: ir.Node, x: ir.Value, x2: ir.Value, constants: ConstantFactory) -> None:
        ensure_bias(node, node.outputs[0].shape[-1], constants)
        node.replace_input_with(0, x)
        node.resize_inputs(len(node.inputs) + 1)
        node.replace_input_with(len(node.inputs) - 1, x2)
        node.attributes["concat"] = ir.AttrInt64("concat", 1)
        self._records[node].fused.insert(0, "Concat")


def _joins_channels(node: ir.Node) -> bool:
    """Whether it is a Concat of two, along the last axis, for convolutions in NHWC and nobody else."""
    if node.op_type != "Concat" or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
        return False
    y = node.outputs[0]
    if y.shape is None or y.is_graph_output() or not y.uses():
        return False
    return node.attributes["axis"].as_int() % len(y.shape) == len(y.shape) - 1 and all(
        index == 0 and _is_ours(reader) for reader, index in y.uses()
    )


def _is_ours(node: ir.Node) -> bool:
    y = node.outputs[0]
    return (
        node.domain == DOMAIN
        and node.op_type in CONVOLUTIONS
        and node.attributes.get_string("layout", "NCHW") == "NHWC"
        and not reads_two(node)
        and y.shape is not None
        and isinstance(y.shape[-1], int)
    )


def _reads_in_place(node: ir.Node, x: ir.Value, x2: ir.Value) -> bool:
    if node.attributes.get_int("group", 1) > 1:
        return False
    return all(
        value.shape is not None
        and isinstance(value.shape[-1], int)
        and value.shape[-1] * node.outputs[0].dtype.itemsize % unit == 0
        for value, unit in ((x, _BLOCK_BYTES), (x2, _CHUNK_BYTES))
    )
