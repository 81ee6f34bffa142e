"""`python -m ort_cks.compare`: the command line, the report on the terminal, the files asked for."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ort_cks.comparison import report_html, report_plot, report_text
from ort_cks.comparison.compare import compare_models
from ort_cks.comparison.inputs import BadInput, load_file, parse_shape
from ort_cks.comparison.result import ComparisonResult
from ort_cks.comparison.timing import DEFAULT_WARMUP
from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.save import check_writable

PROGRAM = "python -m ort_cks.compare"


def main(argv: Sequence[str] | None = None) -> int:
    """Compares two models: 0 if their outputs are equal, 1 if they differ, 2 for a bad call or input."""
    try:
        options = _parser().parse_args(argv)
        writers = _writers(options)
        result = compare_models(
            options.model,
            options.rewritten,
            provider=options.provider,
            input_shapes=dict(map(parse_shape, options.input_shape)),
            inputs=dict(map(load_file, options.input)),
            seed=options.seed,
            warmup=options.warmup,
            runs=options.runs,
            cuda_graph=options.cuda_graph,
            rtol=options.rtol,
            atol=options.atol,
            progress=_progress if sys.stderr.isatty() else lambda text: None,
        )
        _clear_progress()
        print(report_text.render(result))
        for path, write in writers:
            _replace(path, lambda temporary, write=write: write(result, temporary))
    except (BadInput, RewriteError, OSError, ImportError) as error:
        _clear_progress()
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _clear_progress()
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return 0 if result.ok else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; --help lists the options\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Runs a model and its rewritten form in turn and compares latencies and outputs.",
        epilog="Exit status: 0 the outputs are equal within tolerance, 1 they differ, 2 a bad call or input.",
    )
    parser.add_argument("model", type=Path, help="the original model")
    parser.add_argument(
        "rewritten",
        type=Path,
        nargs="?",
        help="its rewritten form; absent: the original is rewritten in memory",
    )
    parser.add_argument("--provider", choices=("cuda", "cpu"), help="default: cuda where there is a GPU")
    parser.add_argument(
        "--input-shape", action="append", default=[], metavar="NAME:1,3,224,224", help="repeatable"
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="repeatable; default: random values",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default 0)")
    parser.add_argument(
        "--warmup",
        type=int,
        default=DEFAULT_WARMUP,
        help=f"rounds that are not timed (default {DEFAULT_WARMUP})",
    )
    parser.add_argument(
        "--runs", type=int, help="rounds that are timed (default: what fits into ten seconds, 10 to 200)"
    )
    parser.add_argument("--cuda-graph", action="store_true", help="run everything from CUDA graphs")
    parser.add_argument("--rtol", type=float, help="allowed share of an element (default: by precision)")
    parser.add_argument(
        "--atol",
        type=float,
        help="allowed absolute error (default: a share of each output's root mean square, by precision)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the latencies (needs matplotlib)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report that is one file")
    return parser


Writer = Callable[[ComparisonResult, Path], object]


def _writers(options: argparse.Namespace) -> list[tuple[Path, Writer]]:
    """The files to write; what would make one fail is found before the long run."""
    writers: list[tuple[Path | None, Writer]] = [
        (options.json, lambda result, path: path.write_text(json.dumps(result.as_dict(), indent=1) + "\n")),
        (options.plot, lambda result, path: report_plot.save(result, path)),
        (options.html, lambda result, path: path.write_text(report_html.render(result), encoding="utf-8")),
    ]
    wanted = [(path, write) for path, write in writers if path is not None]
    for path, _ in wanted:
        check_writable(path)
        for model in filter(None, (options.model, options.rewritten)):
            if path.exists() and model.exists() and path.samefile(model):
                raise BadInput(f"{path} is one of the models; give the report another name")
    if options.plot is not None:
        report_plot.require_matplotlib()
    return wanted


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the file and renames, so that no reader and no interrupt sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _progress(text: str) -> None:
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        _progress("")
