"""Times a convolution as it is against its swapped form, for the rewriter's ``measure`` option."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from ort_cks.comparison.inputs import make_inputs
from ort_cks.comparison.sessions import BoundSession, Way, default_provider, one_line
from ort_cks.comparison.timing import interleaved
from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.load import load

WARMUP, RUNS = 5, 30


@dataclass(frozen=True)
class Timing:
    """Medians over the same number of runs taken in turn, in microseconds."""

    native_us: float
    swapped_us: float

    @property
    def native_is_faster(self) -> bool:
        return self.native_us < self.swapped_us

    def __str__(self) -> str:
        native, swapped = (
            f"{us:.1f} us" if us < 1000 else f"{us / 1000:.1f} ms" for us in (self.native_us, self.swapped_us)
        )
        return (
            f"native is faster here: {native}, swapped {swapped}"
            if self.native_is_faster
            else f"{swapped}, native {native}"
        )


def measure_node(native: onnx.ModelProto, swapped: onnx.ModelProto) -> Timing:
    """Times two small models, usually of one node each, on this machine's GPU if it has one, else its CPU.

    On a GPU both run from CUDA graphs, which leaves the host's time out, and the native model counts in the
    faster of the CUDA provider's layouts.

    Args:
        native: the operator as ONNX has it.
        swapped: what would take its place; its inputs may be in the other layout. Every extent is known.

    Raises:
        RewriteError: one of the two does not run, with ONNX Runtime's words.
    """
    provider = default_provider()
    feeds = {
        name: make_inputs(load(m), {}, {}, seed=0)[0]
        for name, m in (("native", native), ("swapped", swapped))
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("native", "swapped")}
        onnx.save(native, paths["native"])
        onnx.save(swapped, paths["swapped"])
        on_gpu = provider == "cuda"
        ways = [
            Way("swapped", paths["swapped"], provider, cuda_graph=on_gpu, with_library=True),
            Way("native", paths["native"], provider, cuda_graph=on_gpu),
        ]
        if on_gpu:
            ways.append(replace(ways[1], prefer_nhwc=True))
        latencies = interleaved([_open(way, feeds[way.label]).run for way in ways], WARMUP, RUNS)
    swapped_ms, *native_ms = (latency.p50_ms for latency in latencies)
    return Timing(native_us=min(native_ms) * 1e3, swapped_us=swapped_ms * 1e3)


def _open(way: Way, feeds: dict[str, np.ndarray]) -> BoundSession:
    try:
        shapes = {}
        if way.cuda_graph:
            plain = BoundSession(replace(way, cuda_graph=False), feeds)
            shapes = {name: array.shape for name, array in plain.outputs().items()}
        return BoundSession(way, feeds, shapes)
    except Exception as error:  # ONNX Runtime's exceptions share no documented base
        raise RewriteError(f"The {way.label} node cannot be measured: {one_line(error)}") from error
