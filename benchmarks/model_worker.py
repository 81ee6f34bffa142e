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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch  # before onnxruntime: it brings cuDNN and cuBLAS into the process

from benchmarks import architectures, kernel_kinds, torch_side
from benchmarks.contenders import Contenders
from ort_cks.comparison.errors import output_error, tolerance_for
from ort_cks.comparison.inputs import make_inputs
from ort_cks.comparison.placement import node_rows, profile
from ort_cks.comparison.reference import strict_run
from ort_cks.comparison.sessions import PROVIDERS, BoundSession, Way, one_line
from ort_cks.comparison.timing import interleaved
from ort_cks.graph_rewrite import rewrite_model
from ort_cks.graph_rewrite.load import load
from ort_cks.graph_rewrite.operators import SWAPPED


@dataclass(frozen=True)
class Exported:
    """A model as PyTorch has it, its export and the rewritten export; files of a folder."""

    folder: Path
    name: str
    dtype: str

    @property
    def torch(self) -> Path:
        return self.folder / f"{self.name}.{self.dtype}.pt"

    @property
    def original(self) -> Path:
        return self.folder / f"{self.name}.{self.dtype}.onnx"

    @property
    def rewritten(self) -> Path:
        return self.folder / f"{self.name}.{self.dtype}.cks.onnx"


def export(name: str, dtype: str, folder: Path, fold_norms: bool) -> tuple[Exported, float]:
    """The files, and how many seconds rewriting took."""
    files = Exported(folder, name, dtype)
    model = architectures.load(name).to(torch_side.TORCH_TYPE[dtype])
    torch.save(model, files.torch)
    architectures.export(name, model, files.original, fold_norms)
    begin = time.perf_counter()
    rewrite_model(files.original, precision="fp32" if dtype == "fp32" else "tf32").save(files.rewritten)
    return files, time.perf_counter() - begin


def check(name: str, dtype: str, provider: str, folder: Path) -> Iterator[dict]:
    """Errors against a strict float32 run, and where the nodes ran; on a GPU without and with a CUDA graph.

    In float16 torch folds the export's BatchNormalizations, in the others they are left to our rewriter.
    """
    begin = time.perf_counter()
    files, _ = export(name, dtype, folder, fold_norms=dtype == "fp16")
    original, rewritten = files.original, files.rewritten
    feeds, _ = make_inputs(load(original), {}, {}, seed=0)
    reference, how = strict_run(original, provider, feeds, folder)
    shapes = {output: array.shape for output, array in reference.items()}
    tolerance = tolerance_for(dtype if provider == "cuda" or dtype == "fp16" else "fp32")
    plain = Way("ours", rewritten, provider, tf32=dtype != "fp32", with_library=True)
    nodes = node_rows(load(rewritten), profile(plain, feeds))
    ours = [node for node in nodes if node.ran_as in SWAPPED and node.provider == PROVIDERS[provider]]
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


class Started:
    """A session that is ready to replay, with what that took."""

    def __init__(self, way: Way, feeds: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
        torch_side.free_memory()
        free, _ = torch.cuda.mem_get_info()
        begin = time.perf_counter()
        self.session = BoundSession(way, feeds, shapes)
        self.seconds = time.perf_counter() - begin
        self.megabytes = (free - torch.cuda.mem_get_info()[0]) / 1e6


def measure(files: Exported, torch_compile: bool, tune: bool) -> dict:
    """The row of times: through IO binding and CUDA graphs, input and output as the user has them (NCHW)."""
    name, dtype = files.name, files.dtype
    model = torch.load(files.torch, weights_only=False)
    x = architectures.example_input(name)
    reference = torch_side.strict_output(model, x)
    graph = onnx.load(files.original, load_external_data=False).graph
    feeds = {graph.input[0].name: x.to(torch_side.TORCH_TYPE[dtype]).numpy()}
    output = graph.output[0].name
    started: dict[str, list[Started]] = {"ours_us": [], "ort_us": []}

    def sessions(column: str, ways: list[Way]) -> list[Callable[[], None]]:
        for way in ways:
            started[column].append(Started(way, feeds, {output: reference.shape}))
        return [each.session.run for each in started[column]]

    plain = Way(name, files.original, "cuda", tf32=dtype != "fp32", cuda_graph=True)
    ours = replace(plain, model=files.rewritten, with_library=True, tune=tune)
    contenders = Contenders()
    contenders.add("ours_us", lambda: sessions("ours_us", [ours]))
    contenders.add("ort_us", lambda: sessions("ort_us", [plain, replace(plain, prefer_nhwc=True)]))
    contenders.add("torch_us", lambda: torch_side.model_graphs(model, x, dtype))
    if torch_compile:
        contenders.add("compile_us", lambda: [torch_side.compiled_graph(model, x, dtype)])
    row = {"name": name, "dtype": dtype} | {k: round(v, 1) for k, v in contenders.times_us().items()}
    for column, prefix in (("ours_us", ""), ("ort_us", "ort_")):
        if column not in row:
            continue
        alone = {each: _median_us(each.session.run) for each in started[column]}
        best = min(alone, key=alone.__getitem__)
        error = output_error(output, best.session.outputs()[output], reference, tolerance_for(dtype))
        row |= {
            f"{prefix}max_error": rounded(error.relative),
            f"{prefix}start_s": round(best.seconds, 2),
            f"{prefix}memory_mb": round(best.megabytes),
            f"{prefix}kernels_us": kernel_kinds.time_by_kind(best.session.run),
        }
        if column == "ours_us":
            row["ok"] = error.ok
        else:
            row["ort_layout"] = "NHWC" if best.session.way.prefer_nhwc else "NCHW"
    row.setdefault("ok", False)
    return row | ({"failures": contenders.failures} if contenders.failures else {})


def _median_us(run: Callable[[], None]) -> float:
    return interleaved([run], warmup=2, runs=15)[0].p50_ms * 1e3


def rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if value < float("inf") else None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("export", "time", "check"))
    parser.add_argument("name", choices=architectures.BUILDERS)
    parser.add_argument("dtypes", nargs="+", choices=torch_side.TORCH_TYPE)
    parser.add_argument("--folder", type=Path, help="of the exported files; default: one that is removed")
    parser.add_argument("--provider", choices=PROVIDERS, default="cuda", help="of a check")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too")
    parser.add_argument("--no-tune", dest="tune", action="store_false", help="search no tiles of ours")
    options = parser.parse_args()
    rows = sys.stdout
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for dtype in options.dtypes:
            try:
                for row in rows_of(options, dtype, folder):
                    print(json.dumps(row), file=rows, flush=True)
            except Exception as error:
                row = {"name": options.name, "dtype": dtype, "ok": False, "failure": one_line(error)}
                print(json.dumps(row), file=rows, flush=True)
    return 0


def rows_of(options: argparse.Namespace, dtype: str, folder: Path) -> Iterator[dict]:
    if options.task == "check":
        yield from check(options.name, dtype, options.provider, folder)
    elif options.task == "export":
        _, seconds = export(options.name, dtype, folder, fold_norms=True)
        yield {"name": options.name, "dtype": dtype, "ok": True, "rewrite_s": round(seconds, 2)}
    else:
        yield measure(Exported(folder, options.name, dtype), options.compile, options.tune)


if __name__ == "__main__":
    raise SystemExit(main())
