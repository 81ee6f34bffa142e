"""Recognises the weight gradient of a Conv, as exported backward graphs and our own fallback spell it.

    dW = Transpose(Conv(Transpose(X), Transpose(dY)))[:, :, 0:R, 0:S]

where every Transpose exchanges the first two axes, the Conv's dilations are the strides of the forward Conv,
whose gradient it is, and its strides the forward Conv's dilations. With groups X is split into [N, group, C /
group, ...] in between, which is recognised where shapes are static; fallback_weight_gradient.py has the
algebra.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import absorb, only_consumer
from ort_cks.graph_rewrite.constants import constant, is_constant
from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.geometry import Axis
from ort_cks.graph_rewrite.operators import DOMAIN, WEIGHT_GRADIENT
from ort_cks.graph_rewrite.records import NodeRecord

_FIRST_OPSET = 11  # of the fallback function
_TO_THE_END = 2**31 - 1  # exporters write this or more for "all"


@dataclass
class _WeightGradient:
    x: ir.Value
    dy: ir.Value
    after: list[ir.Node]  # what follows the Conv: the Transpose, and the Slices that crop to the filter
    axes: list[Axis]  # of the Conv whose gradient it is


class SwapWeightGradientPass(ir.passes.InPlacePass):
    """Turns Convs that are weight gradients into SkDilatedWeightGrad nodes, in place; their records say so.

    Needs inferred shapes, and runs before anything is fused into the Convs. The names of the nodes and of
    their results stay.
    """

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        if model.graph.opset_imports.get("", 1) < _FIRST_OPSET:
            return ir.passes.PassResult(model, modified)
        for node, record in self._records.items():
            found = _recognise(node)
            if found is None:
                continue
            _swap(node, found)
            record.decision, record.new_op = "swapped", node.op_type
            record.reason = "it is the weight gradient of a convolution"
            record.fused += ["Transpose", *(["Slice"] if len(found.after) > 1 else [])]
            model.opset_imports[DOMAIN] = 1
            modified = True
        return ir.passes.PassResult(model, modified)


def _swap(node: ir.Node, found: _WeightGradient) -> None:
    dw = node.outputs[0]
    channels = [None if v.shape is None else v.shape[0] for v in (node.inputs[1], node.inputs[0])]
    dtype = dw.dtype or found.x.dtype or found.dy.dtype
    attributes = [
        ir.AttrInt64s("kernel_shape", [axis.kernel for axis in found.axes]),
        ir.AttrInt64s("strides", [axis.stride for axis in found.axes]),
        ir.AttrInt64s("dilations", [axis.dilation for axis in found.axes]),
        ir.AttrInt64s("pads", [axis.pads[end] for end in (0, 1) for axis in found.axes]),
        ir.AttrInt64("group", node.attributes.get_int("group", 1)),
    ]
    node.attributes.clear()
    node.attributes.update({attribute.name: attribute for attribute in attributes})
    node.op_type, node.domain, node.version = WEIGHT_GRADIENT, DOMAIN, None
    node.replace_input_with(0, found.x)
    node.replace_input_with(1, found.dy)
    absorb(node, found.after)
    dw.shape = ir.Shape([*channels, *(axis.kernel for axis in found.axes)])
    dw.dtype = dtype


def _recognise(node: ir.Node) -> _WeightGradient | None:
    conv = Convolution(node)
    if conv.transposed or conv.b is not None or is_constant(conv.w) or conv.rank is None:
        return None
    if conv.auto_pad not in ("NOTSET", "VALID"):
        return None
    swap = [1, 0, *range(2, conv.rank + 2)]
    x = _transposed_from(conv.x, swap) if conv.group == 1 else _batch_of_channels(conv)
    dy = _transposed_from(conv.w, swap)
    back = only_consumer(conv.y)
    if x is None or dy is None or back is None or not _is_transpose(back, swap):
        return None
    crops, ends = _crops(back.outputs[0], conv.rank)
    axes = _forward_axes(conv, x, dy, ends)
    return None if axes is None else _WeightGradient(x, dy, [back, *crops], axes)


def _batch_of_channels(conv: Convolution) -> ir.Value | None:
    """X, where the Conv reads it as [C / group, group N, spatial]: reshaped, transposed and reshaped."""
    joined = conv.x.producer()
    if joined is None or joined.op_type != "Reshape" or joined.domain != "":
        return None
    split_value = _transposed_from(joined.inputs[0], [2, 1, 0, *range(3, conv.rank + 3)])
    split = None if split_value is None else split_value.producer()
    if split is None or split.op_type != "Reshape" or split.domain != "":
        return None
    x = split.inputs[0]
    if any(v.shape is None for v in (x, split_value, conv.x)) or len(x.shape) != conv.rank + 2:
        return None
    batch, channels, *spatial = x.shape
    if not isinstance(channels, int) or channels % conv.group:
        return None
    per_group = channels // conv.group
    expected_split = [batch, conv.group, per_group, *spatial]
    # The middle extent, group N, follows from the others.
    fits = list(split_value.shape) == expected_split and [conv.x.shape[0], *conv.x.shape[2:]] == [
        per_group,
        *spatial,
    ]
    known = all(isinstance(dim, int) or dim.value is not None for dim in (batch, *spatial))
    return x if fits and known else None


def _crops(value: ir.Value, rank: int) -> tuple[list[ir.Node], list[int | None]]:
    """The Slices after `value` that cut spatial axes at their end, and where each axis is cut."""
    slices, ends = [], [None] * rank
    while (node := only_consumer(value)) is not None and node.op_type == "Slice" and node.domain == "":
        cut = _cut_ends(node, rank)
        if cut is None:
            break
        for axis, end in cut:
            ends[axis] = end if ends[axis] is None else min(ends[axis], end)
        slices.append(node)
        value = node.outputs[0]
    return slices, ends


def _cut_ends(node: ir.Node, rank: int) -> list[tuple[int, int]] | None:
    """(spatial axis, end) for each axis of a Slice that starts at 0; None for any other Slice."""
    parameters = [constant(value) for value in node.inputs[1:]]
    if any(p is None for p in parameters):
        return None
    starts, ends = (p.tolist() for p in parameters[:2])
    axes = parameters[2].tolist() if len(parameters) > 2 else list(range(len(starts)))
    steps = parameters[3].tolist() if len(parameters) > 3 else [1] * len(starts)
    spatial = [axis % (rank + 2) - 2 for axis in axes]
    if (
        any(s != 0 for s in starts)
        or any(s != 1 for s in steps)
        or any(e <= 0 for e in ends)
        or min(spatial) < 0
    ):
        return None
    return [(axis, end) for axis, end in zip(spatial, ends, strict=True) if end < _TO_THE_END]


def _forward_axes(
    conv: Convolution, x: ir.Value, dy: ir.Value, ends: Sequence[int | None]
) -> list[Axis] | None:
    """The axes of the Conv whose gradient this is; None where one of them cannot be such a Conv's."""
    axes = []
    for axis, (end, stride, dilation, pads) in enumerate(
        zip(ends, conv.dilations, conv.spatial("strides", 1), conv.pads, strict=True)
    ):
        extent, output = (_extent(value, axis) for value in (x, dy))
        if extent is not None and output is not None:
            found = _static_axis(Axis(False, extent, 1, stride, dilation, pads), output, end)
        else:
            # Only the crop tells the filter from the taps beyond it. The input's extent is not read any more.
            found = None if end is None else Axis(False, 0, end, stride, dilation, pads)
        if found is None:
            return None
        axes.append(found)
    return axes


