"""BatchNormalization and per-channel arithmetic, folded into weights and bias."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from rewrite_models import Builder, assert_same_answers, only, op_types, random_feeds, rewrite, run

K = 6  # output channels of every convolution here

CONVOLUTIONS = {
    "conv1d": ("Conv", [2, 4, 9], [K, 4, 3], {}),
    "conv2d": ("Conv", [2, 4, 7, 6], [K, 4, 3, 3], {"pads": [1, 1, 1, 1]}),
    "conv2d_groups": ("Conv", [2, 4, 7, 6], [K, 2, 3, 3], {"group": 2}),
    "conv3d": ("Conv", [1, 2, 4, 5, 4], [K, 2, 2, 2, 2], {}),
    "deconv1d": ("ConvTranspose", [2, 4, 5], [4, K, 3], {"strides": [2]}),
    "deconv2d": ("ConvTranspose", [2, 4, 5, 4], [4, K, 3, 3], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "deconv2d_groups": ("ConvTranspose", [2, 4, 5, 4], [4, K // 2, 3, 3], {"group": 2, "strides": [2, 1]}),
}


def convolution(b: Builder, kind: str, bias: bool) -> tuple[str, int]:
    op_type, x, w, attributes = CONVOLUTIONS[kind]
    inputs = [b.input(*x), b.normal(*w), *([b.normal(K)] if bias else [])]
    return b.op(op_type, *inputs, output="conv", **attributes), len(x) - 2


def channelwise(b: Builder, rank: int) -> str:
    return b.constant(b.random.uniform(0.5, 2, (K, *[1] * rank)))


FOLLOWERS = {
    "BatchNormalization": lambda b, y, rank: b.batch_norm(y, K),
    "BatchNormalization epsilon": lambda b, y, rank: b.batch_norm(y, K, epsilon=0.3),
    "Mul": lambda b, y, rank: b.op("Mul", y, channelwise(b, rank)),
    "Mul with a leading 1": lambda b, y, rank: b.op("Mul", b.normal(1, K, *[1] * rank), y),
    "Mul by a scalar": lambda b, y, rank: b.op("Mul", y, b.constant(0.25)),
    "Div": lambda b, y, rank: b.op("Div", y, channelwise(b, rank)),
    "Add": lambda b, y, rank: b.op("Add", channelwise(b, rank), y),
    "Sub": lambda b, y, rank: b.op("Sub", y, channelwise(b, rank)),
    "Sub from a constant": lambda b, y, rank: b.op("Sub", channelwise(b, rank), y),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_each_follower_is_folded(kind, follower, bias):
    b = Builder()
    y, rank = convolution(b, kind, bias)
    model = b.model(FOLLOWERS[follower](b, y, rank))
    result = rewrite(model)
    assert only(result.nodes).fused == [follower.split()[0]]
    assert op_types(result) == [only(result.nodes).new_op]
    assert_same_answers(model, result.model)


def test_a_chain_is_folded_in_order():
    b = Builder()
    y, rank = convolution(b, "conv2d", True)
    y = b.op("Mul", b.batch_norm(b.op("Add", y, channelwise(b, rank)), K), b.constant(3.0))
    model = b.model(y)
    result = rewrite(model)
    assert only(result.nodes).fused == ["Add", "BatchNormalization", "Mul"]
    assert op_types(result) == ["ConvV2"]
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_short_types_are_rounded_once(dtype):
    b = Builder(dtype)
    y, _ = convolution(b, "conv2d", True)
    model = b.model(b.batch_norm(y, K))
    result = rewrite(model)
    assert only(result.nodes).fused == ["BatchNormalization"]
    assert [i.data_type for i in result.model.graph.initializer] == [dtype, dtype]
    w, bias, scale, variance, shift, mean = (
        numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer
    )
    factor = scale / np.sqrt(variance + np.float32(1e-5))
    expected = (w * factor.reshape(K, 1, 1, 1), (bias - mean) * factor + shift)
    for initializer, exact in zip(result.model.graph.initializer, expected, strict=True):
        rounded = exact.astype(helper.tensor_dtype_to_np_dtype(dtype))
        np.testing.assert_array_equal(numpy_helper.to_array(initializer), rounded)


@pytest.mark.parametrize(("weight", "factor"), [(300.0, 300.0), (0.01, 1e-4)], ids=["over", "under"])
def test_a_fold_that_float16_cannot_hold_is_left(weight, factor):
    b = Builder(TensorProto.FLOAT16)
    w = b.constant(weight * b.random.uniform(0.8, 1.2, (K, 4, 3, 3)))
    small = b.op("Clip", b.input(1, 4, 5, 5), b.constant(-1e-2), b.constant(1e-2))
    y = b.op("Conv", small, w)
    model = b.model(b.op("Mul", y, b.constant(np.full((K, 1, 1), factor))))
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model, rtol=2e-3)


def test_a_factor_that_float_cannot_hold_is_left():
    b = Builder()
    y, _ = convolution(b, "conv2d", False)
    model = b.model(b.op("Div", y, b.constant(1e-40)))  # its reciprocal is infinite
    assert only(rewrite(model).nodes).fused == []


NOT_FOLDED = {
    "a constant over the width": lambda b, y: b.op("Mul", y, b.normal(4)),
    "a constant that widens Y": lambda b, y: b.op("Mul", y, b.normal(1, 1, K, 1, 1)),
    "a constant of Y's whole shape": lambda b, y: b.op("Add", y, b.normal(2, K, 5, 4)),
    "a run-time factor": lambda b, y: b.op("Mul", y, b.input(K, 1, 1)),
    "a constant divided by Y": lambda b, y: b.op("Div", b.constant(2.0), y),
    "Y by itself": lambda b, y: b.op("Mul", y, y),
}


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_what_is_not_per_channel_stays(case):
    b = Builder()
    y = b.op("Conv", b.input(2, 4, 7, 6), b.normal(K, 4, 3, 3))
    model = b.model(NOT_FOLDED[case](b, y))
    result = rewrite(model)
    # A constant of the whole shape is a residual like any other.
    assert only(result.nodes).fused == (["residual Add"] if "whole shape" in case else [])
    assert_same_answers(model, result.model)


def test_batch_normalization_in_training_stays():
    b = Builder()
    y, _ = convolution(b, "conv2d", False)
    y = b.batch_norm(y, K, training_mode=1)
    for i in range(2):
        b.nodes[-1].output.append(f"running{i}")
    model = b.model(y)
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model)


def test_batch_normalization_of_an_old_opset_trains_where_it_has_five_outputs():
    b = Builder(opset=9)
    y, _ = convolution(b, "conv2d", False)
    y = b.batch_norm(y, K)
    b.nodes[-1].output.extend(["mean", "variance", "saved_mean", "saved_variance"])
    model = b.model(y)
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model)


def test_a_batch_normalization_without_variance_is_left():
    b = Builder()
    y, _ = convolution(b, "conv2d", False)
    ones = b.constant(np.ones(K))
    model = b.model(b.op("BatchNormalization", y, ones, ones, ones, b.constant(np.zeros(K)), epsilon=0.0))
    assert only(rewrite(model).nodes).fused == []


def test_run_time_weights_take_a_shift_but_no_factor():
    b = Builder()
    x, w = b.input(2, 4, 7, 6), b.input(K, 4, 3, 3)
    model = b.model(b.op("Mul", b.op("Add", b.op("Conv", x, w), b.normal(K, 1, 1)), b.constant(2.0)))
    result = rewrite(model)
    assert only(result.nodes).fused == ["Add"]
    assert op_types(result) == ["ConvV2", "Mul"]
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("reader", ["another node", "the model's user"])
def test_an_output_that_others_read_is_not_changed(reader):
    b = Builder()
    y, _ = convolution(b, "conv2d", True)
    outputs = [b.batch_norm(y, K), b.op("Neg", y) if reader == "another node" else y]
    model = b.model(*outputs)
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model)


def test_shared_weights_stay_with_who_shares_them():
    b = Builder()
    x, w = b.input(2, 4, 7, 6), b.normal(K, 4, 3, 3)
    model = b.model(b.batch_norm(b.op("Conv", x, w), K), b.op("Conv", x, w), b.op("Neg", w))
    result = rewrite(model)
    assert [r.fused for r in result.nodes] == [["BatchNormalization"], []]
    assert_same_answers(model, result.model)


def test_without_fusing_everything_stays_beside_the_operator():
    b = Builder()
    y, _ = convolution(b, "conv2d", False)
    model = b.model(b.op("Relu", b.batch_norm(y, K)))
    result = rewrite(model, fuse=False)
    assert op_types(result) == ["ConvV2", "BatchNormalization", "Relu"]
    assert_same_answers(model, result.model)


def test_nothing_is_folded_into_a_node_that_is_kept():
    b = Builder()
    y, _ = convolution(b, "conv2d", False)
    model = b.model(b.batch_norm(y, K))
    result = rewrite(model, exclude=["Conv"])
    assert op_types(result) == ["Conv", "BatchNormalization"]
    np.testing.assert_array_equal(
        run(result.model, random_feeds(model))[0], run(model, random_feeds(model))[0]
    )
