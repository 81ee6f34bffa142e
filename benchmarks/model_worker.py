"""One model of the benchmark in a process of its own; prints one row of JSON a line.

`benchmarks.models` starts it: a model that brings the process down, or leaves the GPU in a bad state, costs
its own rows and no others.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch  # before onnxruntime: it brings cuDNN and cuBLAS into the process

from benchmarks import architectures, torch_side
from ort_cks.comparison.compare import compare_models
from ort_cks.comparison.errors import output_error, tolerance_for
from ort_cks.comparison.inputs import make_inputs
from ort_cks.comparison.placement import OPERATORS, node_rows, profile
from ort_cks.comparison.reference import strict_run
from ort_cks.comparison.sessions import PROVIDERS, BoundSession, Way, one_line
from ort_cks.comparison.timing import interleaved
from ort_cks.graph_rewrite import rewrite_model
from ort_cks.graph_rewrite.load import load

WARMUP, RUNS = 10, 100


def export(name: str, dtype: str, folder: Path, fold_norms: bool) -> tuple[torch.nn.Module, Path, Path]:
    """The PyTorch model, its export and the rewritten export."""
    original, rewritten = folder / f"{name}.{dtype}.onnx", folder / f"{name}.{dtype}.cks.onnx"
    model = architectures.load(name).to(torch_side.TORCH_TYPE[dtype])
    architectures.export(name, model, original, fold_norms)
    rewrite_model(original, precision="fp32" if dtype == "fp32" else "tf32").save(rewritten)
    return model, original, rewritten


def check(name: str, dtype: str, provider: str, folder: Path) -> Iterator[dict]:
    """Errors against a strict float32 run, and where the nodes ran; on a GPU without and with a CUDA graph.

    In float16 torch folds the export's BatchNormalizations, in the others they are left to our rewriter.
    """
    begin = time.perf_counter()
    _, original, rewritten = export(name, dtype, folder, fold_norms=dtype == "fp16")
    feeds, _ = make_inputs(load(original), {}, {}, seed=0)
    reference, how = strict_run(original, provider, feeds, folder)
    shapes = {output: array.shape for output, array in reference.items()}
    tolerance = tolerance_for(dtype if provider == "cuda" or dtype == "fp16" else "fp32")
    plain = Way("ours", rewritten, provider, tf32=dtype != "fp32", with_library=True)
    nodes = node_rows(load(rewritten), profile(plain, feeds))
    ours = [node for node in nodes if node.ran_as in OPERATORS and node.provider == PROVIDERS[provider]]
    for cuda_graph in (False, True) if provider == "cuda" else (False,):
        outputs = BoundSession(replace(plain, cuda_graph=cuda_graph), feeds, shapes).outputs()
        errors = [output_error(key, outputs[key], array, tolerance) for key, array in reference.items()]
        yield {
            "name": name,
            "dtype": dtype,
            "cuda_graph": cuda_graph,
            "ok": all(error.ok for error in errors) and len(ours) == len(nodes) > 0,
            "max_error": rounded(max(error.relative for error in errors)),
            "beyond": sum(error.beyond for error in errors),
            "tolerance": str(tolerance),
            "reference": how,
            "convolutions": len(nodes),
            "in_our_ops": len(ours),
            "provider": PROVIDERS[provider],
            "seconds": round(time.perf_counter() - begin, 1),
        }


def measure(name: str, dtype: str, torch_compile: bool, folder: Path) -> dict:
    """The row of times: through IO binding and CUDA graphs, input and output as the user has them (NCHW)."""
    model, original, rewritten = export(name, dtype, folder, fold_norms=True)
    result = compare_models(original, rewritten, provider="cuda", cuda_graph=True, warmup=WARMUP, runs=RUNS)
    failures = {}
    row = {"name": name, "dtype": dtype}
    for column, contender in (("ours_us", result.ours), ("ort_us", result.baseline)):
        if contender.latency:
            row[column] = round(contender.latency.p50_ms * 1e3, 1)
        else:
            failures[column] = contender.failure
    x = architectures.example_input(name)
    graphs: dict[str, Callable[[], list[Callable[[], None]]]] = {
        "torch_us": lambda: torch_side.model_graphs(model, x, dtype)
    }
    if torch_compile:
        graphs["compile_us"] = lambda: [torch_side.compiled_graph(model, x, dtype)]
    for column, make in graphs.items():
        try:
            latencies = interleaved(make(), WARMUP, RUNS)
            row[column] = round(min(latency.p50_ms for latency in latencies) * 1e3, 1)
        except Exception as error:  # one side's failure is a result too, and no reason to lose the others
            failures[column] = one_line(error)
    row |= {
        "max_error": rounded(result.ours.max_error),
        "ort_max_error": rounded(result.baseline.max_error),
        "ok": result.ok,
        "ort_layout": result.baseline.label,
        "convolutions": len(result.nodes),
        "in_our_ops": len(result.ran_in_our_ops),
    }
    return row | ({"failures": failures} if failures else {})


def rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if value < float("inf") else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("check", "time"))
    parser.add_argument("name", choices=architectures.BUILDERS)
    parser.add_argument("dtypes", nargs="+", choices=torch_side.TORCH_TYPE)
    parser.add_argument("--provider", choices=PROVIDERS, default="cuda", help="of a check")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too")
    options = parser.parse_args()
    rows = sys.stdout
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        for dtype in options.dtypes:
            try:
                if options.task == "check":
                    for row in check(options.name, dtype, options.provider, Path(folder)):
                        print(json.dumps(row), file=rows, flush=True)
                else:
                    row = measure(options.name, dtype, options.compile, Path(folder))
                    print(json.dumps(row), file=rows, flush=True)
            except Exception as error:
                row = {"name": options.name, "dtype": dtype, "ok": False, "failure": one_line(error)}
                print(json.dumps(row), file=rows, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
