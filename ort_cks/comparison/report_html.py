"""A comparison as one HTML file that needs nothing from anywhere: styles and drawings are inside."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ort_cks.comparison import report_text
from ort_cks.comparison.errors import OutputError
from ort_cks.comparison.placement import NodeRow
from ort_cks.comparison.report_chart import distribution
from ort_cks.comparison.report_style import STYLE
from ort_cks.comparison.result import ComparisonResult, Contender


def render(result: ComparisonResult) -> str:
    title = Path(result.model).name
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}: ort_cks comparison</title>
<style>{STYLE}</style></head><body><main>
<h1>{escape(title)}</h1>
<p class="soft">{escape(result.model)} against its rewritten form, {escape(result.rewritten)}:
{escape(_conditions(result))}</p>
<p class="verdict{"" if result.ok else " bad"}">{escape(report_text.verdict(result))}</p>
<div class="tiles">{"".join(_tiles(result))}</div>
<section><h2>Latency</h2><p>{escape(report_text.speedup(result))}</p>
{_latency_table(result)}{distribution(result)}</section>
<section><h2>Errors</h2>
<p>Against {escape(result.reference)}; the share is of the root mean square of the output.</p>
{_error_table(result)}</section>
<section><h2>Convolutions</h2><p>{escape(report_text.placement(result).removeprefix("nodes").strip())}</p>
{_node_table(result)}</section>
<section><h2>Setting</h2>{_setting(result)}</section>
</main><script type="application/json" id="result">{_data(result)}</script></body></html>
"""


def _conditions(result: ComparisonResult) -> str:
    graph = ", both from CUDA graphs" if result.cuda_graph else ""
    return f"{result.precision} on {result.machine.get('machine', result.provider)}{graph}"


def _tiles(result: ComparisonResult) -> Iterable[str]:
    """The findings that matter most, each where it is known."""

    def tile(figure: str, words: str, kind: str = "") -> str:
        return f'<div class="tile{kind}"><b>{escape(figure)}</b><span>{escape(words)}</span></div>'

    if result.speedup is not None:
        yield tile(f"{result.speedup:.2f}x", f"as fast as '{result.baseline.label}'", " lead")
        ours, theirs = (side.latency.p50_ms for side in (result.ours, result.baseline))
        yield tile(f"{ours:.3f} ms", f"median of a run, against {theirs:.3f} ms")
    if result.zeros_skipped is not None:
        yield tile(f"{result.zeros_skipped:.0%}", "of the multiply-adds are zeros, and skipped")
    yield tile(f"{len(result.ran_in_our_ops)} of {len(result.nodes)}", "convolutions ran in ort_cks")
    if result.ours.outputs:
        yield tile(f"{result.ours.max_error:.1e}", "largest error, as a share of its output")


@dataclass(frozen=True)
class _Column:
    """Of a table. On a phone each row is a card, where a cell bears its column's heading, if it has one."""

    heading: str
    kind: str = ""

    def head(self) -> str:
        return f'<th class="{self.kind}">{escape(self.heading)}</th>'

    def cell(self, html: str) -> str:
        label = f' data-label="{escape(self.heading)}"' if self.heading else ""
        return f'<td class="{self.kind}"{label}>{html}</td>'


_NAME = _Column("", "name")


def _numbers(*headings: str) -> list[_Column]:
    return [_Column(heading, "n") for heading in headings]


def _table(columns: Sequence[_Column], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """rows: the class of each, and the HTML of its cells."""
    body = "".join(
        f'<tr class="{kind}">'
        + "".join(column.cell(html) for column, html in zip(columns, cells, strict=True))
        + "</tr>"
        for kind, cells in rows
    )
    return f"<table><tr>{''.join(column.head() for column in columns)}</tr>{body}</table>"


def _latency_table(result: ComparisonResult) -> str:
    def row(contender: Contender) -> tuple[str, list[str]]:
        kind, latency = "ours" if contender is result.ours else "", contender.latency
        if latency is None:
            return kind, [escape(contender.label), f"failed: {escape(contender.failure or '')}", "", "", ""]
        numbers = (latency.min_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms)
        return kind, [escape(contender.label), *(f"{number:.3f}" for number in numbers)]

    columns = [_NAME, *_numbers("min ms", "p50 ms", "p90 ms", "p99 ms")]
    return _table(columns, map(row, (result.ours, *result.baselines)))


def _error_table(result: ComparisonResult) -> str:
    def cells(output: OutputError, contender: Contender) -> list[str]:
        who = [escape(output.name), escape(contender.label)]
        if output.problem:
            return [*who, f'<span class="bad">{escape(output.problem)}</span>', "", "", ""]
        beyond = f"{output.beyond} of {output.count}"
        beyond = f'<span class="bad">{beyond}</span>' if output.beyond else beyond
        return [*who, f"{output.max_abs:.2e}", f"{output.relative:.2e}", beyond, str(output.nonfinite)]

    columns = [_NAME, _Column("run"), *_numbers("largest", "share", "beyond the tolerance", "NaN or Inf")]
    sides = (("ours", result.ours), ("", result.baseline))
    return _table(columns, ((kind, cells(output, side)) for kind, side in sides for output in side.outputs))


def _node_table(result: ComparisonResult) -> str:
    columns = [_NAME, _Column("operator"), _Column("ran on"), _Column("zeros", "zeros")]
    columns += [*_numbers("million multiply-adds"), _Column("fused")]
    notes = any(node.note for node in result.nodes)

    def row(node: NodeRow) -> tuple[str, list[str]]:
        cells = [*map(escape, (node.name, node.op, _place(node))), _zeros(node)]
        cells += map(escape, (_millions(node), ", ".join(node.fused)))
        return "", [*cells, escape(node.note)] if notes else cells

    return _table([*columns, _Column("note")] if notes else columns, map(row, result.nodes))


def _zeros(node: NodeRow) -> str:
    if node.zero_fraction is None:
        return ""
    bar = f'<span class="share"><i style="width:{node.zero_fraction:.1%}"></i></span>'
    return f"{bar}{node.zero_fraction:.1%}"


def _millions(node: NodeRow) -> str:
    return "" if node.multiply_adds is None else f"{node.multiply_adds / 1e6:,.1f}"


def _place(node: NodeRow) -> str:
    if node.ran_as is None:
        return "not in the profile"
    provider = (node.provider or "").removesuffix("ExecutionProvider")
    return provider if node.ran_as == node.op else f"{provider}, as {node.ran_as}"


def _setting(result: ComparisonResult) -> str:
    facts = [
        *result.machine.items(),
        *((f"input {name}", text) for name, text in result.inputs.items()),
        ("precision", result.precision),
        ("provider", result.provider),
        ("CUDA graph", "on" if result.cuda_graph else "off"),
        ("tolerance", f"|error| <= {result.tolerance}"),
        *(("note", note) for note in result.notes),
    ]
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts) + "</dl>"


def _data(result: ComparisonResult) -> str:
    """Everything that was found, for programs."""
    return json.dumps(result.as_dict()).replace("</", "<\\/")  # a name cannot end the script element
