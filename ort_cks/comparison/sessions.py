"""One model, opened one way, with its inputs bound where it computes: ready to be run again and again."""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from ort_cks.comparison.inputs import BadInput
from ort_cks.fixed_buffers import NUMPY_TYPES, FixedBuffers, as_numpy_knows
from ort_cks.library import import_onnxruntime, register

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# ONNX Runtime runs a session plainly once or twice before it captures a CUDA graph.
RUNS_TO_CAPTURE = 4


@dataclass(frozen=True)
class Way:
    """How a model is run.

    Attributes:
        label: how reports name it.
        model: the file.
        provider: "cpu" or "cuda".
        prefer_nhwc, tf32, cuda_graph: the CUDA provider's options; without meaning on the CPU.
        search: whether cuDNN's algorithms are timed and the fastest taken, as by default; it takes seconds.
        with_library: whether the ort_cks operators are registered; else the functions in the model run.
        tune: whether their tiles are searched by measurement.
        threads: of the CPU provider; 0 leaves the number to ONNX Runtime.
    """

    label: str
    model: Path
    provider: str
    prefer_nhwc: bool = False
    tf32: bool = True
    cuda_graph: bool = False
    search: bool = True
    with_library: bool = False
    tune: bool = False
    threads: int = 0

    def open(self, profile_prefix: str | None = None) -> "onnxruntime.InferenceSession":
        ort = import_onnxruntime()
        name = PROVIDERS[self.provider]
        if self.provider == "cuda":
            _find_cuda_libraries()
        if not has_provider(self.provider):
            raise BadInput(f"this onnxruntime has no {self.provider} provider; onnxruntime-gpu has one")
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors come as exceptions; warnings would bury the report
        options.intra_op_num_threads = self.threads
        # Sessions are timed in turn: the threads of one must not spin while another runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        if self.with_library:
            register(options, tune=self.tune)
        session = ort.InferenceSession(str(self.model), options, providers=[(name, self._provider_options())])
        if name not in session.get_providers():
            raise BadInput("ONNX Runtime's CUDA provider does not start: it needs a GPU, CUDA and cuDNN")
        return session

    def _provider_options(self) -> dict[str, str]:
        if self.provider == "cpu":
            return {}
        return {
            "prefer_nhwc": str(int(self.prefer_nhwc)),
            "use_tf32": str(int(self.tf32)),
            "enable_cuda_graph": str(int(self.cuda_graph)),
            "cudnn_conv_algo_search": "EXHAUSTIVE" if self.search else "HEURISTIC",
        }


def has_provider(provider: str) -> bool:
    """Whether this onnxruntime is built with it."""
    return PROVIDERS[provider] in import_onnxruntime().get_available_providers()


def default_provider() -> str:
    """The name of the provider to take: "cuda" where ONNX Runtime can reach a GPU, else "cpu"."""
    ort = import_onnxruntime()
    _find_cuda_libraries()
    if not has_provider("cuda"):
        return "cpu"
    try:
        ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", 0)
    except Exception:  # a build with CUDA on a machine without; the type of the error is not documented
        return "cpu"
    return "cuda"


@functools.cache
def _find_cuda_libraries() -> None:
    """CUDA and cuDNN that came as Python packages are on no search path; ONNX Runtime loads them if asked."""
    ort = import_onnxruntime()
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(None):  # it prints what it does not find, needed or not
            ort.preload_dlls()


class BoundSession:
    """A session with inputs and outputs bound on its device.

    Args:
        way: how to open the model.
        feeds: one array an input; floats are converted where this model takes others.
        output_shapes: by name; needed with a CUDA graph, whose outputs must stay where they are.
        profile_prefix: where ONNX Runtime writes its profile; None for no profile.
    """

    def __init__(
        self,
        way: Way,
        feeds: Mapping[str, np.ndarray],
        output_shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
        profile_prefix: str | None = None,
    ):
        self.way = way
        self.session = way.open(profile_prefix)
        feeds = _as_taken(self.session, feeds)
        if way.cuda_graph:
            self._binding = self._capture(feeds, output_shapes)
        else:
            self._binding = self.session.io_binding()
            for name, array in feeds.items():
                self._binding.bind_ortvalue_input(name, _on_device(array, way.provider))
            for value in self.session.get_outputs():
                self._binding.bind_output(value.name, way.provider)
        self.run()

    def _capture(
        self, feeds: Mapping[str, np.ndarray], output_shapes: Mapping[str, tuple[int, ...]]
    ) -> "onnxruntime.IOBinding":
        """Captured on other values, so that what the graph answers can only come from a replay."""
        shapes = {name: array.shape for name, array in feeds.items()} | dict(output_shapes)
        buffers = FixedBuffers(self.session, shapes, self.way.provider)
        buffers.write({name: np.roll(array, 1) for name, array in feeds.items()})
        for _ in range(RUNS_TO_CAPTURE):
            self.session.run_with_iobinding(buffers.binding)
        buffers.write(feeds)
        return buffers.binding

    def run(self) -> None:
        """Returns when the outputs are computed: ONNX Runtime synchronises the stream at the end of a run."""
        self.session.run_with_iobinding(self._binding)

    def outputs(self) -> dict[str, np.ndarray]:
        """What the last run answered; bfloat16 as float32, because ONNX Runtime makes no such NumPy array."""
        return {name: _to_numpy(value, self.way.provider) for name, value in self.values().items()}

    def values(self) -> dict[str, "onnxruntime.OrtValue"]:
        """The same where it was computed; the next run overwrites it if outputs are bound to stay."""
        names = [value.name for value in self.session.get_outputs()]
        return dict(zip(names, self._binding.get_outputs(), strict=True))


def _as_taken(
    session: "onnxruntime.InferenceSession", feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A model that was converted to float16 is fed with what its original takes."""
    kinds = {value.name: NUMPY_TYPES.get(value.type) for value in session.get_inputs()}
    return {
        name: array.astype(kinds[name]) if _both_floats(array.dtype, kinds.get(name)) else array
        for name, array in feeds.items()
    }


def _both_floats(given: np.dtype, taken: np.dtype | None) -> bool:
    return taken is not None and given.kind == taken.kind == "f"


def _on_device(array: np.ndarray, device: str) -> "onnxruntime.OrtValue":
    ort = import_onnxruntime()
    if array.dtype.name != "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy(array, device, 0)
    try:
        value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, TensorProto.BFLOAT16, device, 0)
    except RuntimeError as error:  # "Not a valid numpy type"
        raise BadInput(f"bfloat16 inputs need a newer onnxruntime than {ort.__version__}") from error
    value.update_inplace(as_numpy_knows(array))
    return value


def _to_numpy(value: "onnxruntime.OrtValue", device: str) -> np.ndarray:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    ort = import_onnxruntime()
    shape = value.shape()
    x = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], "upcast", [x], [y]
    )
    cast = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(cast.SerializeToString(), providers=[PROVIDERS[device]])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", value)
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    return binding.get_outputs()[0].numpy()


def one_line(error: Exception) -> str:
    """What went wrong, without ONNX Runtime's line breaks and the tail of its longest messages."""
    return " ".join(str(error).split())[:300] or type(error).__name__
