"""ONNX Runtime custom ops that skip the zeros of convolutions, and a rewriter that swaps them into models."""

from typing import TYPE_CHECKING, Any

from ort_cks.library import get_library_path, register

if TYPE_CHECKING:
    from os import PathLike

    import onnx

    from ort_cks.comparison import ComparisonResult
    from ort_cks.graph_rewrite import RewriteResult
    from ort_cks.session import InferenceSession

__version__ = "0.1.0"
__all__ = ["InferenceSession", "compare", "get_library_path", "register", "rewrite"]


# The session's class needs onnxruntime, which the rewriter can do without. The rewriter and the comparer
# import onnx-ir and onnxsim, which take a second; a program that runs a rewritten model should not wait.


def __getattr__(name: str) -> Any:
    if name != "InferenceSession":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ort_cks.session import InferenceSession

    return InferenceSession


def rewrite(model: "onnx.ModelProto | str | PathLike[str]", **options: Any) -> "RewriteResult":
    """Swaps a model's convolutions for operators that skip zeros: ``ort_cks.graph_rewrite.rewrite_model``."""
    from ort_cks.graph_rewrite import rewrite_model

    return rewrite_model(model, **options)


def compare(
    original: "onnx.ModelProto | str | PathLike[str]", *args: Any, **options: Any
) -> "ComparisonResult":
    """Runs a model and its rewritten form side by side; see ``ort_cks.comparison.compare_models``."""
    from ort_cks.comparison import compare_models

    return compare_models(original, *args, **options)
