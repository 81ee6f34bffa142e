"""An onnxruntime session with the library registered, which replays a CUDA graph where it can.

How it stays right: the graph is only ever replayed on buffers of the session's own, under a lock. As soon as
the caller runs the session in any other way, with values that may lie on the device, the graph is retired for
good: a replay writes wherever the captured run had its intermediate values, and such memory may by then hold
something of the caller's. Every run that is no replay tells ONNX Runtime to leave graphs alone.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from ort_cks.capture_gate import GATE
from ort_cks.capture_rules import (
    CPU,
    CUDA,
    model_refusal,
    provider_pairs,
    provider_refusal,
    session_options_refusal,
    values_refusal,
)
from ort_cks.captured_run import CapturedRun, without_graph
from ort_cks.fixed_buffers import NUMPY_TYPES
from ort_cks.library import import_onnxruntime, register

if TYPE_CHECKING:
    import onnx

onnxruntime = import_onnxruntime()
logger = logging.getLogger(__name__)

Provider = str | tuple[str, Mapping[str, Any]]

_UNSET, _FATAL = -1, 4  # ONNX Runtime's log levels


def default_providers() -> list[Provider]:
    """CUDA, where this onnxruntime has it, then the CPU."""
    available = onnxruntime.get_available_providers()
    return [name for name in (CUDA, CPU) if name in available]


class InferenceSession(onnxruntime.InferenceSession):
    """An ``onnxruntime.InferenceSession`` with the custom-op library registered.

    Where every shape is fixed and every node runs on CUDA, ``run`` with arrays captures a CUDA graph the
    first time and replays it from then on; ``cuda_graph`` says whether it does. To have none, or to capture
    graphs oneself, set the CUDA provider's ``enable_cuda_graph``.

    Args:
        model: a path, a serialized model, or an ``onnx.ModelProto`` (under 2 GB; larger ones go by path).
        sess_options: the library is registered on them; made where absent.
        providers: as onnxruntime's; where absent, ``default_providers()``.
        provider_options: as onnxruntime's.
        tune, tune_cache: as `ort_cks.register` takes them.
        **kwargs: handed on to ``onnxruntime.InferenceSession``.

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError: the package was installed without its library.
        Otherwise what onnxruntime raises for the model and the options.
    """

    def __init__(
        self,
        model: "str | PathLike[str] | bytes | onnx.ModelProto",
        sess_options: onnxruntime.SessionOptions | None = None,
        providers: Sequence[Provider] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        *,
        tune: bool = False,
        tune_cache: "str | PathLike[str] | None" = None,
        **kwargs: Any,
    ):
        if sess_options is None:
            sess_options = onnxruntime.SessionOptions()
        register(sess_options, tune=tune, tune_cache=tune_cache)
        if providers is None:
            providers = default_providers()
        pairs = provider_pairs(providers, provider_options)
        refusal = (
            provider_refusal(pairs, onnxruntime.get_available_providers())
            or session_options_refusal(sess_options)
            or _model_refusal(model)
        )
        if hasattr(model, "SerializeToString"):
            model = model.SerializeToString()
        elif not isinstance(model, bytes):
            model = fspath(model)
        self._capture: CapturedRun | None = None
        self._given_providers = providers, provider_options
        if refusal is None:
            (cuda, options), *others = pairs
            asked = [(cuda, {**options, "enable_cuda_graph": "1"}), *others]
            try:
                # With its own fallback, onnxruntime would start without CUDA.
                with GATE.shared(), _silent(sess_options):
                    super().__init__(model, sess_options, asked, **(kwargs | {"enable_fallback": 0}))
            except Exception as error:  # ONNX Runtime's exceptions share no documented base
                refusal = str(error)
            else:
                if int(kwargs.get("enable_fallback", 1)):
                    self.enable_fallback()
                self._capture_if_fixed(int(options.get("device_id", 0)))
                return
        logger.info("no CUDA graph: %s", refusal)
        with GATE.shared():
            super().__init__(model, sess_options, providers, provider_options, **kwargs)

    @property
    def cuda_graph(self) -> bool:
        """Whether ``run`` replays a CUDA graph, or will once it has captured one."""
        return self._capture is not None and not self._capture.retired

    def run(self, output_names, input_feed, run_options=None):
        """As onnxruntime's. Without run options, and with arrays that fit exactly, it replays the graph."""
        with self._turn() as capture:
            if capture is not None and run_options is None and capture.takes(output_names, input_feed):
                try:
                    return capture.run(self, super().run_with_iobinding, output_names, input_feed)
                except Exception as error:
                    if capture.has_graph:
                        raise
                    self._become_ordinary(f"capturing one failed: {error}")
        # Arrays that do not fit raise what they do in any session, and leave nothing on the device.
        with self._plain_run(run_options, retire=run_options is not None) as options:
            return super().run(output_names, input_feed, options)

    def run_with_iobinding(self, iobinding, run_options=None):
        """As onnxruntime's, and no graph from then on."""
        with self._plain_run(run_options) as options:
            super().run_with_iobinding(iobinding, options)

    def run_with_ort_values(self, output_names, input_dict_ort_values, run_options=None):
        """As onnxruntime's, and no graph from then on."""
        with self._plain_run(run_options) as options:
            return super().run_with_ort_values(output_names, input_dict_ort_values, options)

    def run_with_ortvaluevector(self, run_options, *vectors):
        """As onnxruntime's, and no graph from then on."""
        with self._plain_run(run_options) as options:
            super().run_with_ortvaluevector(options, *vectors)

    def run_async(self, output_names, input_feed, callback, user_data, run_options=None):
        """As onnxruntime's, and no graph from then on."""
        with ExitStack() as until_done:
            options = until_done.enter_context(self._plain_run(run_options))
            running = until_done.pop_all()  # closed by the thread that calls back

        def done(results, data, error):
            running.close()
            callback(results, data, error)

        try:
            super().run_async(output_names, input_feed, done, user_data, options)
        except BaseException:
            running.close()
            raise

    def io_binding(self):
        """As onnxruntime's, and no graph from then on: what is bound may lie on the device at once."""
        with self._plain_run(None):
            return super().io_binding()

    def create_ortvalue_from_shape_and_type(self, *args, **kwargs):
        """As onnxruntime's, and no graph from then on."""
        with self._plain_run(None):
            return super().create_ortvalue_from_shape_and_type(*args, **kwargs)

    def set_providers(self, providers=None, provider_options=None):
        """As onnxruntime's, and no graph from then on."""
        self._capture = None
        super().set_providers(providers, provider_options)

    def _capture_if_fixed(self, device_id: int) -> None:
        facts = [(value.name, value.type, value.shape) for value in (*self.get_inputs(), *self.get_outputs())]
        if CUDA not in self.get_providers():
            self._become_ordinary("the CUDA provider does not start")
        elif refusal := values_refusal((name, shape) for name, _, shape in facts):
            self._become_ordinary(refusal)
        elif foreign := [(name, kind) for name, kind, _ in facts if kind not in NUMPY_TYPES]:
            self._become_ordinary("NumPy has no type for '{}', {}".format(*foreign[0]))
        else:
            self._capture = CapturedRun(self.get_inputs(), self.get_outputs(), device_id)

    def _become_ordinary(self, reason: str) -> None:
        logger.info("no CUDA graph: %s", reason)
        if self._capture is not None:
            self._capture.retire()  # its buffers would keep the session that goes
        self._capture = None
        with GATE.shared():
            super().set_providers(*self._given_providers)

    @contextmanager
    def _turn(self) -> Iterator["CapturedRun | None"]:
        """One run at a time of a session that captures; None, and any number, of an ordinary one."""
        while (capture := self._capture) is not None:
            with capture.lock:
                if capture is self._capture:
                    yield capture
                    return
        yield None

    @contextmanager
    def _plain_run(
        self, run_options: onnxruntime.RunOptions | None, retire: bool = True
    ) -> Iterator[onnxruntime.RunOptions | None]:
        """The run options of a run that neither captures nor replays."""
        with self._turn() as capture:
            if capture is not None and retire:
                capture.retire()
            on_cuda = CUDA in self.get_providers()
            with GATE.shared() if on_cuda else nullcontext():
                if capture is None:
                    yield run_options
                else:
                    with without_graph(run_options) as options:
                        yield options


@contextmanager
def _silent(options: onnxruntime.SessionOptions) -> Iterator[None]:
    """ONNX Runtime logs an error where a node is not on CUDA, and nobody has asked for a graph."""
    asked = options.log_severity_level
    if asked == _UNSET:
        options.log_severity_level = _FATAL
    try:
        yield
    finally:
        options.log_severity_level = asked


def _model_refusal(model: "str | PathLike[str] | bytes | onnx.ModelProto") -> str | None:
    import onnx

    try:
        if isinstance(model, bytes):
            model = onnx.load_model_from_string(model)
        elif not hasattr(model, "SerializeToString"):
            model = onnx.load(fspath(model), load_external_data=False)
    except Exception:  # ONNX Runtime knows more formats, and has better words for what it cannot read
        return "the model is not in ONNX's own format"
    return model_refusal(model)
