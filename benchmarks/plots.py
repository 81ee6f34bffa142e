"""Draws the results as pictures for the documentation; needs matplotlib (the extra `plot`), but no GPU.

python -m benchmarks.plots        # benchmarks/results/*-h200.json to docs/*.svg, of those that are there
"""

import argparse
import math
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import results_file
from benchmarks.paper import OPERATORS
from benchmarks.results_file import TYPE_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = list[dict]
Points = list[tuple[float, float]]

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
# Of a column of times: name, marker, colour, filled or not.
SIDES = {
    "ours_us": ("ort_cks", "o", "#0072b2", True),
    "ours_hot_us": ("ort_cks, hot", "o", "#0072b2", False),
    "torch_us": ("PyTorch + cuDNN", "s", "#d55e00", True),
    "torch_hot_us": ("PyTorch + cuDNN, hot", "s", "#d55e00", False),
    "ort_us": ("ONNX Runtime", "^", "#7f7f7f", True),
    "compile_us": ("torch.compile", "D", "#009e73", True),
}
LINES = {"fp16": "-", "tf32": "--", "fp32": ":"}
CHARACTERS_AN_INCH = 13  # of small print
SPEEDUP = "speed-up over PyTorch + cuDNN"


def layers(rows: Rows) -> "Figure":
    """How many floors each side takes."""
    figure, panels = _panels_by_type(rows, height=8.5)
    names = list(dict.fromkeys(row["name"] for row in rows))
    for dtype, panel, of_type in panels:
        for column, (label, marker, colour, filled) in SIDES.items():
            timed = [row for row in of_type if column in row]
            floors = [(row[column] / row["floor_us"], names.index(row["name"])) for row in timed]
            _plot(panel, floors, marker, color=colour, mfc=colour if filled else "none", ms=5, label=label)
        panel.axvline(1, color="black", lw=1)
        panel.set_xscale("log")
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_title(f"{TYPE_NAMES[dtype]}, {len(of_type)} layers")
        panel.set_xlabel("time over the floor")
    sides = figure.axes[0].get_legend_handles_labels()
    figure.legend(*sides, loc="outside upper center", ncols=5, fontsize="small")
    return figure


def random(rows: Rows) -> "Figure":
    """Speed-up of layers that nobody tuned on, by family."""
    figure, panels = _panels_by_type(rows, height=5)
    family_of = {row["name"]: row["name"].rpartition("_")[0] for row in rows}
    for dtype, panel, of_type in panels:
        speedups = _speedups(of_type)
        for index, family in enumerate(dict.fromkeys(family_of.values())):
            points = [(row["floor_us"], s) for row, s in speedups if family_of[row["name"]] == family]
            _plot(panel, points, "o", color=f"C{index}", ms=5, label=family)
        mean = results_file.geomean(s for _, s in speedups)
        panel.axhline(mean, color="black", lw=1, ls="--")
        panel.set_title(f"{TYPE_NAMES[dtype]}: geomean {mean:.2f}, least {min(s for _, s in speedups):.2f}")
        panel.set_xscale("log")
        panel.set_xlabel("floor, µs")
    _speedup_axis(figure, [s for _, s in _speedups(rows)])
    figure.suptitle(f"{len(family_of)} random layers, seed {rows[0]['seed']}; dashed: geomean")
    return figure


def sweeps(rows: Rows) -> "Figure":
    """Time against each size."""
    groups = results_file.grouped(rows, "name", "size")
    columns = math.ceil(len(groups) / 2)
    figure = _figure(4 * columns, 7.5)
    for index, ((name, size), of_sweep) in enumerate(groups.items()):
        panel = figure.add_subplot(2, columns, index + 1)
        for (dtype,), of_type in results_file.grouped(of_sweep, "dtype").items():
            for column in ("ours_us", "torch_us", "floor_us"):
                label, marker, colour, _ = SIDES.get(column, ("floor", "", "black", True))
                points = [(row["value"], row[column]) for row in of_type if column in row]
                style = {"ls": LINES[dtype], "marker": marker, "ms": 4, "color": colour}
                _plot(panel, points, label=f"{label}, {TYPE_NAMES[dtype]}", **style)
        _log2(panel, "x", [row["value"] for row in of_sweep])
        panel.set_yscale("log")
        panel.set_xlabel(size)
        panel.set_ylabel("time, µs")
        panel.set_title(f"{name}: {size}", fontsize="medium")
    figure.axes[0].legend(fontsize="small")
    figure.suptitle("How the time grows")
    return figure


