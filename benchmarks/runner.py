"""What the programs that time layers do alike: a row a layer, printed and written as soon as it is there."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from benchmarks import results_file
from benchmarks.suite import Layer
from ort_cks.comparison.sessions import one_line

Job = tuple[Layer, str, Mapping[str, object]]  # a layer, a data type, and what else its row says


class Benchmark(Protocol):
    provider: str  # as ort_cks.comparison names it
    columns: tuple[str, ...]

    def row(self, layer: Layer, dtype: str) -> dict: ...


def run(benchmark: Benchmark, jobs: Iterable[Job], path: Path | None) -> list[dict]:
    """Times the jobs one by one; `path` holds all rows so far."""
    header = results_file.head(benchmark.provider)
    print(", ".join(header.values()))
    print(f"{'layer':<20}{'':<6}" + "".join(f"{column:>13}" for column in (*benchmark.columns, "max_error")))
    rows: list[dict] = []
    for layer, dtype, facts in jobs:
        row = {"name": layer.name, "dtype": dtype, **facts}
        try:
            row |= benchmark.row(layer, dtype)
        except Exception as error:  # a failure must not cost the other layers
            row["failures"] = {"layer": one_line(error)}
        rows.append(row)
        _print(row, benchmark.columns)
        results_file.write(path, header, rows)
    return rows


def _print(row: dict, columns: tuple[str, ...]) -> None:
    times = "".join(f"{row[column]:>13.2f}" if column in row else f"{'failed':>13}" for column in columns)
    error = f"{row['max_error']:>13.1e}" if "max_error" in row else f"{'':>13}"
    what = row.get("operator") or row.get("shape", "")
    print(f"{row['name']:<20}{row['dtype']:<6}{times}{error}  {what}".rstrip(), flush=True)
    for column, failure in row.get("failures", {}).items():
        print(f"  {column.removesuffix('_us')} failed: {failure}", flush=True)


def print_summary(rows: list[dict], *keys: str) -> None:
    """Speed-ups and distances to the floor, of the rows that share the values of `keys`."""
    for values, alike in results_file.grouped(rows, *keys).items():
        what = " ".join(map(str, values))
        for slower, faster in results_file.COMPARISONS:
            if speedups := results_file.ratios(alike, slower, faster):
                print(
                    f"{what}: {results_file.geomean(speedups):.2f}x {slower.removesuffix('_us')} as geomean "
                    f"of {len(speedups)} layers, the least {min(speedups):.2f}x"
                )
        long = [row for row in alike if row.get("floor_us", 0) >= results_file.LONG_FLOOR_US]
        if over := results_file.ratios(long, "ours_us", "floor_us"):
            print(
                f"{what}: at most {max(over):.2f} floors on the {len(over)} layers of "
                f"{results_file.LONG_FLOOR_US} us and more"
            )
