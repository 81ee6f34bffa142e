"""Times the 11 models, or checks their answers: ort_cks, ONNX Runtime at its best and PyTorch, in one run.

    python -m benchmarks.models --json benchmarks/results/models.json
    python -m benchmarks.models --check-only --json benchmarks/results/models_check.json

Times are medians of runs through IO binding and a CUDA graph, input and output as the user has them (NCHW).
ONNX Runtime counts in the faster of NCHW and prefer_nhwc, PyTorch in the faster of its layouts. Errors are
the largest, as a share of the output's root mean square, against a float32 run with TF32 off. Each model runs
in a process of its own. A row also says where the time went, by kind of kernel, and what rewriting, starting
a session (up to its first replay, with the searches of cuDNN's algorithms and of our tiles) and its memory on
the GPU cost. Needs a GPU, torch, torchvision and transformers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import results_file
from benchmarks.suite import DTYPES, MODELS
from ort_cks.comparison.sessions import default_provider

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 600


def rows_of(task: str, name: str, dtypes: tuple[str, ...], *flags: str) -> Iterator[dict]:
    """The rows that a worker prints, as they come; for those it does not live to print, rows that say so."""
    command = [sys.executable, "-m", "benchmarks.model_worker", task, name, *dtypes, *flags]
    missing = list(dtypes)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
        lines, log, reason = done.stdout, done.stderr, f"the process ended with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        lines, log, reason = _text(error.stdout), _text(error.stderr), f"the process took over {LIMIT_S} s"
    for line in lines.splitlines():
        row = json.loads(line)
        if row["dtype"] in missing:
            missing.remove(row["dtype"])
        yield row
    last_words = " ".join(log.splitlines()[-1:])
    for dtype in missing:
        yield {"name": name, "dtype": dtype, "ok": False, "failure": f"{reason}: {last_words}"}


def timed_rows(names: Sequence[str], dtypes: tuple[str, ...], *flags: str) -> Iterator[dict]:
    """Exports side by side, as long as nothing is timed; then times one model after the other."""
    with tempfile.TemporaryDirectory() as folder:
        into = ("--folder", folder)
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:
            jobs = [(name, dtype) for dtype in dtypes for name in names]
            exported = pool.map(lambda job: list(rows_of("export", job[0], (job[1],), *into)), jobs)
            exports = {job: rows[0] for job, rows in zip(jobs, exported, strict=True)}
        for name in names:
            ready = tuple(dtype for dtype in dtypes if exports[name, dtype]["ok"])
            yield from (exports[name, dtype] for dtype in dtypes if dtype not in ready)
            if ready:
                for row in rows_of("time", name, ready, *into, *flags):
                    yield row | {"rewrite_s": exports[name, row["dtype"]]["rewrite_s"]}


def _text(output: bytes | str | None) -> str:
    return output.decode() if isinstance(output, bytes) else output or ""


def print_row(row: dict, columns: tuple[str, ...]) -> None:
    def cell(column: str) -> str:
        value = row.get(column)
        return f"{value:>12.1e}" if column == "max_error" and value is not None else f"{value!s:>12}"

    print(f"{row['name']:<21}{row['dtype']:<6}" + "".join(map(cell, columns)), flush=True)
    for what, failure in {"model": row.get("failure"), **row.get("failures", {})}.items():
        if failure:
            print(f"  {what.removesuffix('_us')} failed: {failure}", flush=True)


def print_summary(rows: list[dict]) -> None:
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        of_dtype = [row for row in rows if row["dtype"] == dtype]
        for column in ("ort_us", "torch_us", "compile_us"):
            if speedups := results_file.ratios(of_dtype, column, "ours_us"):
                print(
                    f"{dtype}: {results_file.geomean(speedups):.2f}x {column.removesuffix('_us')} as geomean "
                    f"of {len(speedups)} models, the least {min(speedups):.2f}x"
                )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check-only", action="store_true", help="compare answers, with and without CUDA graph"
    )
    parser.add_argument("--only", action="append", choices=MODELS, help="a model; repeatable; default: all")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="repeatable; default: all")
    parser.add_argument(
        "--compile", action="store_true", help="time torch.compile too; it takes minutes a model"
    )
    parser.add_argument(
        "--no-tune", action="store_true", help="ours with the tiles that it expects to be fastest"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, after each model")
    options = parser.parse_args()
    try:
        import torch  # noqa: F401 - brings cuDNN and cuBLAS into the process, for ONNX Runtime too
    except ImportError:
        sys.exit("the models need torch, torchvision and transformers")
    if default_provider() != "cuda":
        sys.exit("no GPU that ONNX Runtime can reach; the models are timed and checked on one only")

    times = ("ours_us", "ort_us", "torch_us", *(("compile_us",) if options.compile else ()), "max_error")
    checks = ("cuda_graph", "convolutions", "in_our_ops", "max_error", "ok")
    columns = checks if options.check_only else times
    header = results_file.head("cuda")
    print(", ".join(header.values()))
    print(f"{'model':<27}" + "".join(f"{column:>12}" for column in columns))
    rows: list[dict] = []
    names, dtypes = tuple(options.only or MODELS), tuple(options.dtype or DTYPES)
    if options.check_only:
        found = (row for name in names for row in rows_of("check", name, dtypes))
    else:
        found = timed_rows(names, dtypes, *["--compile"] * options.compile, *["--no-tune"] * options.no_tune)
    for row in found:
        rows.append(row)
        print_row(row, columns)
        results_file.write(options.json, header, rows)
    print_summary(rows)
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
