"""Native or swapped, region by region: timed on this machine's GPU, or estimated where there is none."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ort_cks.comparison.inputs import make_inputs
from ort_cks.comparison.sessions import BoundSession, Way, default_provider, one_line
from ort_cks.comparison.timing import interleaved
from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.estimate import estimate_us
from ort_cks.graph_rewrite.load import load
from ort_cks.graph_rewrite.regions import regions
from ort_cks.graph_rewrite.simplify import serialize_inline

logger = logging.getLogger(__name__)

WARMUP, RUNS = 5, 30


@dataclass(frozen=True)
class Verdict:
    """On one region.

    Attributes:
        native_us, swapped_us: what it takes; infinite where it does not run.
        convolutions: how many the region holds.
        estimated: by arithmetic, not by a clock.
    """

    native_us: float
    swapped_us: float
    convolutions: int = 1
    estimated: bool = False

    @property
    def native_is_faster(self) -> bool:
        return self.native_us < self.swapped_us

    def __str__(self) -> str:
        where = f"its region of {self.convolutions}: " if self.convolutions > 1 else ""
        times = f"{_time(self.swapped_us)}, native {_time(self.native_us)}"
        if self.native_is_faster:
            times = f"native is faster{' here' if not self.estimated else ''}: {_time(self.native_us)}, "
            times += f"swapped {_time(self.swapped_us)}"
        return f"{where}{times}{', by estimate' if self.estimated else ''}"


NATIVE = Verdict(0.0, float("inf"))


def measure_regions(native: ir.Model, swapped: ir.Model, precision: str) -> dict[ir.Node, Verdict]:
    """A verdict for each ort_cks operator whose region has static shapes and, to be timed, less than 2 GB.

    Args:
        native, swapped: the model with all convolutions native, and with all of them swapped and laid out.
        precision: of float on a GPU, "tf32" or "fp32".

    Raises:
        RewriteError: a region runs neither way, with ONNX Runtime's words.
    """
    on_gpu = default_provider() == "cuda"
    if not on_gpu:
        logger.warning("No GPU to measure on: what to swap is decided by estimate, for an H200.")
    found, verdicts = regions(native.graph, swapped.graph), {}
    for done, region in enumerate(found):
        logger.info("measuring region %d of %d, from %s", done + 1, len(found), region.swapped[0].name)
        if on_gpu:
            try:
                parts = (_model(native, region.native_graph), _model(swapped, region.swapped_graph))
            except RewriteError:
                logger.warning(
                    "The region from %s is swapped without being timed: its weights exceed 2 GB.",
                    region.swapped[0].name,
                )
                continue
            native_us, swapped_us = measure_us(*parts, "cuda", strict=precision == "fp32")
        else:
            graphs = (region.native_graph, region.swapped_graph)
            native_us, swapped_us = (estimate_us(graph, precision) for graph in graphs)
        verdict = Verdict(native_us, swapped_us, len(region.swapped), estimated=not on_gpu)
        verdicts |= dict.fromkeys(region.swapped, verdict)
    return verdicts


def measure_us(
    native: onnx.ModelProto, swapped: onnx.ModelProto, provider: str, strict: bool = False
) -> tuple[float, float]:
    """Medians of two small models, run in turn; infinite for one that does not run.

    On a GPU both run from CUDA graphs, which leaves the host's time out, and the native model counts in the
    faster of the CUDA provider's layouts.

    Args:
        native, swapped: they may have different inputs. Every extent is known.
        provider: "cuda" or "cpu".
        strict: without TF32.

    Raises:
        RewriteError: neither runs.
    """
    feeds = {
        name: make_inputs(load(m), {}, {}, seed=0)[0]
        for name, m in (("native", native), ("swapped", swapped))
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("native", "swapped")}
        onnx.save(native, paths["native"])
        onnx.save(swapped, paths["swapped"])
        on_gpu = provider == "cuda"
        common = {"tf32": not strict, "cuda_graph": on_gpu}
        ways = [
            Way("swapped", paths["swapped"], provider, with_library=True, **common),
            Way("native", paths["native"], provider, **common),
        ]
        if on_gpu:
            ways.append(replace(ways[1], prefer_nhwc=True))
        opened, problems = [], []
        for way in ways:
            try:
                opened.append((way.label, _open(way, feeds[way.label])))
            except Exception as error:  # ONNX Runtime's exceptions share no documented base
                problems.append(one_line(error))
        if not opened:
            raise RewriteError(f"A region cannot be measured, as it runs neither way: {problems[0]}")
        latencies = interleaved([session.run for _, session in opened], WARMUP, RUNS)
    taken = {"native": float("inf"), "swapped": float("inf")}
    for (label, _), latency in zip(opened, latencies, strict=True):
        taken[label] = min(taken[label], latency.p50_ms * 1e3)
    return taken["native"], taken["swapped"]


def _open(way: Way, feeds: Mapping[str, np.ndarray]) -> BoundSession:
    shapes = {}
    if way.cuda_graph:
        plain = BoundSession(replace(way, cuda_graph=False), feeds)
        shapes = {name: array.shape for name, array in plain.outputs().items()}
    return BoundSession(way, feeds, shapes)


def _model(model: ir.Model, graph: ir.Graph) -> onnx.ModelProto:
    return serialize_inline(ir.Model(graph, ir_version=max(model.ir_version, 8)))


def _time(us: float) -> str:
    if us == float("inf"):
        return "does not run"
    return f"{us:.1f} us" if us < 1000 else f"{us / 1000:.1f} ms"
