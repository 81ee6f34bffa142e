"""A session's inputs and outputs in buffers that stay where they are, as a CUDA graph needs them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ort_cks.library import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

# What ONNX Runtime calls the types that NumPy has too.
NUMPY_TYPES = {
    f"tensor({ {'float32': 'float', 'float64': 'double'}.get(name, name) })": np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
}
_ONNX_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16, spared an import


class FixedBuffers:
    """Device memory for every input and output of a session, bound once.

    Args:
        session: whose inputs and outputs they are.
        shapes: one for every input and output, by name.
        device, device_id: where.

    Attributes:
        binding: what `run_with_iobinding` takes.
    """

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        shapes: Mapping[str, Sequence[int]],
        device: str,
        device_id: int = 0,
    ):
        ort = import_onnxruntime()
        self.binding = ort.IOBinding(session)

        def buffers(values: Sequence["onnxruntime.NodeArg"]) -> dict[str, "onnxruntime.OrtValue"]:
            make = ort.OrtValue.ortvalue_from_shape_and_type
            return {
                value.name: make(list(shapes[value.name]), element_type(value.type), device, device_id)
                for value in values
            }

        self._inputs, self._outputs = buffers(session.get_inputs()), buffers(session.get_outputs())
        for name, value in self._inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self.binding.bind_ortvalue_output(name, value)

    def write(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Copies arrays of the inputs' own types and shapes into their buffers."""
        for name, array in feeds.items():
            contiguous = array if array.flags.c_contiguous else np.ascontiguousarray(array)
            self._inputs[name].update_inplace(as_numpy_knows(contiguous))

    def read(self, name: str) -> np.ndarray:
        """A copy of an output."""
        array = self._outputs[name].numpy()
        return array if array.flags.owndata else array.copy()  # on the CPU it is the buffer itself


def element_type(text: str) -> np.dtype | int:
    """ONNX Runtime's name of a type as OrtValue takes it: bfloat16, which NumPy lacks, by ONNX's number."""
    return _ONNX_BFLOAT16 if text == "tensor(bfloat16)" else NUMPY_TYPES[text]


def as_numpy_knows(array: np.ndarray) -> np.ndarray:
    """bfloat16 as the integers with the same bits: ONNX Runtime takes arrays of NumPy's own types only."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array
