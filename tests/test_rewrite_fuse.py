"""Residuals and activations that move into the operator."""

from math import inf, pi, sqrt

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rewrite_models import Builder, assert_same_answers, only, op_types, rewrite


def swapped_nodes(result) -> list[onnx.NodeProto]:
    return [node for node in result.model.graph.node if node.domain == "ort_cks"]


def activation_of(node: onnx.NodeProto) -> tuple:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    params = attributes.get("activation_params", [])
    return (attributes.get("activation", b"").decode(), *(pytest.approx(p, rel=1e-6) for p in params))


def conv(b: Builder, x: str, name: str | None = None) -> str:
    return b.op("Conv", x, b.normal(4, 4, 3, 3), b.normal(4), pads=[1, 1, 1, 1], output=name)


def bounds(b: Builder, *values: float | None) -> list[str]:
    return ["" if value is None else b.constant(value) for value in values]


def gelu_erf(b: Builder, x: str) -> str:
    return b.op(
        "Mul",
        b.op(
            "Mul",
            x,
            b.op("Add", b.op("Erf", b.op("Div", x, b.constant(1.4142135))), b.constant(1.0)),
        ),
        b.constant(0.5),
    )


def gelu_erf_half_first(b: Builder, x: str) -> str:
    erf = b.op("Erf", b.op("Mul", x, b.constant(0.7071067)))
    return b.op("Mul", b.op("Mul", b.constant(0.5), x), b.op("Add", b.constant(1.0), erf))


def gelu_tanh(b: Builder, x: str) -> str:
    inner = b.op("Mul", b.op("Pow", x, b.constant(3.0)), b.constant(0.044715))
    inner = b.op("Mul", b.op("Add", x, inner), b.constant(sqrt(2 / pi)))
    return b.op("Mul", b.op("Mul", x, b.constant(0.5)), b.op("Add", b.op("Tanh", inner), b.constant(1.0)))


def gelu_tanh_without_pow(b: Builder, x: str) -> str:
    cube = b.op("Mul", b.op("Mul", b.op("Mul", x, x), x), b.constant(0.044715))
    tanh = b.op("Tanh", b.op("Mul", b.op("Add", x, cube), b.constant(sqrt(2 / pi))))
    return b.op("Mul", b.op("Mul", x, b.op("Add", tanh, b.constant(1.0))), b.constant(0.5))


def hard_swish_relu6(b: Builder, x: str) -> str:
    relu6 = b.op("Clip", b.op("Add", x, b.constant(3.0)), *bounds(b, 0.0, 6.0))
    return b.op("Div", b.op("Mul", x, relu6), b.constant(6.0))


