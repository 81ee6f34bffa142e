"""Writes the results as tables into docs/results.md; needs no GPU.

    python -m benchmarks.report

What each file of results says stands between `<!-- NAME -->` and `<!-- end NAME -->`; everything else on the
page is left as it is.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import results_file
from benchmarks.plots import DOCS, RESULTS
from benchmarks.results_file import (
    COMPARISONS,
    LAUNCH_US,
    LONG_FLOOR_US,
    TYPE_NAMES,
    geomean,
    grouped,
    ratios,
    within_reach,
)

Rows = list[dict]

HEADINGS = {
    "ours_us": "ort_cks",
    "ours_hot_us": "ort_cks, hot",
    "torch_us": "PyTorch",
    "torch_hot_us": "PyTorch, hot",
    "compile_us": "torch.compile",
    "ort_us": "ONNX Runtime",
    "sm80_us": "cuDNN for sm_80",
    "floor_us": "floor",
}
OVER = (("ort_us", "ours_us"), ("torch_us", "ours_us"))  # of a model


def summary(rows: Rows, *keys: str) -> str:
    """Speed-ups and distance to the floor of the rows that share the values of `keys`."""
    compared = [pair for pair in COMPARISONS if ratios(rows, *pair)]
    headings = [f"over {HEADINGS[slower]}: geomean / least" for slower, _ in compared]
    with_floors = all("floor_us" in row for row in rows)
    lines = []
    for values, alike in grouped(rows, *keys).items():
        cells = [TYPE_NAMES.get(value, value.replace("_", " ")) for value in values] + [str(len(alike))]
        for pair in compared:
            speedups = ratios(alike, *pair)
            cells.append(f"{geomean(speedups):.2f} / {min(speedups):.2f}" if speedups else "")
        if with_floors:
            long = ratios([row for row in alike if row["floor_us"] >= LONG_FLOOR_US], "ours_us", "floor_us")
            reach = within_reach(alike)
            cells.append(f"{reach:.2f}" if reach else "")
            cells.append(f"{geomean(long):.2f} / {max(long):.2f}" if long else "")
        cells.append(f"{max((row['max_error'] for row in alike if 'max_error' in row), default=0):.1e}")
        lines.append(cells)
    floors = [
        f"PyTorch over the floor and {LAUNCH_US} µs",
        f"over a floor of {LONG_FLOOR_US} µs and more: geomean / most",
    ]
    floors = floors if with_floors else []
    return _table([*keys, "layers" if with_floors else "models", *headings, *floors, "largest error"], lines)


def times(rows: Rows) -> str:
    """A line a row, in a table for each data type."""
    tables = []
    for (dtype,), of_type in grouped(rows, "dtype").items():
        columns = [column for column in HEADINGS if any(column in row for row in of_type)]
        facts = [fact for fact in ("name", "shape") if fact in of_type[0]]
        lines = []
        for row in of_type:
            cells = [_time(row, column, 2) for column in columns]
            cells += _quotients(row, ("torch_us", "ours_us"), ("ours_us", "floor_us"))
            lines.append([*(row[fact] for fact in facts), *cells])
        headings = [*facts, *(HEADINGS[column] for column in columns), "over PyTorch", "floors"]
        tables.append(f"{TYPE_NAMES[dtype]}, µs:\n\n{_table(headings, lines)}")
    return "\n\n".join(tables)


def models(rows: Rows) -> str:
    """Speed-ups, times, where they went, and what a start costs."""
    parts = [summary(rows, "dtype")]
    for (dtype,), of_type in grouped(rows, "dtype").items():
        columns = [column for column in HEADINGS if any(column in row for row in of_type)]
        lines = []
        for row in of_type:
            cells = [_time(row, column, 1) for column in columns]
            cells += _quotients(row, *OVER)
            for column in ("start_s", "memory_mb"):
                cells.append(" / ".join(str(row.get(side + column, "-")) for side in ("", "ort_")))
            cells.append(str(row.get("rewrite_s", "")))
            lines.append([row["name"], *cells])
        headings = ["name", *(HEADINGS[column] for column in columns)]
        headings += [f"over {HEADINGS[slower]}" for slower, _ in OVER]
        headings += ["start, s: ort_cks / ONNX Runtime", "GPU memory, MB: the same", "rewriting, s"]
        parts.append(f"{TYPE_NAMES[dtype]}, µs:\n\n{_table(headings, lines)}")
        parts.append(f"{TYPE_NAMES[dtype]}, µs of kernels, ort_cks / ONNX Runtime:\n\n{_kinds(of_type)}")
    return "\n\n".join(parts)


def portable(rows: Rows) -> str:
    """A line a layer, ours and cuDNN's for sm_80 in each data type, where its search has one."""
    dtypes = [dtype for (dtype,) in grouped(rows, "dtype")]
    summaries, lines = [], []
    for (dtype,), of_type in grouped(rows, "dtype").items():
        speedups = ratios(of_type, "sm80_us", "ours_us")
        of_all = f"{geomean(speedups):.2f} / {min(speedups):.2f}" if speedups else ""
        errors = [row["max_error"] for row in of_type if "max_error" in row]
        largest = f"{max(errors):.1e}" if errors else "not measured"
        summaries.append([TYPE_NAMES[dtype], str(len(speedups)), of_all, largest])
    for (name,), of_layer in grouped(rows, "name").items():
        of_type = {row["dtype"]: row for row in of_layer}
        cells = []
        for dtype in dtypes:
            row = of_type.get(dtype, {})
            cells += [f"{row[side]:.1f}" if side in row else "" for side in ("ours_us", "sm80_us")]
            cells += _quotients(row, ("sm80_us", "ours_us"))
        lines.append([name, *cells])
    sides = ("ort_cks", "cuDNN", "over cuDNN")
    headings = [f"{TYPE_NAMES[dtype]} {side}" for dtype in dtypes for side in sides]
    over = f"over {HEADINGS['sm80_us']}: geomean / least"
    summary = _table(["dtype", "layers", over, "largest error"], summaries)
    return f"{summary}\n\nµs:\n\n{_table(['name', *headings], lines)}"


