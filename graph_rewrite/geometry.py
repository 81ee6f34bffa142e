"""The arithmetic of one spatial axis of a convolution: extents, pads, and which taps ever meet data.

Pure functions on integers. A *pair* is an output element with a tap of the filter; it is *dead* when its
operand of X is a zero that padding or a transposed convolution's stride has put there, so that the
multiply-add contributes nothing. Where ONNX and ONNX Runtime differ, ONNX Runtime's CPU provider is followed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod


@dataclass(frozen=True)
class Axis:
    """One spatial axis, in elements. ``pads`` are those before the first and after the last element.

    Conv:           y[o] = sum over t of x[o * stride - pads[0] + t * dilation] * w[t]
    ConvTranspose:  y[i * stride - pads[0] + t * dilation] += x[i] * w[t]
    """

    transposed: bool
    input: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    pads: tuple[int, int] = (0, 0)
    output_padding: int = 0

    @property
    def output(self) -> int:
        """The output's extent; not positive where the filter does not fit."""
        reach = (self.kernel - 1) * self.dilation + 1
        if self.transposed:
            return (self.input - 1) * self.stride + self.output_padding + reach - sum(self.pads)
        return (self.input + sum(self.pads) - reach) // self.stride + 1

    def live_pairs(self) -> list[int]:
        """For each tap, the number of outputs that meet an element of X through it."""
        # Both operators walk one side and land on the other: outputs on inputs, or, transposed, inputs on
        # outputs.
        steps, bound = (self.input, self.output) if self.transposed else (self.output, self.input)
        counts = []
        for tap in range(self.kernel):
            offset = tap * self.dilation - self.pads[0]
            first = max(0, -(offset // self.stride))
            last = min(steps - 1, (bound - 1 - offset) // self.stride)
            counts.append(max(0, last - first + 1))
        return counts


def split_pads(total: int, auto_pad: str) -> tuple[int, int]:
    """Pads that add up to ``total``. Only SAME_UPPER puts the larger half of an odd total at the end."""
    smaller, larger = total // 2, total - total // 2
    return (smaller, larger) if auto_pad == "SAME_UPPER" else (larger, smaller)


def same_pads(axis: Axis, auto_pad: str) -> tuple[int, int]:
    """The pads that SAME_UPPER or SAME_LOWER stands for; ``axis.pads`` is ignored."""
    bare = replace(axis, pads=(0, 0))
    if axis.transposed:
        total = bare.output - axis.input * axis.stride
    else:
        output = -(-axis.input // axis.stride)
        total = (output - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1 - axis.input
    return split_pads(max(0, total), auto_pad)


def pads_for_output(axis: Axis, output: int, auto_pad: str) -> tuple[int, int] | None:
    """The pads with which a transposed axis has this output extent; None where that takes more than pads."""
    total = replace(axis, pads=(0, 0)).output - output
    return split_pads(total, auto_pad) if total >= 0 else None


def zero_fraction(axes: Iterable[Axis]) -> float:
    """The share of dead pairs, 0 to 1, of a convolution with these axes and a positive output.

    A transposed convolution counts as what it is by definition: a dense one over X with stride - 1 zeros
    between its elements. The zeros that a dilation puts between the taps are never multiplied by anyone and
    are not counted.
    """
    axes = list(axes)
    total = prod(axis.output * axis.kernel for axis in axes)
    return 1 - prod(sum(axis.live_pairs()) for axis in axes) / total


def cut_dead_taps(axis: Axis) -> tuple[slice, Axis]:
    """The taps to keep, and the axis with only them: outer taps that are dead at every output go.

    No pad becomes negative: ONNX has no negative pads on a convolution. At least one tap is kept.
    """
    live = [tap for tap, count in enumerate(axis.live_pairs()) if count]
    if not live:
        return slice(0, axis.kernel), axis
    begin = min(live[0], axis.pads[0] // axis.dilation)
    end = min(axis.kernel - 1 - live[-1], axis.pads[1] // axis.dilation)
    kept = slice(begin, axis.kernel - end)
    kernel = axis.kernel - begin - end
    cut = replace(
        axis,
        kernel=kernel,
        pads=(axis.pads[0] - begin * axis.dilation, axis.pads[1] - end * axis.dilation),
    )
    # A single tap has no dilation, except that ONNX bounds output_padding by the larger of stride and
    # dilation.
    if kernel == 1 and axis.output_padding < axis.stride:
        cut = replace(cut, dilation=1)
    return kept, cut
