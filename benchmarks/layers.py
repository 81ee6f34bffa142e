"""Times layers: ort_cks, PyTorch and ONNX Runtime's own operators, in one run.

    python -m benchmarks.layers --json benchmarks/results/layers.json               # the 28 layers, on a GPU
    python -m benchmarks.layers --random 60 --json benchmarks/results/random.json   # layers nobody tuned on
    python -m benchmarks.layers --provider cpu --batch 4                            # two threads, no PyTorch

`benchmarks.gpu` says how it is done on a GPU; ONNX Runtime's operators, which take long to set up, are left
out of random layers. On a CPU ours and ONNX Runtime's run in turn, and the error is against the latter.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import gpu, layer_models, random_layers, runner
from benchmarks.contenders import Contenders
from benchmarks.suite import DTYPES, LAYERS, Layer
from ort_cks.comparison.errors import output_error, tolerance_for
from ort_cks.comparison.sessions import BoundSession, Way

CPU_THREADS = 2


class CpuBenchmark:
    provider = "cpu"
    columns = ("ours_us", "ort_us")

    def row(self, layer: Layer, dtype: str) -> dict:
        x, w = layer_models.operands(layer, dtype)
        with tempfile.TemporaryDirectory() as folder:
            ours, native = Path(folder) / "ours.onnx", Path(folder) / "native.onnx"
            layer_models.write_ours(ours, layer, dtype, w, 1)
            layer_models.write_native(native, layer, dtype, w, 1)
            ways = (
                Way("ours", ours, "cpu", with_library=True, threads=CPU_THREADS),
                Way("ort", native, "cpu", threads=CPU_THREADS),
            )
            feeds = (layer_models.feeds(layer, x, w), {"x": np.ascontiguousarray(x)})
            sessions = [BoundSession(way, feed) for way, feed in zip(ways, feeds, strict=True)]
        contenders = Contenders()
        for column, session in zip(self.columns, sessions, strict=True):
            contenders.add(column, lambda session=session: [session.run])
        row = contenders.times_us()
        y, reference = (session.outputs()["y0"] for session in sessions)
        error = output_error("y", y.transpose(0, 3, 1, 2), reference, tolerance_for(dtype)).relative
        return row | {"max_error": float(f"{error:.3g}")}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--dtype", choices=DTYPES, action="append", help="repeatable; default: all, on a CPU fp32"
    )
    parser.add_argument("--random", type=int, metavar="COUNT", help="draw layers from the suite's families")
    parser.add_argument("--seed", type=int, default=0, help="of the draw; default: 0")
    parser.add_argument("--only", action="append", metavar="NAME", help="a layer; repeatable; default: all")
    parser.add_argument("--batch", type=int, metavar="N", help="cut larger batches to N")
    parser.add_argument(
        "--no-tune",
        dest="tune",
        action="store_false",
        help="ours with the tiles that it expects to be fastest",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, after each one")
    options = parser.parse_args()
    drawn = options.random is not None
    suite = random_layers.draw(options.random, options.seed) if drawn else LAYERS
    layers = [layer for layer in suite if not options.only or layer.name in options.only]
    if len(layers) != len(options.only or suite):
        parser.error(f"the layers are {', '.join(layer.name for layer in suite)}")
    if options.batch:
        layers = [layer.with_batch_at_most(options.batch) for layer in layers]
    if options.provider == "cuda":
        gpu.require_gpu()
        columns = tuple(column for column in gpu.COLUMNS if not drawn or column != "ort_us")
        benchmark, dtypes = gpu.GpuBenchmark(columns, options.tune), options.dtype or DTYPES
    else:
        benchmark, dtypes = CpuBenchmark(), options.dtype or ("fp32",)
    facts = {layer: {"shape": layer.description, "seed": options.seed} if drawn else {} for layer in layers}
    jobs = [(layer, dtype, facts[layer]) for dtype in dtypes for layer in layers]
    rows = runner.run(benchmark, jobs, options.json)
    runner.print_summary(rows, "dtype")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
