"""BatchNormalization and per-channel arithmetic in front of convolutions."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from rewrite_models import Builder, assert_same_answers, only, op_types, rewrite

C = 4  # channels of what comes in

CONVOLUTIONS = {
    "conv1d": ("Conv", [9], [6, C, 3], {}),
    "conv2d": ("Conv", [7, 6], [6, C, 3, 3], {}),
    "conv2d strides": ("Conv", [7, 6], [6, C, 3, 2], {"strides": [2, 1]}),
    "conv2d groups": ("Conv", [7, 6], [6, C // 2, 3, 3], {"group": 2}),
    "depthwise": ("Conv", [7, 6], [2 * C, 1, 3, 3], {"group": C}),
    "conv3d": ("Conv", [4, 5, 4], [6, C, 2, 2, 2], {}),
    "deconv2d": ("ConvTranspose", [5, 4], [C, 6, 3, 3], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "deconv2d groups": ("ConvTranspose", [5, 4], [C, 3, 3, 3], {"group": 2, "strides": [2, 1]}),
}
PADDED = {"pads": [1, 0, 2, 1]}


def per_channel(b, rank):
    return b.constant(b.random.uniform(0.5, 2, (C, *[1] * rank)))


FACTORS = {
    "Mul": lambda b, x, rank: b.op("Mul", x, per_channel(b, rank)),
    "Mul from the left": lambda b, x, rank: b.op("Mul", b.normal(1, C, *[1] * rank), x),
    "Div": lambda b, x, rank: b.op("Div", x, b.constant(-3.0)),
}
SHIFTS = {
    "BatchNormalization": lambda b, x, rank: b.batch_norm(x, C, epsilon=0.1),
    "Add": lambda b, x, rank: b.op("Add", b.normal(C, *[1] * rank), x),
    "Sub": lambda b, x, rank: b.op("Sub", x, b.constant(0.7)),
    "Sub from a constant": lambda b, x, rank: b.op("Sub", b.normal(C, *[1] * rank), x),
}
ACTIVATIONS = {
    "Relu": lambda b, x: b.op("Relu", x),
    "LeakyRelu": lambda b, x: b.op("LeakyRelu", x, alpha=-0.3),
    "PRelu": lambda b, x: b.op("PRelu", x, b.constant(b.random.uniform(-1, 1, (C, 1, 1)))),
    "two": lambda b, x: b.op("LeakyRelu", b.op("Relu", x)),
}


def convolve(b, x, kind, bias=True, **more):
    op_type, _, w, attributes = CONVOLUTIONS[kind]
    return b.op(op_type, x, b.normal(*w), *([b.normal(_outputs(kind))] if bias else []), **attributes, **more)


def _outputs(kind):
    op_type, _, w, attributes = CONVOLUTIONS[kind]
    return w[0] if op_type == "Conv" else w[1] * attributes.get("group", 1)


def source(b, kind="conv2d", batch=2):
    return b.input(batch, C, *CONVOLUTIONS[kind][1])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("follower", FACTORS | SHIFTS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_arithmetic_before_a_convolution_is_folded(kind, follower, bias):
    b = Builder()
    x = (FACTORS | SHIFTS)[follower](b, source(b, kind), len(CONVOLUTIONS[kind][1]))
    model = b.model(convolve(b, x, kind, bias))
    result = rewrite(model)
    foldable = follower in FACTORS or not kind.startswith("deconv")
    assert (len(op_types(result)) == 1) is foldable
    assert only(result.nodes).fused == ([f"{follower.split()[0]} before it"] if foldable else [])
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("pads", [PADDED, {"auto_pad": "SAME_UPPER"}], ids=["pads", "auto_pad"])
@pytest.mark.parametrize("follower", FACTORS | SHIFTS)
def test_padding_stops_what_is_added_only(follower, pads):
    """The borders, which the padding reaches, are what would be wrong."""
    b = Builder()
    x = (FACTORS | SHIFTS)[follower](b, source(b), 2)
    model = b.model(convolve(b, x, "conv2d", **pads))
    result = rewrite(model)
    assert (len(op_types(result)) == 1) is (follower in FACTORS)
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_positive_factor_passes_activations(activation):
    b = Builder()
    x = ACTIVATIONS[activation](b, b.op("Div", source(b), b.constant(3.0)))
    model = b.model(convolve(b, x, "conv2d", **PADDED))
    result = rewrite(model)
    assert "Div" not in op_types(result)
    assert_same_answers(model, result.model)


def test_the_end_of_a_vocoders_stage():
    """HiFi-GAN: the mean of three, a LeakyRelu and the next ConvTranspose."""
    b = Builder()
    total = b.op("Add", b.op("Add", b.input(1, C, 5, 4), b.input(1, C, 5, 4)), b.input(1, C, 5, 4))
    x = b.op("LeakyRelu", b.op("Div", total, b.constant(3.0)), alpha=0.1)
    model = b.model(convolve(b, x, "deconv2d"))
    result = rewrite(model)
    assert op_types(result) == ["Sum", "LeakyRelu", "KSDeconv"]
    assert_same_answers(model, result.model)


def test_a_chain_is_folded_from_its_end():
    b = Builder()
    x = b.op("Sub", b.op("Mul", source(b), b.constant(1 / 255)), per_channel(b, 2))
    model = b.model(convolve(b, b.op("Div", x, per_channel(b, 2)), "conv2d"))
    result = rewrite(model)
    assert only(result.nodes).fused == ["Div before it", "Sub before it", "Mul before it"]
    assert_same_answers(model, result.model)


def test_all_readers_take_it_each_with_weights_of_its_own():
    b = Builder()
    x = b.op("Mul", source(b, batch="n"), per_channel(b, 2))
    w = b.normal(6, C, 3, 3)
    convolved = [b.op("Conv", x, w), b.op("Conv", b.op("Relu", x), w), b.op("Conv", b.input(1, C, 5, 5), w)]
    model = b.model(*convolved)
    result = rewrite(model)
    assert op_types(result) == ["ConvV2", "Relu", "ConvV2", "ConvV2"]
    assert_same_answers(model, result.model)


def bounds(b):
    """Of the first channel."""
    return [b.constant(np.array([bound])) for bound in (0, 1, 1)]


NOT_FOLDED = {
    "a negative factor before an activation": lambda b, x: b.op("Relu", b.op("Mul", x, b.constant(-2.0))),
    "a sum before an activation": lambda b, x: b.op("Relu", b.op("Add", x, b.constant(1.0))),
    "another function": lambda b, x: b.op("Tanh", b.op("Mul", x, b.constant(2.0))),
    "a steep slope": lambda b, x: b.op("LeakyRelu", b.op("Mul", x, b.constant(2.0)), alpha=3.0),
    "a constant along W": lambda b, x: b.op("Mul", x, b.normal(6)),
    "a constant that widens": lambda b, x: b.op("Mul", b.op("Slice", x, *bounds(b)), b.normal(C, 1, 1)),
    "a run-time factor": lambda b, x: b.op("Mul", x, b.input(1)),
    "a square": lambda b, x: b.op("Mul", x, x),
}


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_what_is_not_linear_stays(case):
    b = Builder()
    model = b.model(convolve(b, NOT_FOLDED[case](b, source(b)), "conv2d"))
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("reader", ["another node", "the model's user", "a node that is kept", "a filter"])
def test_what_others_read_stays(reader):
    b = Builder()
    x = b.op("Mul", source(b), b.constant(2.0))
    outputs = [convolve(b, x, "conv2d")]
    if reader == "another node":
        outputs.append(b.op("Exp", x))
    elif reader == "the model's user":
        outputs.append(x)
    elif reader == "a node that is kept":
        outputs.append(b.op("Conv", x, b.normal(1, C, 1, 1), output="kept"))
    else:
        outputs.append(b.op("Conv", b.input(1, C, 9, 9), x))
    model = b.model(*outputs)
    result = rewrite(model, exclude="/kept")
    assert result.nodes[0].fused == []
    assert op_types(result)[0] == "Mul"
    assert_same_answers(model, result.model)


@pytest.mark.parametrize(("weight", "factor"), [(300.0, 300.0), (0.01, 1e-4)], ids=["over", "under"])
def test_a_fold_that_float16_cannot_hold_is_left(weight, factor):
    b = Builder(TensorProto.FLOAT16)
    w = b.constant(weight * b.random.uniform(0.8, 1.2, (2, C, 3, 3)))
    small = b.op("Clip", source(b), b.constant(-1e-2), b.constant(1e-2))
    model = b.model(b.op("Conv", b.op("Mul", small, b.constant(factor)), w))
    assert only(rewrite(model).nodes).fused == []


def test_short_types_are_rounded_once():
    b = Builder(TensorProto.FLOAT16)
    w, factor = b.normal(6, C, 3, 3), b.constant(b.random.uniform(0.5, 2, (C, 1, 1)))
    model = b.model(b.op("Conv", b.op("Mul", source(b), factor), w))
    (rewritten,) = rewrite(model).model.graph.initializer
    arrays = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer}
    exact = arrays[w] * arrays[factor]
    np.testing.assert_array_equal(numpy_helper.to_array(rewritten), exact.astype(np.float16))
