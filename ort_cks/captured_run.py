"""A run that ONNX Runtime captures as a CUDA graph the first time, and replays from then on."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ort_cks.capture_gate import GATE
from ort_cks.fixed_buffers import NUMPY_TYPES, FixedBuffers
from ort_cks.library import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

DEVICE = "cuda"
_GRAPH_ID, _NO_GRAPH, _DEFAULT_GRAPH = "gpu_graph_id", "-1", "0"
_WARNING = 2  # ONNX Runtime's log level


class CapturedRun:
    """A session's run from arrays to arrays, by a graph.

    ONNX Runtime keeps graphs by thread, so each thread captures its own, on the same buffers.

    Args:
        inputs: of the session, every shape fixed, every type one of NumPy's.
        outputs: likewise.
        device_id: the GPU.

    Attributes:
        lock: to be held for every run of the session, of this kind or another.
        retired: no run is a replay any more.
    """

    def __init__(
        self,
        inputs: Sequence["onnxruntime.NodeArg"],
        outputs: Sequence["onnxruntime.NodeArg"],
        device_id: int,
    ):
        self.lock = threading.Lock()
        self.retired = False
        self._inputs = {value.name: (NUMPY_TYPES[value.type], tuple(value.shape)) for value in inputs}
        self._shapes = {value.name: tuple(value.shape) for value in (*inputs, *outputs)}
        self._outputs = [value.name for value in outputs]
        self._device_id = device_id
        self._buffers: FixedBuffers | None = None
        self._thread = threading.local()

    @property
    def has_graph(self) -> bool:
        """Whether this thread has captured its graph."""
        return getattr(self._thread, "has_graph", False)

    def takes(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> bool:
        """Whether a run can be a replay: every input as an array of the very type and shape."""
        return (
            not self.retired
            and feeds.keys() == self._inputs.keys()
            and all(
                isinstance(array, np.ndarray) and (array.dtype, array.shape) == self._inputs[name]
                for name, array in feeds.items()
            )
            and all(name in self._outputs for name in output_names or ())
        )

    def run(
        self,
        session: "onnxruntime.InferenceSession",
        run_with_iobinding: Callable[..., None],
        output_names: Sequence[str] | None,
        feeds: Mapping[str, np.ndarray],
    ) -> list[np.ndarray]:
        """What the session answers. `run_with_iobinding` is onnxruntime's own, of this session."""
        # Within one call ONNX Runtime runs once or twice to plan and allocate, then captures.
        with GATE.shared() if self.has_graph else GATE.alone():
            if self._buffers is None:
                self._buffers = FixedBuffers(session, self._shapes, DEVICE, self._device_id)
            self._buffers.write(feeds)
            run_with_iobinding(self._buffers.binding, _run_options(_DEFAULT_GRAPH))
            self._thread.has_graph = True
            return [self._buffers.read(name) for name in output_names or self._outputs]

    def retire(self) -> None:
        self.retired = True
        self._buffers = None


@contextmanager
def without_graph(run_options: "onnxruntime.RunOptions | None") -> Iterator["onnxruntime.RunOptions"]:
    """Run options under which ONNX Runtime captures and replays nothing; the caller's own are put back."""
    if run_options is None:
        yield _run_options(_NO_GRAPH)
        return
    try:
        asked = run_options.get_run_config_entry(_GRAPH_ID)
    except RuntimeError:  # it is not set
        asked = _DEFAULT_GRAPH
    run_options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
    try:
        yield run_options
    finally:
        run_options.add_run_config_entry(_GRAPH_ID, asked)


def _run_options(graph_id: str) -> "onnxruntime.RunOptions":
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry(_GRAPH_ID, graph_id)
    options.log_severity_level = _WARNING  # the default, which the session's silent start has put off
    return options
