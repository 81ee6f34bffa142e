"""Times the 28 layers: ort_cks, ONNX Runtime's own operators and PyTorch, in one run.

    python -m benchmarks.layers --json benchmarks/results/layers.json          # on a GPU
    python -m benchmarks.layers --provider cpu --batch 4                       # two threads, no PyTorch

On a GPU each side replays a CUDA graph that holds many copies of the layer, runs taken in turn; the median
of a replay, less that of a graph that does nothing, is divided by the copies. Ours computes in an ONNX
Runtime session on NHWC tensors; ONNX Runtime's own operators count in the faster of NCHW and prefer_nhwc,
PyTorch in the faster of its two layouts, with cudnn.benchmark. Every copy has weights of its own, as the
layers of a model have, so large weights come from memory on every side. The error is the largest, as a share
of the output's root mean square, against a float64 run; on a CPU against ONNX Runtime.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import layer_models, results_file
from benchmarks.suite import LAYERS, Layer
from ort_cks.comparison.errors import output_error, tolerance_for
from ort_cks.comparison.sessions import BoundSession, Way, default_provider, one_line
from ort_cks.comparison.timing import interleaved

DTYPES = ("fp16", "tf32", "fp32")
# ONNX Runtime searches cuDNN's algorithms for every node, which takes most of the benchmark's time.
MOST_COPIES, NATIVE_COPIES = 20, 8
WEIGHTS_LIMIT = 256 << 20  # bytes of all copies together
WARMUP, RUNS, CPU_RUNS = 5, 40, 15
CPU_THREADS = 2

Action = Callable[[], None]


class Contenders:
    """Actions to time, each for a column of the result; of several for one column the fastest counts."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Action, int, float]] = []
        self.failures: dict[str, str] = {}

    def add(
        self, column: str, make: Callable[[], list[Action]], copies: int, overhead_ms: float = 0.0
    ) -> None:
        try:
            self.entries += [(column, action, copies, overhead_ms) for action in make()]
        except Exception as error:  # one side's failure is a result too, and no reason to lose the others
            self.failures[column] = one_line(error)

    def times_us(self, runs: int) -> dict[str, float]:
        latencies = interleaved([action for _, action, _, _ in self.entries], WARMUP, runs)
        best: dict[str, float] = {}
        for (column, _, copies, overhead_ms), latency in zip(self.entries, latencies, strict=True):
            time_us = max(latency.p50_ms - overhead_ms, 0.0) / copies * 1e3
            best[column] = round(min(time_us, best.get(column, time_us)), 3)
        return best


class GpuBenchmark:
    columns = ("ours_us", "torch_us", "ort_us", "floor_us")

    def __init__(self) -> None:
        # PyTorch first: it brings cuDNN and cuBLAS, which ONNX Runtime needs, into the process.
        from benchmarks import torch_side

        self.torch = torch_side
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "nothing.onnx"
            layer_models.write_nothing(path)
            feeds = {"x": np.zeros(1, np.float32)}
            session = BoundSession(Way("nothing", path, "cuda", cuda_graph=True), feeds, {"y": (1,)})
        ort, torch = interleaved([session.run, torch_side.empty_graph()], WARMUP, 5 * RUNS)
        self.ort_overhead_ms, self.torch_overhead_ms = ort.p50_ms, torch.p50_ms

    def row(self, layer: Layer, dtype: str) -> dict:
        x, w = layer_models.operands(layer, dtype)
        copies = min(MOST_COPIES, max(NATIVE_COPIES, WEIGHTS_LIMIT // w.nbytes))
        contenders = Contenders()
        sessions: list[BoundSession] = []
        with tempfile.TemporaryDirectory() as folder:

            def ours() -> list[Action]:
                path = Path(folder) / "ours.onnx"
                layer_models.write_ours(path, layer, dtype, w, copies)
                way = Way("ours", path, "cuda", tf32=dtype != "fp32", cuda_graph=True, with_library=True)
                shapes = {f"y{i}": layer_models.nhwc(layer.y_shape) for i in range(copies)}
                feeds = {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1))}
                sessions.append(BoundSession(way, feeds, shapes))
                return [sessions[0].run]

            def native() -> list[Action]:
                path = Path(folder) / "native.onnx"
                layer_models.write_native(path, layer, dtype, w, NATIVE_COPIES)
                shapes = {f"y{i}": layer.y_shape for i in range(NATIVE_COPIES)}
                ways = [
                    Way("ort", path, "cuda", nhwc, dtype != "fp32", cuda_graph=True) for nhwc in (False, True)
                ]
                return [BoundSession(way, {"x": x}, shapes).run for way in ways]

            contenders.add("ours_us", ours, copies, self.ort_overhead_ms)
            contenders.add("ort_us", native, NATIVE_COPIES, self.ort_overhead_ms)
            torch_graphs = lambda: self.torch.layer_graphs(layer, dtype, x, w, copies)  # noqa: E731
            contenders.add("torch_us", torch_graphs, copies, self.torch_overhead_ms)
            row = {"name": layer.name, "dtype": dtype, **contenders.times_us(RUNS)}
        row["floor_us"] = round(layer.floor_us(dtype), 3)
        if sessions:
            row["max_error"] = max_error(sessions[0].outputs(), self.torch.exact(layer, x, w), dtype)
        return row | ({"failures": contenders.failures} if contenders.failures else {})


