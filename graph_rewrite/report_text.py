"""The table that the rewriter prints: one row a convolution."""

import textwrap
from collections.abc import Sequence

from ort_cks.graph_rewrite.records import NodeRecord, Shape

_HEADINGS = ("node", "input", "weights", "output", "zeros", "now")
_LONGEST_NAME = 30


def table(records: Sequence[NodeRecord], width: int = 120) -> str:
    """Plain text, at most `width` columns where that is 100 or more; long reasons go on below themselves."""
    if not records:
        return "The model has no Conv or ConvTranspose."
    rows = [_HEADINGS, *map(_cells, records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    indent = sum(widths) + 2 * len(widths)
    lines = []
    for row, last in zip(rows, ["fused, and why", *map(why, records)], strict=True):
        aligned = [
            cell.rjust(w) if i == _HEADINGS.index("zeros") else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        first, *rest = textwrap.wrap(last, max(20, width - indent)) or [""]
        lines.append(("  ".join(aligned) + "  " + first).rstrip())
        lines += [" " * indent + line for line in rest]
    return "\n".join(lines)


def summary(records: Sequence[NodeRecord]) -> str:
    """One line: how many were swapped."""
    swapped = sum(record.decision == "swapped" for record in records)
    return f"{swapped} of {len(records)} convolutions swapped."


def shape_text(shape: Shape | None) -> str:
    """ "1x64xHx?": a name that is longer than a word of six letters is one that some tool has made up."""
    if shape is None:
        return "?"
    return "x".join("?" if isinstance(dim, str) and len(dim) > 6 else str(dim) for dim in shape)


def zeros_text(record: NodeRecord) -> str:
    return "?" if record.zero_fraction is None else f"{record.zero_fraction:.0%}"


def why(record: NodeRecord) -> str:
    """What was fused, and the reason."""
    fused = ", ".join(record.fused).replace("BatchNormalization", "BatchNorm")
    return f"+ {fused}: {record.reason}" if fused else record.reason


def _cells(record: NodeRecord) -> tuple[str, ...]:
    shapes = map(shape_text, (record.input_shape, record.weight_shape, record.output_shape))
    return (_shortened(record.name), *shapes, zeros_text(record), record.new_op or record.op_type)


def _shortened(name: str) -> str:
    """Keeps both ends: exporters put the module's path in front and a running number behind."""
    if len(name) <= _LONGEST_NAME:
        return name
    tail = _LONGEST_NAME // 2
    return f"{name[: _LONGEST_NAME - tail - 2]}..{name[-tail:]}"
