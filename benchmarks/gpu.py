"""How a layer is timed on a GPU, by every benchmark of layers: ours, PyTorch and ONNX Runtime in one process.

Each side replays a CUDA graph that holds many copies of the layer; the median of a replay, less that of a
graph that does nothing, is divided by the copies. Ours computes in an ONNX Runtime session on NHWC tensors,
with tiles searched by measurement unless told otherwise; ONNX Runtime's own operators count in the faster of
NCHW and prefer_nhwc, with its search, PyTorch in the faster of its two layouts, with cudnn.benchmark.

`ours_us`, `torch_us` and `ort_us` are cold: taken in turn, and each copy has weights and a result of its own,
as the layers of a model have, so weights come from memory if all of them together exceed the cache.
`ours_hot_us` and `torch_hot_us` are taken after those, one at a time without a pause, and all copies have the
same weights and result: what fits is in the cache, and the chip is as warm as it gets. The error is the
largest of ours in the cold runs, as a share of the output's root mean square, against a float64 run.
"""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import layer_models
from benchmarks.contenders import Action, Contenders
from benchmarks.suite import Layer
from ort_cks.comparison.sessions import BoundSession, Way, default_provider
from ort_cks.comparison.timing import interleaved
from ort_cks.library import import_onnxruntime, register

COLUMNS = ("ours_us", "torch_us", "ort_us", "ours_hot_us", "torch_hot_us")
OVERHEAD_RUNS = 200
# A replay holds as many copies as make it last this long by the floor, within bounds; fewer of large ones.
REPLAY_US = 1500
FEWEST_COPIES, MOST_COPIES = 4, 20
WEIGHTS_LIMIT = 256 << 20  # bytes of all copies together
# ONNX Runtime searches cuDNN's algorithms for every node, which takes most of the benchmark's time.
NATIVE_COPIES = 4


def require_gpu() -> None:
    """Ends the program where layers cannot be timed on a GPU, and says what is missing."""
    try:
        import torch  # noqa: F401 - brings cuDNN and cuBLAS into the process, for ONNX Runtime too
    except ImportError:
        sys.exit("PyTorch is needed: it is what is compared with")
    if default_provider() != "cuda":
        sys.exit("no GPU that ONNX Runtime can reach (onnxruntime-gpu, CUDA, cuDNN and a device are needed)")


class GpuBenchmark:
    """Rows of times; `columns` says which of COLUMNS are wanted, `tune` whether ours searches its tiles."""

    provider = "cuda"

    def __init__(self, columns: tuple[str, ...] = COLUMNS, tune: bool = True) -> None:
        # PyTorch first: it brings cuDNN and cuBLAS, which ONNX Runtime needs, into the process.
        from benchmarks import torch_side

        self.torch = torch_side
        self.wanted, self.tune = columns, tune
        self.columns = (*columns, "floor_us")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "nothing.onnx"
            layer_models.write_nothing(path)
            feeds = {"x": np.zeros(1, np.float32)}
            session = BoundSession(Way("nothing", path, "cuda", cuda_graph=True), feeds, {"y": (1,)})
        ort, torch = interleaved([session.run, torch_side.empty_graph()], runs=OVERHEAD_RUNS)
        self.ort_overhead_ms, self.torch_overhead_ms = ort.p50_ms, torch.p50_ms

    def row(self, layer: Layer, dtype: str) -> dict:
        self.torch.free_memory()  # of the row before
        with tempfile.TemporaryDirectory() as folder:
            return _Measurement(self, layer, dtype, Path(folder)).row()