def _time(row: dict, column: str, digits: int) -> str:
    if column in row:
        return f"{row[column]:.{digits}f}"
    failures = row.get("failures", {})
    return "failed" if "failure" in row or "layer" in failures or column in failures else "not timed"


def _quotients(row: dict, *pairs: tuple[str, str]) -> list[str]:
    """The first of each pair over the second; nothing where one of them failed."""
    return ["".join(f"{value:.2f}" for value in ratios([row], *pair)) for pair in pairs]


def _kinds(rows: Rows) -> str:
    """Where the time went, by kind of kernel; kernels that overlap count in full."""
    sides = ("kernels_us", "ort_kernels_us")
    kinds = list(dict.fromkeys(kind for row in rows for side in sides for kind in row.get(side, ())))
    lines = []
    for row in rows:
        taken = [[row.get(side, {}).get(kind) for side in sides] for kind in kinds]
        cells = [" / ".join("-" if us is None else f"{us:.0f}" for us in both) for both in taken]
        lines.append([row["name"], *cells])
    return _table(["name", *kinds], lines)


# Of each results: how they are summed up, and what their picture shows, if they have one.
SUMMARIES: dict[str, tuple[Callable[[Rows], str], str | None]] = {
    "layers": (lambda rows: summary(rows, "dtype"), "Time over the floor, by layer"),
    "random": (lambda rows: summary(rows, "dtype"), "Speed-up against the floor, by family"),
    "sweeps": (
        lambda rows: summary(rows, "dtype", "name", "size"),
        "Time against batch, map, channels, dilation",
    ),
    "paper": (
        lambda rows: summary(rows, "operator", "dtype"),
        "Speed-up against the map's size, by operator",
    ),
    "models": (models, "Speed-up, by model"),
    "portable": (portable, None),
}
IN_FULL = ("layers", "random")  # each row has a line too


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(headings)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *lines))


def fill(text: str, results: Path) -> str:
    """The text with the results in the places that it has for them."""
    for name, (sum_up, shown) in SUMMARIES.items():
        path = results / f"{name}-h200.json"
        if path.exists():
            header, rows = results_file.read(path)
            tables = f"{times(rows)}\n\n" if name in IN_FULL else ""
            picture = f"![{shown}]({name}.svg)\n\n" if shown else ""
            block = f"{sum_up(rows)}\n\n{picture}{tables}{results_file.provenance(header)}"
        else:
            block = "Not measured yet."
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"the page has no {begin} followed by {end}")
        text = f"{before}{begin}\n{block}\n{end}{after}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--page", type=Path, default=DOCS / "results.md", metavar="FILE")
    options = parser.parse_args()
    options.page.write_text(fill(options.page.read_text(), options.results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