class CpuBenchmark:
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
            pixels = (np.ascontiguousarray(x.transpose(0, 2, 3, 1)), x)
            sessions = [BoundSession(way, {"x": p}) for way, p in zip(ways, pixels, strict=True)]
        contenders = Contenders()
        for column, session in zip(self.columns, sessions, strict=True):
            contenders.add(column, lambda session=session: [session.run], copies=1)
        row = {"name": layer.name, "dtype": dtype, **contenders.times_us(CPU_RUNS)}
        return row | {"max_error": max_error(sessions[0].outputs(), sessions[1].outputs()["y0"], dtype)}


def max_error(outputs: dict[str, np.ndarray], reference: np.ndarray, dtype: str) -> float:
    """Over all copies; the outputs are NHWC, the reference NCHW."""
    first, *others = outputs.values()
    distinct = [first, *(other for other in others if not np.array_equal(first, other))]
    tolerance = tolerance_for(dtype)
    errors = (output_error("y", y.transpose(0, 3, 1, 2), reference, tolerance).relative for y in distinct)
    return float(f"{max(errors):.3g}")


def guarded_row(benchmark: GpuBenchmark | CpuBenchmark, layer: Layer, dtype: str) -> dict:
    """The row, or one that says why there is none: a failure must not cost the other layers."""
    try:
        return benchmark.row(layer, dtype)
    except Exception as error:
        return {"name": layer.name, "dtype": dtype, "failures": {"layer": one_line(error)}}


def print_row(row: dict, columns: tuple[str, ...]) -> None:
    times = "".join(f"{row[column]:>12.2f}" if column in row else f"{'failed':>12}" for column in columns)
    error = f"{row['max_error']:>12.1e}" if "max_error" in row else f"{'':>12}"
    print(f"{row['name']:<20}{row['dtype']:<6}{times}{error}", flush=True)
    for column, failure in row.get("failures", {}).items():
        print(f"  {column.removesuffix('_us')} failed: {failure}", flush=True)


def print_summary(rows: list[dict], columns: tuple[str, ...]) -> None:
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        of_dtype = [row for row in rows if row["dtype"] == dtype]
        for column in ("torch_us", "ort_us"):
            if column in columns and (speedups := results_file.ratios(of_dtype, column, "ours_us")):
                print(
                    f"{dtype}: {results_file.geomean(speedups):.2f}x {column.removesuffix('_us')} as geomean "
                    f"of {len(speedups)} layers, the least {min(speedups):.2f}x"
                )
        long = [row for row in of_dtype if row.get("floor_us", 0) >= 10]
        if over := results_file.ratios(long, "ours_us", "floor_us"):
            print(f"{dtype}: at most {max(over):.2f} floors on the {len(over)} layers of 10 us and more")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--dtype", choices=DTYPES, action="append", help="repeatable; default: all, on a CPU fp32"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="a layer; repeatable; default: all")
    parser.add_argument("--batch", type=int, metavar="N", help="cut larger batches to N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, after each one")
    options = parser.parse_args()
    layers = [layer for layer in LAYERS if not options.only or layer.name in options.only]
    if len(layers) != len(options.only or LAYERS):
        parser.error(f"the layers are {', '.join(layer.name for layer in LAYERS)}")
    if options.batch:
        layers = [layer.with_batch_at_most(options.batch) for layer in layers]
    on_gpu = options.provider == "cuda"
    if on_gpu:
        try:
            import torch  # noqa: F401 - brings cuDNN and cuBLAS into the process, for ONNX Runtime too
        except ImportError:
            sys.exit("PyTorch is needed on a GPU; --provider cpu does without")
        if default_provider() != "cuda":
            sys.exit("no GPU that ONNX Runtime can reach; --provider cpu times the CPU kernels")
    benchmark = GpuBenchmark() if on_gpu else CpuBenchmark()

    header = results_file.head(options.provider)
    print(", ".join(header.values()))
    print(
        f"{'layer':<20}{'':<6}"
        + "".join(f"{column:>12}" for column in benchmark.columns)
        + f"{'max_error':>12}"
    )
    rows: list[dict] = []
    for dtype in options.dtype or (DTYPES if on_gpu else ("fp32",)):
        for layer in layers:
            rows.append(guarded_row(benchmark, layer, dtype))
            print_row(rows[-1], benchmark.columns)
            results_file.write(options.json, header, rows)
    print_summary(rows, benchmark.columns)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
