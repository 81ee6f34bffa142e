"""How many multiply-adds a convolution does, native or swapped, and what share of them has a zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.geometry import zero_fraction
from ort_cks.graph_rewrite.operators import CONVOLUTIONS, WEIGHT_GRADIENT


@dataclass(frozen=True)
class Work:
    """multiply_adds: of a plain implementation, zeros included. zero_fraction: their share, 0 to 1."""

    multiply_adds: int
    zero_fraction: float


def work(node: ir.Node, x_shape: Sequence[int], w_shape: Sequence[int]) -> Work | None:
    """Of a Conv or ConvTranspose, or of its swap; None of a gradient, and where nothing comes out.

    x_shape: in the node's layout.
    """
    if node.op_type == WEIGHT_GRADIENT:
        return None
    if node.attributes.get_string("layout", "NCHW") == "NHWC":
        x_shape = (x_shape[0], x_shape[-1], *x_shape[1:-1])
    x, w = (ir.Value(name=name, shape=ir.Shape(shape)) for name, shape in (("x", x_shape), ("w", w_shape)))
    op_type = CONVOLUTIONS.get(node.op_type, node.op_type)
    native = Convolution(ir.Node("", op_type, [x, w], attributes=list(node.attributes.values())))
    axes = native.axes()
    if not axes:
        return None
    y_shape = (x_shape[0], native.out_channels, *(axis.output for axis in axes))
    return Work(multiply_adds(w_shape, y_shape), zero_fraction(axes))


def multiply_adds(w_shape: Sequence[int], y_shape: Sequence[int]) -> int:
    """One for each output element, filter tap and input channel of its group. y_shape is N, K, spatial."""
    return prod(y_shape) * prod(w_shape) // y_shape[1]
