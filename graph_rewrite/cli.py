"""python -m ort_cks.rewrite: reads the command line, prints the table, writes the files.

The heavy imports are made inside `main`, so that Ctrl-C ends them too without a traceback.
"""

import argparse
import logging
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import NoReturn

OK, CHECK_FAILED, BAD_CALL, NOTHING_TO_SWAP, INTERRUPTED = 0, 1, 2, 3, 130

_EPILOG = """exit status: 0 rewritten; 1 the check failed, nothing was written; 2 a bad call or bad input;
3 nothing to swap, nothing was written"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_CALL, f"ort_cks.rewrite: {message}; --help shows the options\n")


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status. A bad option ends in SystemExit(2), as in argparse."""
    arguments = _parser().parse_args(argv)
    messages = _Messages(arguments.quiet, arguments.verbose)
    try:
        return _run(arguments, messages)
    except KeyboardInterrupt:
        messages.error("interrupted; nothing was written")
        return INTERRUPTED
    except ValueError as error:  # RewriteError and BadInput are, and say what to change
        if arguments.verbose:
            traceback.print_exc()
        messages.error(" ".join(str(error).split()))
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        messages.error(f"{type(error).__name__}: {' '.join(str(error).split())} (-v shows where)")
    finally:
        messages.close()
    return BAD_CALL


def _run(arguments: argparse.Namespace, messages: "_Messages") -> int:
    from ort_cks.comparison.inputs import parse_shape
    from ort_cks.graph_rewrite.errors import RewriteError
    from ort_cks.graph_rewrite.save import check_writable

    source = Path(arguments.model)
    output = Path(arguments.output) if arguments.output else source.with_suffix(".cks.onnx")
    shapes = dict(map(parse_shape, arguments.input_shape))
    if not arguments.dry_run:
        if output.exists() and source.exists() and output.samefile(source):
            raise RewriteError(f"{output} is the input itself; -o takes another name.")
        if source.is_file():
            check_writable(output)
    if arguments.report:
        check_writable(Path(arguments.report))

    from ort_cks.graph_rewrite.pipeline import rewrite_model
    from ort_cks.graph_rewrite.report_text import summary, table

    result = rewrite_model(
        source,
        include=arguments.include,
        exclude=arguments.exclude,
        input_shapes=shapes,
        layout=arguments.layout,
        precision=arguments.precision,
        to=arguments.to,
        keep_io=arguments.keep_io,
        measure=arguments.measure,
        simplify=arguments.simplify,
        fuse=arguments.fuse,
        fallback=arguments.fallback,
    )
    messages.clear()
    messages.print(table(result.nodes, _width()))
    messages.print(summary(result.nodes))

    status = OK if any(record.decision == "swapped" for record in result.nodes) else NOTHING_TO_SWAP
    if status == OK and arguments.check:
        status = _check(source, result, arguments.check, shapes, messages)
    written = status == OK and not arguments.dry_run
    if written:
        result.save(output)
        messages.print(f"Written to {output}")
    if arguments.report:
        _write_report(Path(arguments.report), result.nodes, str(source), str(output) if written else None)
    return status


def _check(source: Path, result, runs: int, shapes, messages: "_Messages") -> int:
    from ort_cks.graph_rewrite.check import RewrittenDoesNotRun, check

    try:
        for run, errors in enumerate(check(source, result, runs, shapes)):
            for error in errors:
                detail = (
                    error.problem
                    or f"largest error {error.max_abs:.3g}, {error.relative:.2g} of the output's size"
                )
                if not error.ok:
                    messages.error(f"check {run + 1}: output '{error.name}' differs: {detail}")
                    return CHECK_FAILED
                messages.print(f"check {run + 1}: output '{error.name}' agrees: {detail}")
    except RewrittenDoesNotRun as error:
        messages.error(f"check: the rewritten model does not run: {error}")
        return CHECK_FAILED
    return OK


