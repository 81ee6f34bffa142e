"""A comparison as a picture: how the latencies of each contender are distributed."""

from pathlib import Path

import numpy as np

from ort_cks.comparison.inputs import BadInput
from ort_cks.comparison.result import ComparisonResult


def require_matplotlib() -> None:
    """Raises BadInput where matplotlib is missing, so that it is said before the runs and not after them."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BadInput("--plot needs matplotlib: pip install 'ort-cks[plot]'") from None


def save(result: ComparisonResult, path: Path) -> None:
    """Writes a PNG, whatever the file's name ends in."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    ran = [contender for contender in (result.ours, *result.baselines) if contender.latency]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges([ms for contender in ran for ms in contender.latency.runs_ms], bins=60)
    for index, contender in enumerate(ran):
        latency = contender.latency
        axes.hist(
            latency.runs_ms, edges, alpha=0.6, color=f"C{index}", label=f"{contender.label}, median marked"
        )
        axes.axvline(latency.p50_ms, color=f"C{index}")
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("runs")
    if ran:
        axes.legend()
    speedup = "" if result.speedup is None else f": {result.speedup:.2f}x"
    axes.set_title(f"{Path(result.model).name}, {result.precision} on {result.provider}{speedup}")
    figure.savefig(path, format="png", dpi=150)
