"""Activations behind what only moves values, and behind a MaxPool, go where a convolution takes them in."""

import numpy as np
import pytest
from rewrite_models import Builder, assert_same_answers, op_types, rewrite

SHAPE = (2, 4, 6, 8)


def conv(b, x, filters=4, **attributes):
    return b.op("Conv", x, b.normal(filters, 4, 3, 3), b.normal(filters), pads=[1] * 4, **attributes)


def ints(b, *values):
    return b.constant(np.array(values, np.int64))


def check(b, *outputs, expected, **options):
    model = b.model(*outputs)
    result = rewrite(model, **options)
    assert op_types(result) == expected
    assert_same_answers(model, result.model)
    return result


ACTIVATIONS = {
    "Relu": lambda b, x: b.op("Relu", x),
    "LeakyRelu": lambda b, x: b.op("LeakyRelu", x, alpha=0.2),
    "Clip": lambda b, x: b.op("Clip", x, b.constant(-0.5), b.constant(0.5)),
    "Sigmoid": lambda b, x: b.op("Sigmoid", x),
    "HardSwish": lambda b, x: b.op("HardSwish", x),
}
MOVERS = {
    "DepthToSpace": lambda b, x: b.op("DepthToSpace", x, blocksize=2),
    "SpaceToDepth": lambda b, x: b.op("SpaceToDepth", x, blocksize=2),
    "Flatten": lambda b, x: b.op("Flatten", x),
    "Reshape": lambda b, x: b.op("Reshape", x, ints(b, 0, 2, -1)),
    "Transpose": lambda b, x: b.op("Transpose", x, perm=[3, 0, 2, 1]),
    "Unsqueeze": lambda b, x: b.op("Unsqueeze", x, ints(b, 0)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mover", MOVERS)
def test_an_activation_behind_a_mover(mover, activation):
    b = Builder()
    y = ACTIVATIONS[activation](b, MOVERS[mover](b, conv(b, b.input(*SHAPE))))
    result = check(b, y, expected=["ConvV2", mover])
    assert result.nodes[0].fused == [activation]


def test_through_several():
    b = Builder()
    x = b.input(*SHAPE)
    y = b.op(
        "Concat",
        b.op("DepthToSpace", conv(b, x, 8), blocksize=2),
        b.op("DepthToSpace", conv(b, x, 8), blocksize=2),
        axis=1,
    )
    y = b.op("Relu", b.op("MaxPool", y, kernel_shape=[2, 2]))
    check(b, y, expected=["ConvV2", "DepthToSpace", "ConvV2", "DepthToSpace", "Concat", "MaxPool"])


@pytest.mark.parametrize("axis", [1, -1])
def test_a_concat_of_convolutions(axis):
    b = Builder()
    x = b.input(*SHAPE)
    y = b.op("LeakyRelu", b.op("Concat", *(conv(b, x) for _ in range(3)), axis=axis))
    check(b, y, expected=["ConvV2"] * 3 + ["Concat"])


def test_one_input_may_keep_a_kernel():
    b = Builder()
    x = b.input(*SHAPE)
    y = b.op("Relu", b.op("Concat", x, conv(b, x), conv(b, x), axis=1))
    check(b, y, expected=["ConvV2", "ConvV2", "Relu", "Concat"])


def test_two_may_not():
    b = Builder()
    x, y = b.input(*SHAPE), b.input(*SHAPE)
    check(b, b.op("Relu", b.op("Concat", x, y, conv(b, x), axis=1)), expected=["ConvV2", "Concat", "Relu"])


def test_what_is_joined_to_itself_stays():
    b = Builder()
    y = conv(b, b.input(*SHAPE))
    check(b, b.op("Relu", b.op("Concat", y, y, axis=1)), expected=["ConvV2", "Concat", "Relu"])


@pytest.mark.parametrize("op_type", ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid"])
def test_a_max_pool_and_what_never_falls(op_type):
    b = Builder()
    y = b.op("MaxPool", conv(b, b.input(*SHAPE)), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
    check(b, b.op(op_type, y), expected=["ConvV2", "MaxPool"])


FALLING = {
    "HardSwish": lambda b, y: b.op("HardSwish", y),
    "LeakyRelu": lambda b, y: b.op("LeakyRelu", y, alpha=-0.5),
    "PRelu": lambda b, y: b.op("PRelu", y, b.normal(4, 1, 1)),
}


@pytest.mark.parametrize("case", FALLING)
def test_a_max_pool_and_what_falls(case):
    b = Builder()
    y = FALLING[case](b, b.op("MaxPool", conv(b, b.input(*SHAPE)), kernel_shape=[2, 2]))
    check(b, y, expected=["ConvV2", "MaxPool", case])


def test_an_average_is_no_maximum():
    b = Builder()
    y = b.op("Relu", b.op("AveragePool", conv(b, b.input(*SHAPE)), kernel_shape=[2, 2]))
    check(b, y, expected=["ConvV2", "AveragePool", "Relu"])


def test_a_slope_that_would_add_an_axis():
    b = Builder()
    y = b.op("Unsqueeze", conv(b, b.input(*SHAPE)), ints(b, 0))
    y = b.op("PRelu", y, b.constant(np.full((1, 1, 1, 1, 1), 0.3)))
    check(b, y, expected=["ConvV2", "Unsqueeze", "PRelu"])


def test_slopes_of_channels_do_not_move():
    b = Builder()
    x = b.input(*SHAPE)
    y = b.op("Concat", conv(b, x), conv(b, x), axis=1)
    check(b, b.op("PRelu", y, b.normal(8, 1, 1)), expected=["ConvV2", "ConvV2", "Concat", "PRelu"])
    b = Builder()
    y = b.op("Reshape", conv(b, b.input(*SHAPE)), ints(b, 2, 4, 8, 6))
    check(b, b.op("PRelu", y, b.normal(4, 1, 1)), expected=["ConvV2", "Reshape", "PRelu"])


@pytest.mark.parametrize("reader", ["of the Concat", "of a convolution"])
def test_what_others_read_stays(reader):
    b = Builder()
    x = b.input(*SHAPE)
    y = conv(b, x)
    joined = b.op("Concat", x, y, axis=1)
    read = joined if reader == "of the Concat" else y
    check(b, b.op("Relu", joined), b.op("Exp", read), expected=["ConvV2", "Concat", "Relu", "Exp"])


def test_a_convolution_that_is_kept_takes_nothing_in():
    b = Builder()
    y = b.op("Relu", b.op("Flatten", conv(b, b.input(*SHAPE), output="kept")))
    result = rewrite(b.model(y, conv(b, b.input(*SHAPE))), exclude="/kept")
    assert op_types(result) == ["Conv", "Flatten", "Relu", "ConvV2"]


def test_an_open_batch():
    b = Builder()
    x = b.input("n", 4, "h", "w")
    y = b.op("Relu", b.op("Concat", conv(b, x), conv(b, x), axis=1))
    model = b.model(y)
    result = rewrite(model)
    assert op_types(result) == ["ConvV2", "ConvV2", "Concat"]
    assert_same_answers(model, result.model, {x: b.random.standard_normal((3, 4, 5, 6)).astype(np.float32)})
