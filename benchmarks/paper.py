"""The C-K-S paper's own comparison with PyTorch, on this GPU: the three operators of a convolution.

    python -m benchmarks.paper --json benchmarks/results/paper.json

Forward, input gradient and weight gradient of a Conv with 3x3 and 5x5 filters, strides 1 and 2, on square
maps of 2 to 128, in batches of 1 to 256, with the channels that ResNet and VGG have at such maps. Ours:
ConvV2, KSDeconv with the same weights, SkDilatedWeightGrad. `benchmarks.gpu` says how each is timed.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import gpu, runner
from benchmarks.suite import DTYPES, Layer

COLUMNS = ("ours_us", "torch_us")
# 512 channels on the smallest maps, then halved where the map doubles, as ResNet and VGG do, down to 64.
CHANNELS = {2: 512, 4: 512, 8: 512, 16: 256, 32: 128, 64: 64, 128: 64}
BATCHES = (1, 32, 128, 256)
# Every batch for the filter that these networks are made of, one for each of the others: the full product
# would take four times as long.
BATCHES_OF = {(3, 1): BATCHES, (3, 2): (128,), (5, 1): (32,), (5, 2): (128,)}
MOST_ELEMENTS = 1 << 25  # of an activation; a batch that exceeds it is cut to the next one that does not
OPERATORS = ("forward", "input_gradient", "weight_gradient")


def convolutions() -> Iterator[Layer]:
    for size, channels in CHANNELS.items():
        fitting = [n for n in BATCHES if n * channels * size * size <= MOST_ELEMENTS]
        for (kernel, stride), batches in BATCHES_OF.items():
            for n in sorted({min(n, fitting[-1]) for n in batches}):
                name = f"{kernel}x{kernel}_s{stride}_{size}_b{n}"
                shape = (n, channels, size, size, channels, kernel)
                yield Layer(name, "Conv", *shape, stride=stride, pad=kernel // 2)


def operator_of(convolution: Layer, operator: str) -> Layer:
    """The layer that computes one of OPERATORS of a Conv."""
    if operator == "input_gradient":
        return convolution.input_gradient()
    return convolution.weight_gradient() if operator == "weight_gradient" else convolution


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="repeatable; default: all")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="a convolution; repeatable; default: all"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, after each one")
    options = parser.parse_args()
    wanted = [layer for layer in convolutions() if not options.only or layer.name in options.only]
    if options.only and len(wanted) != len(options.only):
        parser.error(f"the convolutions are {', '.join(layer.name for layer in convolutions())}")
    gpu.require_gpu()
    jobs = [
        (operator_of(layer, operator), dtype, {"operator": operator, **facts(layer)})
        for layer in wanted
        for operator in OPERATORS
        for dtype in options.dtype or DTYPES
    ]
    rows = runner.run(gpu.GpuBenchmark(COLUMNS), jobs, options.json)
    runner.print_summary(rows, "operator", "dtype")
    return 0


def facts(convolution: Layer) -> dict[str, int]:
    return {
        "filter": convolution.kernel,
        "stride": convolution.stride,
        "map": convolution.h,
        "batch": convolution.n,
        "channels": convolution.c,
    }


if __name__ == "__main__":
    raise SystemExit(main())
