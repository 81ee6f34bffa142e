"""A Transpose to or from NHWC goes where few channels pass: the convolution reads or writes NCHW itself."""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import absorb, only_consumer
from ort_cks.graph_rewrite.cancel_transposes import permutation_of
from ort_cks.graph_rewrite.function_body import to_channels_first, to_channels_last
from ort_cks.graph_rewrite.operators import CONVOLUTIONS, DOMAIN, layouts, reads_two, residual, set_layouts
from ort_cks.graph_rewrite.records import NodeRecord

_FEW, _CHUNK_BYTES = 4, 16


class FuseTransposePass(ir.passes.InPlacePass):
    """A Transpose in front of swapped convolutions, which alone read it, as X, or behind one.

    The kernels of a GPU for few channels step through X and through Y in either layout, which takes less
    than a Transpose. For X that is up to four channels, of a Conv of one group. For Y it is up to four
    channels, or such as do not fill whole chunks of 16 bytes, of one group and without a residual. With more
    channels the fastest kernels know NHWC only. Of a single channel the Transpose is a Reshape, which costs
    nothing.
    """

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node, record in self._records.items():
            if not _is_ours(node):
                continue
            if self._reads_transposed(node):
                transpose = node.inputs[0].producer()
                node.replace_input_with(0, transpose.inputs[0])
                if not transpose.outputs[0].uses():
                    transpose.graph.remove(transpose, safe=True)
                set_layouts(node, "NCHW", layouts(node)[1])
                record.fused.insert(0, "Transpose")
                modified = True
            if _is_transposed(node):
                absorb(node, [only_consumer(node.outputs[0])])
                set_layouts(node, layouts(node)[0], "NCHW")
                record.fused.append("Transpose")
                modified = True
        return ir.passes.PassResult(model, modified=modified)

    def _reads_transposed(self, node: ir.Node) -> bool:
        x = node.inputs[0]
        if not _is_transpose(x.producer(), to_channels_last) or x.is_graph_output():
            return False
        return _channels(x) <= _FEW and all(
            reader in self._records and index == 0 and _can_read_planes(reader) for reader, index in x.uses()
        )


def _can_read_planes(node: ir.Node) -> bool:
    return (
        _is_ours(node)
        and layouts(node)[0] == "NHWC"
        and node.op_type != "KSDeconv"
        and node.attributes.get_int("group", 1) == 1
        and not reads_two(node)
    )


def _is_transposed(node: ir.Node) -> bool:
    """Whether Y goes into a Transpose that the node can do without."""
    y = node.outputs[0]
    if layouts(node)[1] != "NHWC" or not _is_transpose(only_consumer(y), to_channels_first):
        return False
    channels = _channels(y)
    few = channels <= _FEW or channels * y.dtype.itemsize % _CHUNK_BYTES != 0
    return few and node.attributes.get_int("group", 1) == 1 and residual(node) is None


def _is_ours(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in CONVOLUTIONS


def _is_transpose(node: ir.Node | None, permutation: Callable[[int], list[int]]) -> bool:
    """permutation: what gives it for a number of spatial axes."""
    perm = permutation_of(node)
    return perm is not None and list(perm) == permutation(len(perm) - 2)


def _channels(value: ir.Value) -> float:
    """Of a tensor in NHWC; infinite where they are unknown."""
    last = None if value.shape is None else value.shape[-1]
    return last if isinstance(last, int) else float("inf")