ACTIVATIONS = {
    "Relu": (17, lambda b, x: b.op("Relu", x), ("Relu",)),
    "LeakyRelu": (17, lambda b, x: b.op("LeakyRelu", x, alpha=0.2), ("LeakyRelu", 0.2)),
    "LeakyRelu default": (17, lambda b, x: b.op("LeakyRelu", x), ("LeakyRelu", 0.01)),
    "PRelu": (17, lambda b, x: b.op("PRelu", x, b.constant(np.full((1, 1, 1), 0.3))), ("LeakyRelu", 0.3)),
    "Clip": (17, lambda b, x: b.op("Clip", x, *bounds(b, 0.0, 6.0)), ("Clip", 0, 6)),
    "Clip min": (17, lambda b, x: b.op("Clip", x, *bounds(b, -0.5)), ("Clip", -0.5, inf)),
    "Clip max": (17, lambda b, x: b.op("Clip", x, *bounds(b, None, 0.5)), ("Clip", -inf, 0.5)),
    "Clip attributes": (10, lambda b, x: b.op("Clip", x, min=-0.5, max=0.75), ("Clip", -0.5, 0.75)),
    "Max": (17, lambda b, x: b.op("Max", x, b.constant(0.0)), ("Relu",)),
    "Relu then Clip": (
        17,
        lambda b, x: b.op("Clip", b.op("Relu", x), *bounds(b, -1.0, 0.7)),
        ("Clip", 0, 0.7),
    ),
    "Sigmoid": (17, lambda b, x: b.op("Sigmoid", x), ("Sigmoid",)),
    "Tanh": (17, lambda b, x: b.op("Tanh", x), ("Tanh",)),
    "HardSigmoid": (17, lambda b, x: b.op("HardSigmoid", x, alpha=0.3, beta=0.4), ("HardSigmoid", 0.3, 0.4)),
    "HardSwish": (17, lambda b, x: b.op("HardSwish", x), ("HardSwish",)),
    "x HardSigmoid": (
        17,
        lambda b, x: b.op("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
        ("HardSwish",),
    ),
    "x relu6(x + 3) / 6": (17, hard_swish_relu6, ("HardSwish",)),
    "x Sigmoid": (17, lambda b, x: b.op("Mul", b.op("Sigmoid", x), x), ("Silu",)),
    "Elu": (17, lambda b, x: b.op("Elu", x, alpha=0.7), ("Elu", 0.7)),
    "Gelu": (20, lambda b, x: b.op("Gelu", x), ("Gelu",)),
    "Gelu tanh": (20, lambda b, x: b.op("Gelu", x, approximate="tanh"), ("GeluTanh",)),
    "Gelu by Erf": (17, gelu_erf, ("Gelu",)),
    "Gelu by Erf, 0.5 first": (17, gelu_erf_half_first, ("Gelu",)),
    "Gelu by Tanh": (17, gelu_tanh, ("GeluTanh",)),
    "Gelu by Tanh without Pow": (17, gelu_tanh_without_pow, ("GeluTanh",)),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_an_activation_becomes_an_attribute(case):
    opset, make, expected = ACTIVATIONS[case]
    b = Builder(opset=opset)
    model = b.model(make(b, conv(b, b.input(2, 4, 6, 5))))
    result = rewrite(model)
    (node,) = result.model.graph.node
    assert activation_of(node) == expected
    assert only(result.nodes).fused == [expected[0]]
    assert node.output[0] == model.graph.output[0].name
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_prelu_with_a_slope_a_channel(dtype, shape, layout):
    b = Builder(dtype)
    slopes = b.random.uniform(-0.5, 1.5, shape).astype(helper.tensor_dtype_to_np_dtype(dtype))
    y = b.op("PRelu", conv(b, b.input(2, 4, 6, 5)), b.constant(slopes))
    model = b.model(b.op("PRelu", conv(b, y), b.constant(slopes[..., ::-1, :, :])))
    result = rewrite(model, layout=layout)
    nodes = swapped_nodes(result)
    assert [activation_of(node)[1:] for node in nodes] == [(*slopes.ravel(),), (*slopes.ravel()[::-1],)]
    transpose = ["Transpose"] if layout == "nhwc" else []
    assert [record.fused for record in result.nodes] == [[*transpose, "PRelu"], ["PRelu", *transpose]]
    assert "PRelu" not in op_types(result)
    assert_same_answers(model, result.model, rtol=2e-5 if dtype == TensorProto.FLOAT else 4e-3)


def test_a_prelu_that_another_reads_through_stays():
    b = Builder()
    y = conv(b, b.input(2, 4, 6, 5))
    model = b.model(b.op("PRelu", y, b.normal(4, 1, 1)), b.op("Exp", y))
    result = rewrite(model)
    assert op_types(result) == ["ConvV2", "PRelu", "Exp"]
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("case", ["Gelu by Erf", "Gelu by Tanh", "x Sigmoid", "x relu6(x + 3) / 6"])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_spelled_out_activations_with_rounded_constants(case, dtype):
    _, make, expected = ACTIVATIONS[case]
    b = Builder(dtype)
    result = rewrite(b.model(make(b, conv(b, b.input(2, 4, 6, 5)))))
    assert only(result.nodes).fused[0] in (
        expected[0],
        *(("Gelu", "GeluTanh") if "Gelu" in expected[0] else ()),
    )
    assert len(result.model.graph.node) == 1


NOT_FUSED = {
    "x sigmoid(1.702 x)": lambda b, x: b.op("Mul", x, b.op("Sigmoid", b.op("Mul", x, b.constant(1.702)))),
    "Softplus": lambda b, x: b.op("Softplus", x),
    "a slope a column": lambda b, x: b.op("PRelu", x, b.normal(5)),
    "a slope an element": lambda b, x: b.op("PRelu", x, b.normal(4, 6, 5)),
    "run-time slopes": lambda b, x: b.op("PRelu", x, b.input(4, 1, 1)),
    "a run-time bound": lambda b, x: b.op("Clip", x, b.input()),
    "a bound that widens Y": lambda b, x: b.op("Max", x, b.constant(np.zeros((1, 1, 1, 1, 1)))),
    "x erf(x)": lambda b, x: b.op("Mul", x, b.op("Erf", x)),
    "Neg": lambda b, x: b.op("Neg", x),
}


@pytest.mark.parametrize("case", NOT_FUSED)
def test_what_is_no_activation_of_ours_stays(case):
    b = Builder()
    model = b.model(NOT_FUSED[case](b, conv(b, b.input(2, 4, 6, 5))))
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model)


# Small as it is next to the activation, the constant keeps a logarithm or a division behind it finite.
KEPT_FROM_ZERO = {
    "Relu": lambda b, y: b.op("Add", b.op("Max", y, b.constant(0.0)), b.constant(1e-6)),
    "Sigmoid": lambda b, y: b.op("Clip", b.op("Sigmoid", y), *bounds(b, 1e-7, 1 - 1e-7)),
    "Tanh": lambda b, y: b.op("Min", b.op("Tanh", y), b.constant(1 - 1e-6)),
    "HardSwish": lambda b, y: b.op("Add", hard_swish_relu6(b, y), b.constant(1e-6)),
    "Clip": lambda b, y: b.op("Add", b.op("Clip", y, *bounds(b, 0.0, 1.0)), b.constant(1e-6)),
}


@pytest.mark.parametrize("activation", KEPT_FROM_ZERO)
def test_a_small_constant_after_an_activation_is_not_rounded_away(activation):
    b = Builder()
    model = b.model(KEPT_FROM_ZERO[activation](b, conv(b, b.input(2, 4, 6, 5))))
    result = rewrite(model)
    assert only(result.nodes).fused == [activation]
    assert op_types(result) == ["ConvV2", model.graph.node[-1].op_type]


def test_another_domains_operator_is_no_activation():
    b = Builder()
    y = conv(b, b.input(2, 4, 6, 5))
    b.nodes.append(onnx.helper.make_node("Relu", [y], ["relu"], name="/relu", domain="another"))
    model = b.model(b.op("Neg", "relu"), domains=["another"], shape=[2, 4, 6, 5])
    assert only(rewrite(model).nodes).fused == []


def test_only_the_activation_is_taken_from_a_longer_chain():
    b = Builder()
    y = b.op("Relu", conv(b, b.input(2, 4, 6, 5)))
    model = b.model(b.op("Mul", b.op("Add", y, b.constant(1.0)), b.constant(2.0)))
    result = rewrite(model)
    assert op_types(result) == ["ConvV2", "Add", "Mul"]
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("inner", ["y", "sigmoid"])
def test_an_activation_stays_where_its_inside_is_read(inner):
    b = Builder()
    y = conv(b, b.input(2, 4, 6, 5))
    sigmoid = b.op("Sigmoid", y)
    outputs = [b.op("Mul", y, sigmoid), {"y": y, "sigmoid": sigmoid}[inner]]
    model = b.model(*outputs)
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("swap_operands", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_residual_comes_before_the_activation(swap_operands, with_bias):
    b = Builder()
    x = b.input(2, 4, 6, 5)
    y = b.op("Conv", x, b.normal(4, 4, 3, 3), *([b.normal(4)] if with_bias else []), pads=[1, 1, 1, 1])
    model = b.model(b.op("Relu", b.op("Add", *((x, y) if swap_operands else (y, x)))))
    result = rewrite(model)
    (node,) = result.model.graph.node
    assert len(node.input) == 4
    assert all(node.input)
    assert node.input[3] == x
    assert only(result.nodes).fused == ["residual Add", "Relu"]
    assert_same_answers(model, result.model)


def test_a_residual_made_after_the_convolution():
    b = Builder()
    x = b.input(2, 4, 6, 5)
    y = conv(b, x)
    z = b.op("Softplus", b.op("Neg", x))
    model = b.model(b.op("Add", y, z))
    result = rewrite(model)
    assert op_types(result) == ["Neg", "Softplus", "ConvV2"]
    assert_same_answers(model, result.model)


def test_where_two_convolutions_meet_the_later_takes_the_add():
    b = Builder()
    x = b.input(2, 4, 6, 5)
    model = b.model(b.op("Relu", b.op("Add", conv(b, x, "first"), conv(b, x, "second"))))
    result = rewrite(model)
    assert [record.fused for record in result.nodes] == [[], ["residual Add", "Relu"]]
    first, second = swapped_nodes(result)
    assert second.input[3] == first.output[0]
    assert_same_answers(model, result.model)


def test_a_chain_of_residual_blocks():
    b = Builder()
    x = b.input(1, 4, 6, 5)
    for _ in range(3):
        x = b.op("Relu", b.op("Add", b.batch_norm(conv(b, b.op("Relu", conv(b, x))), 4), x))
    model = b.model(x)
    result = rewrite(model)
    assert set(op_types(result)) == {"ConvV2"}
    assert len(result.nodes) == 6
    assert [r.fused for r in result.nodes] == [["Relu"], ["BatchNormalization", "residual Add", "Relu"]] * 3
    assert_same_answers(model, result.model)


NOT_RESIDUAL = {
    "a broadcast over the width": lambda b, x, y: b.op("Add", y, b.input(2, 4, 6, 1)),
    "a broadcast of Y": lambda b, x, y: b.op("Add", y, b.input(3, 2, 4, 6, 5)),
    "Y twice": lambda b, x, y: b.op("Add", y, y),
    "Z that depends on Y": lambda b, x, y: b.op("Add", y, b.op("Softplus", y)),
    "a difference": lambda b, x, y: b.op("Sub", y, x),
    "an unknown extent": lambda b, x, y: b.op("Add", y, b.input(2, 4, None, 5)),
}


@pytest.mark.parametrize("case", NOT_RESIDUAL)
def test_what_is_no_residual_stays(case):
    b = Builder()
    x = b.input(2, 4, 6, 5)
    model = b.model(NOT_RESIDUAL[case](b, x, conv(b, x)))
    result = rewrite(model)
    assert only(result.nodes).fused == []
    if case != "an unknown extent":
        assert_same_answers(model, result.model)


def test_a_named_dimension_equals_its_namesake():
    b = Builder()
    x = b.input("batch", 4, 6, 5)
    model = b.model(b.op("Add", conv(b, x), x))
    result = rewrite(model)
    assert only(result.nodes).fused == ["residual Add"]
    feeds = {x: np.random.default_rng(0).standard_normal((3, 4, 6, 5)).astype(np.float32)}
    assert_same_answers(model, result.model, feeds)
