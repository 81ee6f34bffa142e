"""Whether a rewritten model answers as the original does, on random inputs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from ort_cks.comparison.errors import OutputError, output_error, tolerance_for
from ort_cks.comparison.inputs import make_inputs
from ort_cks.comparison.sessions import BoundSession, Way, default_provider, one_line
from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.operators import DOMAIN
from ort_cks.graph_rewrite.pipeline import RewriteResult
from ort_cks.library import get_library_path


def check(
    original: Path, result: RewriteResult, runs: int, shapes: Mapping[str, Sequence[int]]
) -> Iterator[list[OutputError]]:
    """For each run, the error of every output; an output is off where its error is not `ok`.

    Both models run on the GPU, where ONNX Runtime reaches one, else on the CPU: the rewritten one in the
    library's kernels, where it is installed, else in its fallback functions. Tolerances are those of
    `ort_cks.compare`.

    Raises:
        RewriteError: the original does not run, so that there is nothing to compare with.
        BadInput: a dimension is unknown and `shapes` does not say it.
    """
    provider = default_provider()
    tolerance = tolerance_for(_precision(result, provider))
    with TemporaryDirectory() as folder:
        rewritten = Path(folder) / "rewritten.onnx"
        result.save(rewritten)
        ways = (
            Way("original", original, provider),
            Way("rewritten", rewritten, provider, with_library=_has_library()),
        )
        for seed in range(runs):
            feeds, _ = make_inputs(result.ir_model, shapes, {}, seed)
            try:
                expected = BoundSession(ways[0], feeds).outputs()
            except Exception as error:  # of whatever type ONNX Runtime has for it
                raise RewriteError(f"--check: the original does not run: {one_line(error)}") from error
            try:
                got = BoundSession(ways[1], feeds).outputs()
            except Exception as error:
                raise RewrittenDoesNotRun(one_line(error)) from error
            yield [output_error(name, got[name], expected[name], tolerance) for name in expected]


class RewrittenDoesNotRun(Exception):
    """The check has failed: ONNX Runtime refuses the rewritten model."""


def _precision(result: RewriteResult, provider: str) -> str:
    types = {node.outputs[0].dtype for node in result.ir_model.graph.all_nodes() if node.domain == DOMAIN}
    if ir.DataType.BFLOAT16 in types:
        return "bf16"
    if ir.DataType.FLOAT16 in types:
        return "fp16"
    return "tf32" if provider == "cuda" else "fp32"


def _has_library() -> bool:
    try:
        get_library_path()
    except FileNotFoundError:
        return False
    return True
