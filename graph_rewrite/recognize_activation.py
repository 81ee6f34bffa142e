"""Which activation, of those the operators know, a few elementwise nodes compute.

A single node is read. Exporters spell SiLU, HardSwish and Gelu as many small nodes in ever new orders, so a
group of nodes is not matched against patterns: it is a function of one number, it is evaluated, and compared
with the known ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import erf, inf, pi, sqrt

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import constant, scalar

_erf = np.vectorize(erf, otypes=[np.float64])


@dataclass(frozen=True)
class Activation:
    """As in docs/ops.md: the name, and all of its parameters."""

    name: str
    params: tuple[float, ...] = ()


def of_node(node: ir.Node) -> Activation | None:
    """The activation that one node is; None where it is none, or has a parameter that is not constant."""
    if node.domain not in ("", "ai.onnx"):
        return None
    get = node.attributes.get_float
    match node.op_type:
        case "Relu" | "Sigmoid" | "Tanh" | "HardSwish":
            return Activation(node.op_type)
        case "LeakyRelu":
            return Activation("LeakyRelu", (get("alpha", 0.01),))
        case "PRelu":
            slope = scalar(node.inputs[1])
            return _slopes(*node.inputs) if slope is None else Activation("LeakyRelu", (slope,))
        case "Elu":
            return Activation("Elu", (get("alpha", 1.0),))
        case "HardSigmoid":
            return Activation("HardSigmoid", (get("alpha", 0.2), get("beta", 0.5)))
        case "Gelu":
            tanh = node.attributes.get_string("approximate", "none") == "tanh"
            return Activation("GeluTanh" if tanh else "Gelu")
        case "Swish":
            return Activation("Silu") if get("alpha", 1.0) == 1 else None
        case "Clip":
            bounds = _clip_bounds(node)
            return None if bounds is None else Activation("Clip", bounds)
    return None


def slopes_below_zero(node: ir.Node) -> np.ndarray | None:
    """What Relu, LeakyRelu and PRelu multiply negative values by; None of others, and where it may vary."""
    if node.domain not in ("", "ai.onnx"):
        return None
    match node.op_type:
        case "Relu":
            return np.zeros(1)
        case "LeakyRelu":
            return np.array([node.attributes.get_float("alpha", 0.01)])
        case "PRelu":
            return constant(node.inputs[1])
    return None


def of_nodes(nodes: Sequence[ir.Node], x: ir.Value) -> Activation | None:
    """The activation that the nodes, in order, compute from x; the last one has the result.

    Two functions are taken for one where they differ by no more than rounding the nodes' constants to x's
    type explains, and level off at the same values: Relu(x) + 1e-6 is no Relu, for whoever divides by it.
    """
    samples = np.concatenate([np.linspace(-8, 8, 257), *(s * np.logspace(-3, 38, 124) for s in (1, -1))])
    computed = _evaluate(nodes, x, samples)
    if computed is None or not np.isfinite(computed).all():
        return None
    candidates = [*_FIXED, _clip_through(computed, samples)]
    errors = [_error(candidate, computed, samples, x.dtype) for candidate in candidates]
    best = int(np.argmin(errors))
    if errors[best] > 1 or candidates[best] == Activation("Clip", (-inf, inf)):
        return None
    return candidates[best]


def _error(candidate: Activation, computed: np.ndarray, x: np.ndarray, dtype: ir.DataType) -> float:
    """How far the candidate is from what was computed at x, as a share of what is allowed."""
    expected = _apply(candidate, x)
    difference = np.abs(expected - computed)
    level = (np.abs(x) > 1e3) & (np.abs(expected) < np.abs(x) / 2)
    if np.any(difference[level] > _HALF_ULP[dtype] * np.abs(expected[level])):
        return inf
    # Nothing in these two is rounded but their bounds.
    allowed = (_HALF_ULP if candidate.name in ("Relu", "Clip") else _TOLERANCE)[dtype]
    return np.max(difference / np.maximum(1, np.abs(x))) / allowed


def is_elementwise(node: ir.Node) -> bool:
    """Whether `of_nodes` can evaluate the node, if its inputs are the group's values or single constants."""
    return node.domain in ("", "ai.onnx") and node.op_type in (*_UNARY, *_BINARY, "Clip", "HardSigmoid")


