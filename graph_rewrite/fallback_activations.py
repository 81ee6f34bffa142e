"""The activations of the ort_cks operators, in standard ONNX operators of any opset from 9 on."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.function_body import FunctionBody

# ONNX operators that need no more than their attributes, which are the activation's parameters in this order.
_SINGLE_OPERATORS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "LeakyRelu": ("alpha",),
    "Sigmoid": (),
    "Tanh": (),
    "HardSigmoid": ("alpha", "beta"),
    "Elu": ("alpha",),
}


def activate(body: FunctionBody, activation: str, params: Sequence[float], x: ir.Value) -> ir.Value:
    """Appends activation(x), of x's type, to the body. An empty `activation` is the identity."""
    if not activation:
        return x
    if activation in _SINGLE_OPERATORS:
        names = _SINGLE_OPERATORS[activation]
        return body.op(activation, x, **dict(zip(names, map(float, params), strict=True)))
    if activation == "Clip":
        return _clip(body, params, x)
    # Made of several operators: in float, so that half precision is rounded once, as by the operator itself.
    x = body.cast(x, body.element_type, ir.DataType.FLOAT)
    y = _COMPOSED[activation](body, x)
    return body.cast(y, ir.DataType.FLOAT, body.element_type)


def _clip(body: FunctionBody, params: Sequence[float], x: ir.Value) -> ir.Value:
    low, high = params
    if body.opset_version < 11:
        bounds = {name: float(v) for name, v in (("min", low), ("max", high)) if math.isfinite(v)}
        return body.op("Clip", x, **bounds)
    # An infinite bound is left out: ONNX Runtime's fusions of Clip expect an open end to be absent.
    return body.op(
        "Clip", x, *(body.scalar(v, body.element_type) if math.isfinite(v) else None for v in params)
    )


def _hard_swish(body: FunctionBody, x: ir.Value) -> ir.Value:
    return body.op("Mul", x, body.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _silu(body: FunctionBody, x: ir.Value) -> ir.Value:
    return body.op("Mul", x, body.op("Sigmoid", x))


def _gelu(body: FunctionBody, x: ir.Value) -> ir.Value:
    if body.opset_version >= 20:
        return body.op("Gelu", x)
    return _half_x_times_one_plus(body, x, body.op("Erf", _times(body, x, 1 / math.sqrt(2))))


def _gelu_tanh(body: FunctionBody, x: ir.Value) -> ir.Value:
    if body.opset_version >= 20:
        return body.op("Gelu", x, approximate="tanh")
    cube = body.op("Mul", body.op("Mul", x, x), x)
    inner = body.op("Add", x, _times(body, cube, 0.044715))
    return _half_x_times_one_plus(body, x, body.op("Tanh", _times(body, inner, math.sqrt(2 / math.pi))))


def _half_x_times_one_plus(body: FunctionBody, x: ir.Value, y: ir.Value) -> ir.Value:
    return body.op("Mul", _times(body, x, 0.5), body.op("Add", y, body.scalar(1.0, ir.DataType.FLOAT)))


def _times(body: FunctionBody, x: ir.Value, factor: float) -> ir.Value:
    return body.op("Mul", x, body.scalar(np.float32(factor), ir.DataType.FLOAT))


_COMPOSED: dict[str, Callable[[FunctionBody, ir.Value], ir.Value]] = {
    "HardSwish": _hard_swish,
    "Silu": _silu,
    "Gelu": _gelu,
    "GeluTanh": _gelu_tanh,
}
