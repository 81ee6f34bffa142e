"""A comparison as one HTML file that needs nothing from anywhere: styles and drawings are inside."""

import json
from collections.abc import Iterable
from html import escape

from ort_cks.comparison import report_text
from ort_cks.comparison.placement import NodeRow
from ort_cks.comparison.result import ComparisonResult, Contender

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { padding: .6rem .9rem; border-radius: .4rem; background: #e3f4e6; }
.verdict.bad { background: #fbe3e0; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #dde2ea; text-align: left; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
svg text { font: 12px system-ui, sans-serif; }
"""
COLOURS = ("#4a7ebb", "#c0723a", "#7a7f8a")
WIDTH, LEFT, ROW = 900, 150, 46
BINS = 60


def render(result: ComparisonResult) -> str:
    summary = [report_text.speedup(result), report_text.placement(result)]
    good = "" if result.ok else " bad"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(result.model)}: ort_cks comparison</title>
<style>{STYLE}</style></head><body>
<h1>{escape(result.model)} against {escape(result.rewritten)}</h1>
<p class="verdict{good}">{escape(report_text.verdict(result))}</p>
{"".join(f"<p>{escape(line)}</p>" for line in summary)}
<h2>Latency</h2>
{_latency_table(result)}
{_distribution(result)}
<h2>Errors</h2>
<p>Against {escape(result.reference)}. Share: of the root mean square of the output.</p>
{_error_table(result)}
<h2>Convolutions</h2>
{_node_table(result)}
<h2>Setting</h2>
{_setting(result)}
</body></html>
"""


def _table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Cells come in as text or whole numbers; those that start with a digit are set to the right."""

    def cell(tag: str, value: object) -> str:
        text = str(value)
        numeric = ' class="n"' if text[:1].isdigit() else ""
        return f"<{tag}{numeric}>{escape(text)}</{tag}>"

    head = "".join(cell("th", name) for name in header)
    body = "".join("<tr>" + "".join(cell("td", value) for value in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _latency_table(result: ComparisonResult) -> str:
    def row(contender: Contender) -> list[str]:
        latency = contender.latency
        if latency is None:
            return [contender.label, f"failed: {contender.failure}", "", "", ""]
        numbers = (latency.min_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms)
        return [contender.label, *(f"{number:.3f}" for number in numbers)]

    header = ("", "min ms", "p50 ms", "p90 ms", "p99 ms")
    return _table(header, [row(contender) for contender in (result.ours, *result.baselines)])


def _distribution(result: ComparisonResult) -> str:
    """A histogram for each contender, one above the other, on one axis without the slowest hundredth."""
    ran = [contender for contender in (result.ours, *result.baselines) if contender.latency]
    if not ran:
        return ""
    low = min(contender.latency.min_ms for contender in ran)
    high = max(contender.latency.p99_ms for contender in ran)
    span = max(high - low, 1e-9)
    width = (WIDTH - LEFT) / BINS
    parts = []
    for index, contender in enumerate(ran):
        counts = [0] * BINS
        for value in contender.latency.runs_ms:
            counts[min(int((value - low) / span * BINS), BINS - 1)] += value <= high
        base = (index + 1) * ROW
        parts.append(f'<text x="0" y="{base - 4}">{escape(contender.label)}</text>')
        for place, count in enumerate(counts):
            height = count / max(counts) * (ROW - 8)
            parts.append(
                f'<rect x="{LEFT + place * width:.1f}" y="{base - height:.1f}" width="{width - 1:.1f}" '
                f'height="{height:.1f}" fill="{COLOURS[index % len(COLOURS)]}"/>'
            )
        middle = LEFT + (contender.latency.p50_ms - low) / span * (WIDTH - LEFT)
        parts.append(
            f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{base - ROW + 6}" y2="{base}" stroke="#1c2330"/>'
        )
    foot = len(ran) * ROW + 18
    parts.append(f'<text x="{LEFT}" y="{foot}">{low:.3f} ms</text>')
    parts.append(f'<text x="{WIDTH}" y="{foot}" text-anchor="end">{high:.3f} ms</text>')
    title = "Distribution of latencies; the line marks the median"
    body = f"<title>{title}</title>{''.join(parts)}"
    return f'<svg viewBox="0 0 {WIDTH} {foot + 6}" role="img">{body}</svg>'


def _error_table(result: ComparisonResult) -> str:
    rows = []
    for contender in (result.ours, result.baseline):
        for output in contender.outputs:
            if output.problem:
                rows.append((output.name, contender.label, output.problem, "", "", ""))
                continue
            sizes = (f"{output.max_abs:.2e}", f"{output.relative:.2e}")
            rows.append(
                (output.name, contender.label, *sizes, f"{output.beyond} of {output.count}", output.nonfinite)
            )
    return _table(("output", "run", "largest", "share", "beyond the tolerance", "NaN or Inf"), rows)


def _node_table(result: ComparisonResult) -> str:
    rows = []
    for node in result.nodes:
        zeros = "" if node.zero_fraction is None else f"{node.zero_fraction:.1%}"
        rows.append((node.name, node.op, _place(node), zeros, ", ".join(node.fused), node.note))
    return _table(("node", "operator", "ran on", "zeros skipped", "fused", "note"), rows)


def _place(node: NodeRow) -> str:
    if node.ran_as is None:
        return "not in the profile"
    return node.provider if node.ran_as == node.op else f"{node.provider}, as {node.ran_as}"


def _setting(result: ComparisonResult) -> str:
    rows = [
        *result.machine.items(),
        *((f"input {name}", text) for name, text in result.inputs.items()),
        ("precision", result.precision),
        ("provider", result.provider),
        ("CUDA graph", "on" if result.cuda_graph else "off"),
        ("tolerance", f"|error| <= {result.tolerance}"),
        *(("note", note) for note in result.notes),
    ]
    data = json.dumps(result.as_dict()).replace("</", "<\\/")  # a name cannot end the script element
    return f'{_table(("", ""), rows)}<script type="application/json" id="result">{data}</script>'