# Half a unit in the last place on every constant moves these functions by less than a unit of x. Exporters
# write float constants with as few as 5 digits (1.4142).
_TOLERANCE = {
    ir.DataType.FLOAT: 2e-5,
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-8,
}
_HALF_ULP = {ir.DataType.FLOAT: 2.0**-24, ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8}

_UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Erf": _erf,
    "Exp": np.exp,
    "Identity": lambda x: x,
    "Neg": np.negative,
    "Reciprocal": lambda x: 1 / x,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
}
_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Min": np.minimum,
    "Max": np.maximum,
}

_FIXED = (
    Activation("Relu"),
    Activation("Sigmoid"),
    Activation("Tanh"),
    Activation("HardSigmoid", (1 / 6, 0.5)),
    Activation("HardSwish"),
    Activation("Silu"),
    Activation("Gelu"),
    Activation("GeluTanh"),
)


def _apply(activation: Activation, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        match activation.name, *activation.params:
            case "Relu", *_:
                return np.maximum(x, 0)
            case "Sigmoid", *_:
                return 1 / (1 + np.exp(-x))
            case "Tanh", *_:
                return np.tanh(x)
            case "HardSigmoid", alpha, beta:
                return np.clip(alpha * x + beta, 0, 1)
            case "HardSwish", *_:
                return x * np.clip(x / 6 + 0.5, 0, 1)
            case "Silu", *_:
                return x / (1 + np.exp(-x))
            case "Gelu", *_:
                return x * (1 + _erf(x / sqrt(2))) / 2
            case "GeluTanh", *_:
                return x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2
            case "Clip", low, high:
                return np.clip(x, low, high)
    raise AssertionError(activation)


def _clip_through(y: np.ndarray, x: np.ndarray) -> Activation:
    """The only Clip that a function with values y at x can be: the one bounded by its outermost values."""
    low, high = y[np.argmin(x)], y[np.argmax(x)]
    return Activation("Clip", (low if low > x.min() else -inf, high if high < x.max() else inf))


def _evaluate(nodes: Sequence[ir.Node], x: ir.Value, samples: np.ndarray) -> np.ndarray | None:
    values = {x: samples}

    def read(value: ir.Value) -> np.ndarray | float | None:
        return values[value] if value in values else scalar(value)

    with np.errstate(all="ignore"):
        for node in nodes:
            inputs = [read(value) for value in node.inputs if value is not None]
            if any(value is None for value in inputs):
                return None
            if node.op_type in _UNARY:
                y = _UNARY[node.op_type](inputs[0])
            elif node.op_type in _BINARY and len(inputs) == 2:
                y = _BINARY[node.op_type](*inputs)
            elif node.op_type in ("Clip", "HardSigmoid") and (own := of_node(node)) is not None:
                y = _apply(own, inputs[0])
            else:
                return None
            values[node.outputs[0]] = y
    return values[nodes[-1].outputs[0]]


def _slopes(x: ir.Value, slope: ir.Value) -> Activation | None:
    """PRelu with a constant slope for each channel, the second axis of x, and nothing else of its own."""
    values = constant(slope)
    if values is None or x.shape is None or values.ndim > len(x.shape):
        return None
    aligned = (1,) * (len(x.shape) - values.ndim) + values.shape
    if aligned != (1, x.shape[1], *[1] * (len(x.shape) - 2)):
        return None
    return Activation("PRelu", tuple(map(float, values.reshape(-1))))


def _clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    if "min" in node.attributes or "max" in node.attributes:  # until opset 10
        return node.attributes.get_float("min", -inf), node.attributes.get_float("max", inf)
    bounds = [-inf, inf]
    for i, value in enumerate(node.inputs[1:3]):
        if value is not None:
            bounds[i] = scalar(value)
    return None if None in bounds else (bounds[0], bounds[1])
