"""How the latencies of a comparison are distributed, as HTML that keeps its text readable at any width.

Only the bars are SVG, and they are stretched; labels and ticks are text that the page lays out.
"""

import math
from collections.abc import Sequence
from html import escape

from ort_cks.comparison.result import ComparisonResult, Contender
from ort_cks.comparison.timing import Latency

BINS = 64
HEIGHT = 100


def distribution(result: ComparisonResult) -> str:
    """A histogram for each contender that ran, one above the other, on one axis."""
    ran = [contender for contender in (result.ours, *result.baselines) if contender.latency]
    if not ran:
        return ""
    low = min(contender.latency.min_ms for contender in ran)
    high = max(contender.latency.p99_ms for contender in ran)
    if high <= low:
        low, high = low * 0.5, low * 1.5
    rows = "".join(_row(contender, low, high, contender is result.ours) for contender in ran)
    ticks = "".join(
        f'<span style="left:{_percent(tick, low, high):.2f}%">{tick:g}</span>' for tick in _ticks(low, high)
    )
    return (
        f'<figure class="chart">{rows}<div class="axis"><div>{ticks}</div></div>'
        f"<figcaption>Milliseconds a run; each bar is a share of that row's runs, the line is its median. "
        f"Each row's slowest hundredth may lie beyond the right edge.</figcaption></figure>"
    )


def _row(contender: Contender, low: float, high: float, ours: bool) -> str:
    latency = contender.latency
    counts = _counts(latency, low, high)
    bars = "".join(
        f'<rect x="{place}" y="{HEIGHT * (1 - count / max(counts)):.1f}" width="0.9" '
        f'height="{HEIGHT * count / max(counts):.1f}"/>'
        for place, count in enumerate(counts)
        if count
    )
    middle = BINS * _percent(latency.p50_ms, low, high) / 100
    words = (
        f"{contender.label}: {len(latency.runs_ms)} runs, median {latency.p50_ms:.3f} ms, "
        f"99 % within {latency.p99_ms:.3f} ms"
    )
    return (
        f'<div class="row{" ours" if ours else ""}"><div class="who">{escape(contender.label)}</div>'
        f'<svg viewBox="0 0 {BINS} {HEIGHT}" preserveAspectRatio="none" role="img">'
        f"<title>{escape(words)}</title>{bars}"
        f'<line x1="{middle:.2f}" x2="{middle:.2f}" y1="0" y2="{HEIGHT}"/></svg></div>'
    )


def _counts(latency: Latency, low: float, high: float) -> list[int]:
    counts = [0] * BINS
    for run in latency.runs_ms:
        if run <= high:
            counts[min(int((run - low) / (high - low) * BINS), BINS - 1)] += 1
    return counts


def _percent(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0) * 100


def _ticks(low: float, high: float) -> Sequence[float]:
    """Round numbers between the two, four at most: more do not fit a telephone."""
    step = 10.0 ** math.floor(math.log10(high - low))
    step *= next(factor for factor in (0.2, 0.5, 1, 2, 5) if (high - low) / (step * factor) <= 4)
    first = math.ceil(low / step)
    return [float(f"{i * step:.6g}") for i in range(first, math.floor(high / step) + 1)]
