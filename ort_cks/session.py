"""An onnxruntime session with the library registered."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from ort_cks.library import import_onnxruntime, register

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Provider = str | tuple[str, Mapping[str, Any]]


def default_providers() -> list[Provider]:
    """CUDA, where this onnxruntime has it, then the CPU.

    CUDA's options stay onnxruntime's own. So prefer_nhwc is off, which every onnxruntime served here accepts;
    the comparer times rewritten models with it on, which spares Transposes around pooling.
    """
    available = import_onnxruntime().get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def InferenceSession(
    model: "str | PathLike[str] | bytes | onnx.ModelProto",
    sess_options: "onnxruntime.SessionOptions | None" = None,
    providers: Sequence[Provider] | None = None,
    provider_options: Sequence[Mapping[str, Any]] | None = None,
    **kwargs: Any,
) -> "onnxruntime.InferenceSession":
    """An ``onnxruntime.InferenceSession`` with the custom-op library registered.

    Args:
        model: a path, a serialized model, or an ``onnx.ModelProto`` (under 2 GB; larger ones go by path).
        sess_options: the library is registered on them; made where absent.
        providers: as onnxruntime's; where absent, ``default_providers()``.
        provider_options: as onnxruntime's.
        **kwargs: handed on to ``onnxruntime.InferenceSession``.

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError: the package was installed without its library.
        Otherwise what onnxruntime raises for the model and the options.
    """
    onnxruntime = import_onnxruntime()
    if sess_options is None:
        sess_options = onnxruntime.SessionOptions()
    register(sess_options)
    if hasattr(model, "SerializeToString"):
        model = model.SerializeToString()
    elif not isinstance(model, bytes):
        model = fspath(model)
    if providers is None:
        providers = default_providers()
    return onnxruntime.InferenceSession(model, sess_options, providers, provider_options, **kwargs)