class _Measurement:
    """One layer in one type: the ways to compute it, and the row that they give."""

    def __init__(self, benchmark: GpuBenchmark, layer: Layer, dtype: str, folder: Path) -> None:
        self.benchmark, self.layer, self.dtype, self.folder = benchmark, layer, dtype, folder
        self.x, self.second = layer_models.operands(layer, dtype)
        self.feeds = layer_models.feeds(layer, self.x, self.second)
        self.copies = copies_of(layer, dtype)
        self.cold_session: BoundSession | None = None

    def row(self) -> dict:
        torch_side, wanted = self.benchmark.torch, self.benchmark.wanted
        torch_overhead, ort_overhead = self.benchmark.torch_overhead_ms, self.benchmark.ort_overhead_ms
        operands = (self.layer, self.dtype, self.x, self.second, self.copies)
        cold, hot = Contenders(), Contenders()
        cold.add("ours_us", self._ours, self.copies, ort_overhead)
        cold.add("torch_us", lambda: torch_side.layer_graphs(*operands), self.copies, torch_overhead)
        if "ort_us" in wanted:
            cold.add("ort_us", self._native, NATIVE_COPIES, ort_overhead)
        times = cold.times_us()
        if "ours_hot_us" in wanted:
            hot.add("ours_hot_us", self._ours_hot, self.copies, torch_overhead)
        if "torch_hot_us" in wanted:
            graphs = lambda: torch_side.layer_graphs(*operands, hot=True)  # noqa: E731
            hot.add("torch_hot_us", graphs, self.copies, torch_overhead)
        times |= hot.times_alone_us()
        row = {column: times[column] for column in wanted if column in times}
        row["floor_us"] = round(self.layer.floor_us(self.dtype), 3)
        failures = cold.failures | hot.failures
        if self.cold_session:
            error = self._max_error(self.cold_session)
            if math.isfinite(error):
                row["max_error"] = float(f"{error:.3g}")
            else:
                failures["max_error"] = "NaN or infinity in the output"
        return row | ({"failures": failures} if failures else {})

    def _ours(self) -> list[Action]:
        path = self.folder / "ours.onnx"
        layer_models.write_ours(path, self.layer, self.dtype, self.second, self.copies)
        way = Way(
            "ours",
            path,
            "cuda",
            tf32=self.dtype != "fp32",
            cuda_graph=True,
            with_library=True,
            tune=self.benchmark.tune,
        )
        shapes = {f"y{i}": layer_models.result_shape(self.layer) for i in range(self.copies)}
        self.cold_session = BoundSession(way, self.feeds, shapes)
        return [self.cold_session.run]

    def _ours_hot(self) -> list[Action]:
        """Runs of a session of one node, and so of one packed filter, captured in a graph of PyTorch's."""
        ort, torch = import_onnxruntime(), self.benchmark.torch.torch
        path = self.folder / "ours_hot.onnx"
        layer_models.write_ours(path, self.layer, self.dtype, self.second, copies=1)
        stream = torch.cuda.Stream()
        provider = {
            "user_compute_stream": str(stream.cuda_stream),
            "use_tf32": str(int(self.dtype != "fp32")),
        }
        options = ort.SessionOptions()
        register(options, tune=self.benchmark.tune)
        session = ort.InferenceSession(path, options, providers=[("CUDAExecutionProvider", provider)])
        binding = session.io_binding()
        for name, array in self.feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        shape, kind = layer_models.result_shape(self.layer), layer_models.NUMPY_TYPE[self.dtype]
        binding.bind_ortvalue_output("y0", ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cuda", 0))
        asynchronous = ort.RunOptions()
        asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def runs() -> None:
            for _ in range(self.copies):
                session.run_with_iobinding(binding, asynchronous)

        return [self.benchmark.torch.replay(runs, stream)]

    def _native(self) -> list[Action]:
        path = self.folder / "native.onnx"
        layer_models.write_native(path, self.layer, self.dtype, self.second, NATIVE_COPIES)
        shapes = {f"y{i}": self.layer.y_shape for i in range(NATIVE_COPIES)}
        feeds = {"x": np.ascontiguousarray(self.x)}
        tf32 = self.dtype != "fp32"
        ways = [Way("ort", path, "cuda", nhwc, tf32, cuda_graph=True) for nhwc in (False, True)]
        return [BoundSession(way, feeds, shapes).run for way in ways]

    def _max_error(self, session: BoundSession) -> float:
        session.run()
        addresses = [value.data_ptr() for value in session.values().values()]
        kind = layer_models.NUMPY_TYPE[self.dtype]
        return self.benchmark.torch.layer_error(self.layer, self.x, self.second, addresses, kind)


def copies_of(layer: Layer, dtype: str) -> int:
    """How many copies of the layer a replay holds."""
    weights = math.prod(layer.w_shape) * layer_models.NUMPY_TYPE[dtype]().nbytes
    fitting = min(REPLAY_US / layer.floor_us(dtype), WEIGHTS_LIMIT / weights)
    return int(min(MOST_COPIES, max(FEWEST_COPIES, fitting)))
