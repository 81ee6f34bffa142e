"""What a region takes on a GPU, by arithmetic: for machines that have none to measure on.

Every node is a kernel that takes its start and the bytes it moves. A convolution takes a constant and its
multiply-adds besides: where it is swapped those without a zero; where it is native all of a Conv, and of a
ConvTranspose those that its stride leaves, as cuDNN does. A native bias is a kernel of its own, as it is in
ONNX Runtime. So what decides is what the swap adds, Transposes, and what it saves.
"""

from math import prod

import onnx_ir as ir

from ort_cks.graph_rewrite.convolution import is_convolution, static_shape
from ort_cks.graph_rewrite.operators import is_swapped
from ort_cks.graph_rewrite.work import work

# An H200: peaks in multiply-adds and bytes a microsecond, as in benchmarks/suite.py.
_PEAK = {"fp16": 395e6, "tf32": 197.5e6, "fp32": 30e6}
_BYTES = 4.3e6
# How long a convolution takes beside its arithmetic and its bytes, and what share of the peak it reaches:
# fitted to the float16 rows of benchmarks/results/layers-h200.json, with which
# tests/test_rewrite_measure.py compares.
_NATIVE_US, _NATIVE_SHARE = 18.5, 0.66
_SWAPPED_US, _SWAPPED_SHARE = 3.5, 0.86
# A Transpose of almost nothing among others in a CUDA graph, and what large ones move a microsecond; from
# python -m benchmarks.transposes, with onnxruntime 1.31.1.
_KERNEL_US, _TRANSPOSED_BYTES = 1.1, 2.2e6

_FREE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Constant")


def estimate_us(graph: ir.Graph, precision: str) -> float:
    """precision: of float on the GPU, "tf32" or "fp32"."""
    return sum(_node_us(node, precision) for node in graph if node.op_type not in _FREE)


def _node_us(node: ir.Node, precision: str) -> float:
    speed = _TRANSPOSED_BYTES if node.op_type == "Transpose" else _BYTES
    moved = sum(map(_size, (*node.inputs, *node.outputs))) / speed
    kind = precision if node.outputs[0].dtype == ir.DataType.FLOAT else "fp16"
    if is_swapped(node):
        return _SWAPPED_US + moved + _multiply_adds(node, swapped=True) / (_PEAK[kind] * _SWAPPED_SHARE)
    if is_convolution(node):
        bias = len(node.inputs) > 2 and node.inputs[2] is not None
        beside = _KERNEL_US + 2 * _size(node.outputs[0]) / _BYTES if bias else 0.0
        arithmetic = _multiply_adds(node, swapped=False) / (_PEAK[kind] * _NATIVE_SHARE)
        return _NATIVE_US + moved + arithmetic + beside
    return _KERNEL_US + moved


def _multiply_adds(node: ir.Node, swapped: bool) -> float:
    x, w = (static_shape(value) for value in node.inputs[:2])
    done = work(node, x, w) if x and w else None
    if done is None:
        return 0.0
    skips = swapped or node.op_type == "ConvTranspose"
    return done.multiply_adds * (1 - done.zero_fraction if skips else 1)


def _size(value: ir.Value | None) -> float:
    """In bytes; 0 where the shape is not known."""
    shape = static_shape(value)
    return prod(shape) * value.dtype.itemsize if shape and value.dtype is not None else 0.0
