"""A model against its rewritten form: the same inputs, the same machine, runs in turn."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnx_ir as ir

from ort_cks.comparison import machine
from ort_cks.comparison.errors import Tolerance, output_error, tolerance_for
from ort_cks.comparison.inputs import BadInput, graph_inputs, make_inputs
from ort_cks.comparison.placement import node_rows, profile
from ort_cks.comparison.reference import data_types, strict_run
from ort_cks.comparison.result import ComparisonResult, Contender
from ort_cks.comparison.sessions import BoundSession, Way, default_provider, has_provider, one_line
from ort_cks.comparison.timing import DEFAULT_WARMUP, interleaved
from ort_cks.graph_rewrite.load import load
from ort_cks.graph_rewrite.operators import is_swapped
from ort_cks.graph_rewrite.records import NodeRecord
from ort_cks.graph_rewrite.save import save

Model = str | os.PathLike | onnx.ModelProto


def compare_models(
    original: Model,
    rewritten: Model | None = None,
    *,
    provider: str | None = None,
    input_shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
    inputs: Mapping[str, np.ndarray] = MappingProxyType({}),
    seed: int = 0,
    warmup: int = DEFAULT_WARMUP,
    runs: int | None = None,
    cuda_graph: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> ComparisonResult:
    """Runs a model and its rewritten form in turn and compares their latencies and outputs.

    The baseline is the original at its best: on a GPU it runs in NCHW and with the CUDA provider's
    `prefer_nhwc`, and the faster counts; the rewritten model runs with it. All runs have their inputs and
    outputs bound on the device.

    Args:
        original: a path or a ModelProto.
        rewritten: the same; None rewrites the original here, with the rewriter's defaults.
        provider: "cuda" or "cpu"; None takes the GPU if there is one.
        input_shapes: a shape for each input whose shape the model leaves open; an open batch alone is taken
            as 1.
        inputs: arrays for inputs by name; the others are random.
        seed: of the random inputs.
        warmup: rounds before those that are timed.
        runs: rounds that are timed; None takes as many as fit into ten seconds, 10 to 200.
        cuda_graph: run everything from CUDA graphs, which takes the host's time out of the latencies.
        rtol, atol: an element may be off by atol + rtol * |reference|. The defaults depend on the precision,
            and their atol on the size of the output: see `ort_cks.comparison.errors`.
        progress: called with a few words when a stage begins.

    Raises:
        BadInput: an input, a shape or the provider does not fit, or the original model does not run at all.
        RewriteError: a model cannot be read, or cannot be rewritten.
    """
    notes = []
    if provider is None:
        provider = default_provider()
        if provider == "cpu" and has_provider("cuda"):
            notes.append(
                "on the CPU: onnxruntime has the CUDA provider, but finds no GPU, or no CUDA or cuDNN"
            )
    _check_options(provider, warmup, runs, cuda_graph, rtol, atol)
    model = load(original)
    feeds, choices = make_inputs(model, input_shapes, inputs, seed)
    notes += choices

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        original_path = _as_file(original, folder / "original.onnx")
        progress("rewriting" if rewritten is None else "loading")
        rewritten_path, records = _rewritten_file(original, rewritten, folder / "rewritten.onnx")
        rewritten_model = load(rewritten_path)
        _check_same_interface(model, rewritten_model)
        precision = precision_of(model, rewritten_model, provider)
        if precision == "fp16" and ir.DataType.FLOAT16 not in data_types(model):
            notes.append("the rewritten model computes in float16, the original in float32")

        progress("reference run")
        reference, how = strict_run(original_path, provider, feeds, folder)
        ours, *natives = _ways(original_path, rewritten_path, provider, precision, cuda_graph)
        tolerance = tolerance_for(precision, rtol, atol)

        progress("first runs")
        contenders, sessions = [], []
        for way in (ours, *natives):
            contender, session = _first_run(way, feeds, reference, tolerance)
            contenders.append(contender)
            sessions.append(session)
        ran = [
            (contender, session) for contender, session in zip(contenders, sessions, strict=True) if session
        ]
        latencies = interleaved(
            [session.run for _, session in ran], warmup, runs, lambda done: progress(f"timing, round {done}")
        )
        for (contender, _), latency in zip(ran, latencies, strict=True):
            contender.latency = latency

        progress("profile")
        node_runs = profile(ours, feeds) if contenders[0].failure is None else {}

    return ComparisonResult(
        model=_name(original, "the model"),
        rewritten=_name(rewritten, "rewritten in memory"),
        provider=provider,
        precision=precision,
        cuda_graph=cuda_graph,
        warmup=warmup,
        inputs={name: f"{array.dtype.name} {list(array.shape)}" for name, array in feeds.items()},
        reference=how,
        tolerance=tolerance,
        ours=contenders[0],
        baselines=contenders[1:],
        nodes=node_rows(rewritten_model, node_runs, records),
        machine=machine.describe(provider),
        notes=notes,
    )


def _check_options(
    provider: str, warmup: int, runs: int | None, cuda_graph: bool, rtol: float | None, atol: float | None
) -> None:
    if provider not in ("cpu", "cuda"):
        raise BadInput(f"provider is cpu or cuda, not {provider!r}")
    if warmup < 0 or (runs is not None and runs < 1):
        raise BadInput("warmup must be at least 0 and runs at least 1")
    if not all(bound is None or bound >= 0 for bound in (rtol, atol)):
        raise BadInput("rtol and atol must be at least 0")
    if cuda_graph and provider != "cuda":
        raise BadInput("a CUDA graph needs the cuda provider")


def _as_file(model: Model, path: Path) -> Path:
    if not isinstance(model, onnx.ModelProto):
        return Path(model)
    save(load(model), path)
    return path


def _rewritten_file(original: Model, rewritten: Model | None, path: Path) -> tuple[Path, list[NodeRecord]]:
    if rewritten is not None:
        return _as_file(rewritten, path), []
    from ort_cks.graph_rewrite import rewrite_model

    result = rewrite_model(original)
    result.save(path)
    return path, result.nodes


def _name(model: Model | None, otherwise: str) -> str:
    return otherwise if model is None or isinstance(model, onnx.ModelProto) else str(Path(model))


def _check_same_interface(original: ir.Model, rewritten: ir.Model) -> None:
    for side, names in (("inputs", _fed), ("outputs", _answered)):
        ours, theirs = names(rewritten), names(original)
        if sorted(ours) != sorted(theirs):
            raise BadInput(
                f"the two models have different {side}: {', '.join(theirs)} against {', '.join(ours)}"
            )


def _fed(model: ir.Model) -> list[str]:
    return [graph_input.name for graph_input in graph_inputs(model)]


def _answered(model: ir.Model) -> list[str]:
    return [value.name for value in model.graph.outputs]


def precision_of(original: ir.Model, rewritten: ir.Model, provider: str) -> str:
    types = data_types(original) | data_types(rewritten)
    if ir.DataType.BFLOAT16 in types:
        return "bf16"
    if ir.DataType.FLOAT16 in types:
        return "fp16"
    if provider == "cpu":
        return "fp32"
    ours = [node for node in ir.traversal.RecursiveGraphIterator(rewritten.graph) if is_swapped(node)]
    strict = [node.attributes.get_string("precision", "tf32") == "fp32" for node in ours]
    return "fp32" if strict and all(strict) else "tf32"


def _ways(original: Path, rewritten: Path, provider: str, precision: str, cuda_graph: bool) -> list[Way]:
    tf32 = precision != "fp32"
    ours = Way(
        "ours", rewritten, provider, prefer_nhwc=True, tf32=tf32, cuda_graph=cuda_graph, with_library=True
    )
    if provider == "cpu":
        return [ours, Way("original", original, provider)]
    layouts = (("NCHW", False), ("NHWC", True))
    return [ours] + [
        Way(f"original, {name}", original, provider, nhwc, tf32, cuda_graph) for name, nhwc in layouts
    ]


def _first_run(
    way: Way, feeds: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], tolerance: Tolerance
) -> tuple[Contender, BoundSession | None]:
    try:
        session = BoundSession(way, feeds, {name: array.shape for name, array in reference.items()})
        outputs = session.outputs()
    except BadInput:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no documented base
        return Contender(way.label, failure=one_line(error)), None
    errors = [output_error(name, outputs[name], array, tolerance) for name, array in reference.items()]
    return Contender(way.label, outputs=errors), session
