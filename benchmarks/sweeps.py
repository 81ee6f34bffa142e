"""How the time grows with batch, map, channels and dilation: ort_cks, PyTorch with cuDNN, and the floor.

    python -m benchmarks.sweeps --json benchmarks/results/sweeps.json

One size of a base layer changes at a time. `benchmarks.gpu` says how a layer is timed.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import gpu, runner
from benchmarks.suite import DTYPES, Layer

COLUMNS = ("ours_us", "torch_us")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MAPS = (2, 4, 8, 16, 32, 64, 128)
CHANNELS = (32, 64, 128, 256, 512, 1024, 2048)
DILATIONS = (1, 2, 4, 8, 12, 16, 24, 32, 36)

CONV = Layer("conv3x3", "Conv", 8, 256, 16, 16, 256, 3, pad=1)
DECONV = Layer("deconv4x4_s2", "ConvTranspose", 8, 256, 8, 8, 128, 4, stride=2, pad=1)
DILATED = Layer("dilated3x3", "Conv", 1, 512, 65, 65, 512, 3)


@dataclass(frozen=True)
class Point:
    """A layer of a sweep: `size` says which size changes, `value` what it is."""

    layer: Layer
    size: str
    value: int


def points() -> Iterator[Point]:
    for base in (CONV, DECONV):
        for n in BATCHES:
            yield Point(replace(base, n=n), "batch", n)
        for h in MAPS:
            yield Point(replace(base, h=h, w=h), "map", h)
        for c in CHANNELS:
            yield Point(replace(base, c=c, k=c * base.k // base.c), "channels", c)
    for d in DILATIONS:
        yield Point(replace(DILATED, dilation=d, pad=d), "dilation", d)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="repeatable; default: fp16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, after each one")
    options = parser.parse_args()
    gpu.require_gpu()
    jobs = [
        (p.layer, dtype, {"size": p.size, "value": p.value, "shape": p.layer.description})
        for dtype in options.dtype or ("fp16",)
        for p in points()
    ]
    rows = runner.run(gpu.GpuBenchmark(COLUMNS), jobs, options.json)
    runner.print_summary(rows, "dtype", "name", "size")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
