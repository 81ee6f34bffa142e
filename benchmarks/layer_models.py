"""A layer of the suite as an ONNX model: many copies of one operator, native or ours, on the same input."""

import functools
from pathlib import Path

import numpy as np
import onnx
from onnx import StringStringEntryProto, TensorProto, helper

from benchmarks.suite import Layer

ELEMENT_TYPE = {"fp16": TensorProto.FLOAT16, "tf32": TensorProto.FLOAT, "fp32": TensorProto.FLOAT}
NUMPY_TYPE = {"fp16": np.float16, "tf32": np.float32, "fp32": np.float32}

Shape = tuple[int, int, int, int]


def operands(layer: Layer, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """x and w (of a weight gradient, x and dy) in ONNX's layouts; the output is of size 1.

    Activations lie in memory as ours takes them, NHWC.
    """
    if layer.is_weight_gradient:
        _, _, height, width = layer.y_shape
        second, terms = _nchw(_normal(nhwc(layer.y_shape), 1)), layer.n * height * width
    else:
        second = _normal(layer.w_shape, 1)
        terms = layer.c * layer.kernel**2 / (layer.stride**2 if layer.transposed else 1)
    kind = NUMPY_TYPE[dtype]
    x = _nchw(_normal(nhwc(layer.x_shape), 0))
    return x.astype(kind), (second * np.float32(terms**-0.5)).astype(kind)


# Kept because a layer is timed in several types, one after the other, and drawing takes long.
@functools.lru_cache(maxsize=4)
def _normal(shape: Shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def nhwc(shape: Shape) -> Shape:
    n, c, h, w = shape
    return n, h, w, c


def _nchw(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2)


def result_shape(layer: Layer) -> Shape:
    """Of what ours computes: NHWC, or a weight gradient as ONNX stores weights."""
    return layer.w_shape if layer.is_weight_gradient else nhwc(layer.y_shape)


def feeds(layer: Layer, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of the model that `write_ours` writes; weights are no inputs."""
    activations = {"x": first} | ({"dy": second} if layer.is_weight_gradient else {})
    return {name: np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for name, array in activations.items()}


def write_native(path: Path, layer: Layer, dtype: str, w: np.ndarray, copies: int) -> None:
    """`copies` of ONNX's operator, in NCHW."""
    _write(path, layer, dtype, {"x": layer.x_shape}, w, layer.y_shape, copies, layer.op, "", {})


def write_ours(path: Path, layer: Layer, dtype: str, second: np.ndarray, copies: int) -> None:
    """`copies` of the ort_cks operator that the rewriter takes for the layer, in NHWC."""
    extra = {"layout": "NHWC", "precision": "tf32" if dtype == "tf32" else "fp32"}
    inputs, w = {"x": nhwc(layer.x_shape)}, second
    if layer.is_weight_gradient:
        inputs["dy"], w = nhwc(layer.y_shape), None
    operator = _our_operator(layer)
    _write(path, layer, dtype, inputs, w, result_shape(layer), copies, operator, "ort_cks", extra)


def _our_operator(layer: Layer) -> str:
    if layer.is_weight_gradient:
        return "SkDilatedWeightGrad"
    return "KSDeconv" if layer.transposed else "SkDilated" if layer.dilation > 1 else "ConvV2"


def _write(
    path: Path,
    layer: Layer,
    dtype: str,
    inputs: dict[str, Shape],
    w: np.ndarray | None,
    result: Shape,
    copies: int,
    op: str,
    domain: str,
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
    # Each copy has weights of its own, as the layers of a model have: none finds them in the cache. The file
    # holds them once.
    kind = ELEMENT_TYPE[dtype]
    weights = []
    if w is not None:
        stored = path.with_suffix(".weights")
        stored.write_bytes(np.ascontiguousarray(w).tobytes())
        place = {"location": stored.name, "length": str(stored.stat().st_size)}
        entries = [StringStringEntryProto(key=key, value=value) for key, value in place.items()]
        for i in range(copies):
            stub = TensorProto(name=f"w{i}", data_type=kind, dims=w.shape, external_data=entries)
            stub.data_location = TensorProto.EXTERNAL
            weights.append(stub)
    nodes = [
        helper.make_node(
            op,
            [*inputs, *([f"w{i}"] if weights else [])],
            [f"y{i}"],
            name=f"{layer.name}_{i}",
            domain=domain,
            **attributes,
        )
        for i in range(copies)
    ]
    graph = helper.make_graph(
        nodes,
        layer.name,
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(f"y{i}", kind, result) for i in range(copies)],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ort_cks", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def write_nothing(path: Path) -> None:
    """A model of one operator on one element, x to y: what a run costs by itself."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "nothing", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
