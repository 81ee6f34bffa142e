"""The report for people: one HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape

from ort_cks.graph_rewrite.records import NodeRecord
from ort_cks.graph_rewrite.report_text import shape_text, summary, zeros_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; margin: 2rem auto; max-width: 90rem;
  padding: 0 1rem }
h1 { font-size: 1.4rem; margin-bottom: 0 }
p { color: #56606a; margin-top: .2rem }
table { border-collapse: collapse; width: 100%; font-size: .87rem }
th { position: sticky; top: 0; background: #fff; text-align: left; color: #56606a; font-weight: 600 }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #e4e8ec; vertical-align: top }
td.name { overflow-wrap: anywhere; min-width: 9rem }
td.shape, td.zeros { white-space: nowrap; font-variant-numeric: tabular-nums }
.bar { display: inline-block; width: 4rem; height: .55rem; margin-right: .5rem; background: #e4e8ec }
.bar i { display: block; height: 100%; background: #2f7d5b }
tr.kept { color: #8a939c }
tr.kept .now { color: #b4541a }
.swapped .now { color: #2f7d5b; font-weight: 600 }
"""


def html_report(records: Sequence[NodeRecord], model: str, output: str | None) -> str:
    """A page with the table of all records; the shares of zeros are drawn as bars."""
    headings = ("Node", "Input", "Weights", "Output", "Zeros", "Now", "Fused", "Why")
    written = f" Written to {escape(output)}." if output else " Nothing was written."
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "\n".join(map(_row, records))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(model)}: convolutions</title>
<style>{_STYLE}</style>
<h1>{escape(model)}</h1>
<p>{escape(summary(records))}{written} Zeros: the share of a convolution's multiply-adds with a zero operand
that padding or a transposed convolution's stride put there.</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</html>
"""


def _row(record: NodeRecord) -> str:
    shapes = (record.input_shape, record.weight_shape, record.output_shape)
    bar = ""
    if record.zero_fraction is not None:
        bar = f'<span class="bar"><i style="width: {record.zero_fraction:.0%}"></i></span>'
    cells = [
        f'<td class="name">{escape(record.name)}</td>',
        *(f'<td class="shape">{escape(shape_text(shape))}</td>' for shape in shapes),
        f'<td class="zeros">{bar}{zeros_text(record)}</td>',
        f'<td class="now">{escape(record.new_op or record.op_type)}</td>',
        f"<td>{escape(', '.join(record.fused))}</td>",
        f"<td>{escape(record.reason)}</td>",
    ]
    return f'<tr class="{record.decision}">{"".join(cells)}</tr>'
