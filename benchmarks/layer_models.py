"""A layer of the suite as an ONNX model: many copies of one operator, native or ours, on the same input."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.suite import Layer

ELEMENT_TYPE = {"fp16": TensorProto.FLOAT16, "tf32": TensorProto.FLOAT, "fp32": TensorProto.FLOAT}
NUMPY_TYPE = {"fp16": np.float16, "tf32": np.float32, "fp32": np.float32}


def operands(layer: Layer, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """x and w in ONNX's layouts; the output is of size 1."""
    random = np.random.default_rng(0)
    fan_in = layer.c * layer.kernel**2 / (layer.stride**2 if layer.transposed else 1)
    x = random.standard_normal(layer.x_shape, np.float32)
    w = random.standard_normal(layer.w_shape, np.float32) / np.float32(fan_in**0.5)
    return x.astype(NUMPY_TYPE[dtype]), w.astype(NUMPY_TYPE[dtype])


def write_native(path: Path, layer: Layer, dtype: str, w: np.ndarray, copies: int) -> None:
    """`copies` of ONNX's operator, in NCHW."""
    _write(path, layer, dtype, w, copies, layer.op, "", layer.x_shape, layer.y_shape, {})


def write_ours(path: Path, layer: Layer, dtype: str, w: np.ndarray, copies: int) -> None:
    """`copies` of the ort_cks operator that the rewriter takes for the layer, in NHWC."""
    op = "KSDeconv" if layer.transposed else "SkDilated" if layer.dilation > 1 else "ConvV2"
    extra = {"layout": "NHWC", "precision": "tf32" if dtype == "tf32" else "fp32"}
    shapes = (nhwc(layer.x_shape), nhwc(layer.y_shape))
    _write(path, layer, dtype, w, copies, op, "ort_cks", *shapes, extra)


def nhwc(shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    n, c, h, w = shape
    return n, h, w, c


def _write(
    path: Path,
    layer: Layer,
    dtype: str,
    w: np.ndarray,
    copies: int,
    op: str,
    domain: str,
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    extra: dict[str, str],
) -> None:
    attributes = {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": [layer.pad] * 4,
        "dilations": [layer.dilation] * 2,
        **({"output_padding": [layer.output_padding] * 2} if layer.transposed else {}),
        **extra,
    }
    # Each copy has weights of its own, as the layers of a model have: none finds them in the cache.
    nodes = [
        helper.make_node(op, ["x", f"w{i}"], [f"y{i}"], name=f"{layer.name}_{i}", domain=domain, **attributes)
        for i in range(copies)
    ]
    kind = ELEMENT_TYPE[dtype]
    graph = helper.make_graph(
        nodes,
        layer.name,
        [helper.make_tensor_value_info("x", kind, x_shape)],
        [helper.make_tensor_value_info(f"y{i}", kind, y_shape) for i in range(copies)],
        [numpy_helper.from_array(w, f"w{i}") for i in range(copies)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ort_cks", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def write_nothing(path: Path) -> None:
    """A model of one operator on one element, x to y: what a run costs by itself."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "nothing", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