def _static_axis(axis: Axis, output: int, end: int | None) -> Axis | None:
    """The axis with the filter's extent, and with pads with which the forward Conv has this output."""
    room = axis.input + sum(axis.pads) - (axis.stride * (output - 1) + 1)
    if room < 0:
        return None
    taps = room // axis.dilation + 1
    kernel = taps if end is None else min(taps, end)
    found = replace(axis, kernel=kernel)
    if found.output != output:
        # What no tap reaches: padding behind X that the forward Conv did not have.
        unread = room - axis.dilation * (kernel - 1)
        found = replace(found, pads=(axis.pads[0], axis.pads[1] - unread))
    return found if found.pads[1] >= 0 else None


def _extent(value: ir.Value, axis: int) -> int | None:
    dim = None if value.shape is None else value.shape[axis + 2]
    return dim if isinstance(dim, int) else None


def _transposed_from(value: ir.Value, permutation: Sequence[int]) -> ir.Value | None:
    node = value.producer()
    return node.inputs[0] if node is not None and _is_transpose(node, permutation) else None


def _is_transpose(node: ir.Node, permutation: Sequence[int]) -> bool:
    return (
        node.op_type == "Transpose"
        and node.domain == ""
        and list(node.attributes.get_ints("perm", ())) == list(permutation)
    )