def _write_report(path: Path, records, model: str, output: str | None) -> None:
    from ort_cks.graph_rewrite.report_html import html_report
    from ort_cks.graph_rewrite.report_json import json_report

    make = html_report if path.suffix == ".html" else json_report
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(make(records, model, output), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _width() -> int:
    return max(100, shutil.get_terminal_size((120, 40)).columns) if sys.stdout.isatty() else 120


class _Messages(logging.Handler):
    """Everything the command says. Steps show on a terminal, on one line that each overwrites, or with -v."""

    _LOGGERS = ("ort_cks", "onnx_ir")

    def __init__(self, quiet: bool, verbose: bool):
        super().__init__(logging.INFO)
        self._quiet, self._verbose = quiet, verbose
        self._transient = sys.stderr.isatty() and not (quiet or verbose)
        for name in self._LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.propagate = False
        logging.getLogger("ort_cks").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("onnx_ir") and not self._verbose:
            return  # what it cannot do shows in the table, or is an error
        text = record.getMessage().split("\n")[0]
        if record.levelno >= logging.WARNING:
            if not self._quiet:
                self.clear()
                print(f"warning: {text}", file=sys.stderr)
        elif self._verbose:
            print(text, file=sys.stderr)
        elif self._transient:
            print(f"\r\033[K{text} ...", end="", file=sys.stderr, flush=True)

    def print(self, text: str) -> None:
        if self._quiet:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:  # who read it, such as `head`, has left; the model is still wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def error(self, text: str) -> None:
        self.clear()
        print(f"ort_cks.rewrite: {text}", file=sys.stderr)

    def clear(self) -> None:
        if self._transient:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        for name in self._LOGGERS:
            logger = logging.getLogger(name)
            logger.removeHandler(self)
            logger.propagate = True
        super().close()


def _report_path(text: str) -> str:
    if Path(text).suffix not in (".json", ".html"):
        raise argparse.ArgumentTypeError(f"{text} must end in .json or .html")
    return text


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of runs")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ort_cks.rewrite",
        description="Swap the convolutions of an ONNX model for operators that skip their zeros.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="the model to rewrite; it is not changed")
    add("-o", "--output", metavar="OUT", help="where to write (default: MODEL.cks.onnx beside it)")
    add("--dry-run", action="store_true", help="print the table and write no model")
    add(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="swap only nodes whose name or operator matches",
    )
    add(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="swap no node whose name or operator matches",
    )
    add(
        "--input-shape",
        metavar="NAME:1,3,224,224",
        action="append",
        default=[],
        help="fix an input's shape, for good: zeros are then known in advance, and dead taps cut",
    )
    add(
        "--layout",
        choices=("nhwc", "nchw"),
        default="nhwc",
        help="what the operators compute in (default: nhwc)",
    )
    add(
        "--precision",
        choices=("tf32", "fp32"),
        default="tf32",
        help="of float on a GPU (default: tf32, as ONNX Runtime)",
    )
    add("--to", choices=("fp16",), help="convert a model of floats to float16 first")
    add("--keep-io", action="store_true", help="with --to: leave the model's inputs and outputs in float")
    add(
        "--measure",
        action="store_true",
        help="time native against swapped on this machine's GPU, region by region, keep the faster",
    )
    add("--no-simplify", dest="simplify", action="store_false", help="skip onnxsim")
    add(
        "--no-fuse",
        dest="fuse",
        action="store_false",
        help="leave BatchNormalization, activations and so on outside",
    )
    add(
        "--no-fallback",
        dest="fallback",
        action="store_false",
        help="leave out the functions that run without the library",
    )
    add(
        "--check",
        metavar="N",
        nargs="?",
        type=_count,
        const=1,
        help="compare with the original on N random inputs (1)",
    )
    add("--report", metavar="FILE", type=_report_path, help="write the table as .json or .html")
    add("-q", "--quiet", action="store_true", help="print errors only")
    add("-v", "--verbose", action="store_true", help="print each step, and where errors arise")
    return parser


if __name__ == "__main__":
    sys.exit(main())
