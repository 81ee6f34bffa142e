"""The weight gradient of a Conv as a Conv: batch and channels change places, and strides and dilations do.

With s strides, d dilations and p pads of the Conv Y = Conv(X, W), for one group,

    dW[k, c, t] = sum over n, o of  X[n, c, o s - p + t d] dY[n, k, o]

is, read with c as the batch, n as the channels and o as the tap, a Conv of X[c, n] with the filter dY[k, n],
with strides d and dilations s: it gives dW[c, k, t], for every t that fits the padded X. These are the Conv's
own taps and, where its stride leaves a rest of X unread, some beyond, which are cut off.

With G groups, k belongs to group k // (K / G), and c counts within it: X becomes [C / G, G N], channels by
group, and the filter [K, N] is as before.
"""

from collections.abc import Sequence

import onnx_ir as ir

from ort_cks.graph_rewrite.function_body import FunctionBody, to_channels_first


def weight_gradient(
    body: FunctionBody,
    x: ir.Value,
    dy: ir.Value,
    *,
    channels_last: bool,
    group: int,
    auto_pad: str,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> ir.Value:
    """Appends dW, of the shape [K, C / group, *kernel_shape], to the body."""
    rank = len(kernel_shape)
    if channels_last:
        x, dy = (body.transpose(value, to_channels_first(rank)) for value in (x, dy))
    if auto_pad.startswith("SAME"):
        x = _pad_same(body, x, dy, auto_pad, kernel_shape, strides, dilations)
    swap = [1, 0, *range(2, rank + 2)]
    gradient = body.op(
        "Conv",
        body.transpose(x, swap) if group == 1 else _channels_as_batch(body, x, group, rank),
        body.transpose(dy, swap),
        group=group,
        strides=list(dilations),
        dilations=list(strides),
        pads=list(pads) if auto_pad == "NOTSET" else [0] * (2 * rank),
    )
    axes = range(2, rank + 2)
    return body.op(
        "Slice",
        body.transpose(gradient, swap),
        body.ints([0] * rank),
        body.ints(kernel_shape),
        body.ints(axes),
    )


def _channels_as_batch(body: FunctionBody, x: ir.Value, group: int, rank: int) -> ir.Value:
    """[N, G Cg, spatial] to [Cg, G N, spatial]."""
    shape = body.op("Shape", x)
    batch = _part(body, shape, 0, 1)
    spatial = _part(body, shape, 2, rank + 2)
    split = body.op("Concat", batch, body.ints([group, -1]), spatial, axis=0)
    grouped = body.transpose(body.op("Reshape", x, split), [2, 1, 0, *range(3, rank + 3)])
    return body.op("Reshape", grouped, body.op("Concat", body.ints([0, -1]), spatial, axis=0))


def _pad_same(
    body: FunctionBody,
    x: ir.Value,
    dy: ir.Value,
    auto_pad: str,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> ir.Value:
    """X with the zeros that SAME_UPPER or SAME_LOWER puts around it."""
    rank = len(kernel_shape)
    extent, output_extent = (_part(body, body.op("Shape", value), 2, rank + 2) for value in (x, dy))
    # (output - 1) stride + dilated kernel - input
    reach = [d * (k - 1) + 1 - s for k, d, s in zip(kernel_shape, dilations, strides, strict=True)]
    needed = body.op("Add", body.op("Mul", output_extent, body.ints(strides)), body.ints(reach))
    missing = body.op("Sub", needed, extent)
    zeros = body.ints([0] * rank)
    total = body.op("Where", body.op("Less", missing, zeros), zeros, missing)
    smaller = body.op("Div", total, body.ints([2] * rank))
    larger = body.op("Sub", total, smaller)
    begin, end = (smaller, larger) if auto_pad == "SAME_UPPER" else (larger, smaller)
    none = body.ints([0, 0])
    return body.op("Pad", x, body.op("Concat", none, begin, none, end, axis=0))


def _part(body: FunctionBody, shape: ir.Value, start: int, end: int) -> ir.Value:
    return body.op("Slice", shape, body.ints([start]), body.ints([end]))