def paper(rows: Rows) -> "Figure":
    """Speed-up of the three operators against the map's size."""
    figure = _figure(13, 5.5)
    axes = figure.subplots(1, len(OPERATORS), sharey=True)
    for panel, operator in zip(axes, OPERATORS, strict=True):
        speedups = _speedups([row for row in rows if row["operator"] == operator])
        for index, (dtype, name) in enumerate(TYPE_NAMES.items()):
            points = [(row["map"], s) for row, s in speedups if row["dtype"] == dtype]
            sizes = sorted({size for size, _ in points})
            means = [(size, results_file.geomean(s for at, s in points if at == size)) for size in sizes]
            _plot(panel, points, ".", color=f"C{index}", alpha=0.35)
            _plot(panel, means, "o-", color=f"C{index}", label=f"{name}, geomean")
        _log2(panel, "x", [row["map"] for row in rows])
        panel.set_title(operator.replace("_", " "))
        panel.set_xlabel("map: height and width of the Conv's input, pixels")
    _speedup_axis(figure, [s for _, s in _speedups(rows)])
    figure.suptitle(
        "The C-K-S paper's comparison with PyTorch (a dot: one filter, stride and batch). Its authors, of "
        "theirs:\n“C-K-S has advantages over PyTorch in certain cases, especially in deconvolution on small "
        "feature-maps” (arXiv 2306.15951v2)",
        fontsize="medium",
    )
    return figure


def models(rows: Rows) -> "Figure":
    """Speed-up of whole models over each other side."""
    figure, panels = _panels_by_type(rows, height=4.5)
    names = list(dict.fromkeys(row["name"] for row in rows))
    for dtype, panel, of_type in panels:
        means = []
        for column in ("ort_us", "torch_us", "compile_us"):
            label, marker, colour, _ = SIDES[column]
            timed = [row for row in of_type if row.get(column) and row.get("ours_us")]
            points = [(row[column] / row["ours_us"], names.index(row["name"])) for row in timed]
            _plot(panel, points, marker, color=colour, ms=6, label=f"over {label}")
            if points:
                means.append(f"{results_file.geomean(x for x, _ in points):.2f} over {label}")
        panel.axvline(1, color="black", lw=1)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_xlim(left=0)
        panel.set_title(f"{TYPE_NAMES[dtype]}: {', '.join(means)}", fontsize="small")
        panel.set_xlabel("speed-up")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize="small"
    )
    return figure


# Each draws the results of its name.
PICTURES: dict[str, Callable[[Rows], "Figure"]] = {
    "layers": layers,
    "random": random,
    "sweeps": sweeps,
    "paper": paper,
    "models": models,
}


def _panels_by_type(rows: Rows, height: float) -> "tuple[Figure, list[tuple[str, Axes, Rows]]]":
    """A panel for each data type, and its rows."""
    groups = results_file.grouped(rows, "dtype")
    figure = _figure(2 + 4 * len(groups), height)
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    panels = zip(axes, groups.items(), strict=True)
    return figure, [(dtype, panel, of_type) for panel, ((dtype,), of_type) in panels]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    return Figure(figsize=(width, height), layout="constrained")


def _plot(panel: "Axes", points: Points, *style: str, **details: object) -> None:
    if points:
        panel.plot(*zip(*points, strict=True), *style, **details)
        panel.grid(visible=True, alpha=0.3)


def _speedups(rows: Rows) -> list[tuple[dict, float]]:
    """The rows in which both sides ran, with their speed-ups."""
    timed = [row for row in rows if row.get("torch_us") and row.get("ours_us")]
    return list(zip(timed, results_file.ratios(timed, "torch_us", "ours_us"), strict=True))


def _speedup_axis(figure: "Figure", speedups: list[float]) -> None:
    for panel in figure.axes:
        panel.axhline(1, color="black", lw=1)
        _log2(panel, "y", [1, *speedups])
    figure.axes[0].set_ylabel(SPEEDUP)
    figure.axes[0].legend(fontsize="small")


def _log2(panel: "Axes", axis: str, values: Iterable[float]) -> None:
    exponents = [math.log2(value) for value in values]
    ticks = [2.0**e for e in range(math.floor(min(exponents)), math.ceil(max(exponents)) + 1)]
    getattr(panel, f"set_{axis}scale")("log", base=2)
    getattr(panel, f"set_{axis}ticks")(ticks, [f"{tick:g}" for tick in ticks])


def save(name: str, source: Path, target: Path) -> None:
    """Draws one of PICTURES; below it stands what it was measured on."""
    from matplotlib import rc_context

    header, rows = results_file.read(source)
    # Text as text and no dates or random names: the same results give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = PICTURES[name](rows)
        wide = int(CHARACTERS_AN_INCH * figure.get_figwidth())
        figure.supxlabel(textwrap.fill(results_file.provenance(header), wide), fontsize="small")
        figure.savefig(target, format="svg", metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="FOLDER")
    options = parser.parse_args()
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        sys.exit("drawing needs matplotlib: pip install 'ort-cks[plot]'")
    for name in PICTURES:
        source, target = options.results / f"{name}-h200.json", options.docs / f"{name}.svg"
        if source.exists():
            save(name, source, target)
            print(f"{target} from {source.name}")
        else:
            print(f"no {source.name}: {target.name} is left as it is")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
