"""A Relu and a LeakyRelu that read, or follow, one another."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rewrite_models import Builder, assert_same_answers, op_types, rewrite

SHAPE = (2, 4, 6, 8)


def conv(b, x, **attributes):
    return b.op("Conv", x, b.normal(4, 4, 3, 3), b.normal(4), pads=[1] * 4, **attributes)


def check(b, *outputs, expected):
    model = b.model(*outputs)
    result = rewrite(model)
    assert op_types(result) == expected
    assert_same_answers(model, result.model)
    return result


LEAKY = {
    "LeakyRelu": lambda b, x: b.op("LeakyRelu", x, alpha=0.2),
    "PRelu": lambda b, x: b.op("PRelu", x, b.constant(np.full((1, 1, 1), 0.3))),
}


@pytest.mark.parametrize("first", ["Relu", "LeakyRelu"])
@pytest.mark.parametrize("case", LEAKY)
def test_both_read_a_convolution(case, first):
    """The LeakyRelu becomes the convolution's, whichever comes first."""
    b = Builder()
    y = conv(b, b.input(*SHAPE))
    make = [lambda: b.op("Relu", y), lambda: LEAKY[case](b, y)]
    outputs = [each() for each in (make if first == "Relu" else reversed(make))]
    result = check(b, *outputs, expected=["ConvV2", "Relu"])
    assert result.nodes[0].fused == ["LeakyRelu"]


def test_an_image_translators_skip():
    b = Builder()
    skip = conv(b, b.input(*SHAPE))
    up = conv(b, b.op("LeakyRelu", skip, alpha=0.2))
    y = b.op("Relu", b.op("Concat", skip, up, axis=1))
    result = check(b, y, expected=["ConvV2", "ConvV2", "Relu", "Concat"])
    assert [record.fused for record in result.nodes] == [["LeakyRelu"], ["Relu"]]


@pytest.mark.parametrize("case", [*LEAKY, "Relu", "a slope a channel"])
def test_one_after_the_other(case):
    b = Builder()
    slopes = b.constant(b.random.uniform(0, 1, (4, 1, 1)))
    inner = {
        **LEAKY,
        "Relu": lambda b, x: b.op("Relu", x),
        "a slope a channel": lambda b, x: b.op("PRelu", x, slopes),
    }[case]
    result = check(b, b.op("Relu", inner(b, conv(b, b.input(*SHAPE)))), expected=["ConvV2"])
    assert result.nodes[0].fused == ["Relu"]


def test_negative_slopes_make_positive_values():
    b = Builder()
    y = conv(b, b.input(*SHAPE))
    negative = b.op("LeakyRelu", y, alpha=-0.2)
    check(b, b.op("Relu", y), negative, expected=["ConvV2", "LeakyRelu", "Relu"])
    b = Builder()
    after = b.op("Relu", b.op("PRelu", conv(b, b.input(*SHAPE)), b.normal(4, 1, 1)))
    check(b, after, expected=["ConvV2", "Relu"])


@pytest.mark.parametrize("reader", ["Exp", "the model's user", "another LeakyRelu"])
def test_where_a_third_reads_too_nothing_changes(reader):
    b = Builder()
    y = conv(b, b.input(*SHAPE))
    outputs = [b.op("Relu", y), b.op("LeakyRelu", y)]
    outputs.append(
        {"Exp": lambda: b.op("Exp", y), "the model's user": lambda: y}.get(
            reader, lambda: b.op("LeakyRelu", y, alpha=0.4)
        )()
    )
    result = rewrite(b.model(*outputs))
    assert result.nodes[0].fused == []
    assert_same_answers(b.model(*outputs), result.model)


def test_in_a_branch_of_an_if_they_stay_there():
    """The slope is a constant of the branch, which nothing outside of it can read."""
    b = Builder()
    b.inputs.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    b.inputs.append(helper.make_tensor_value_info("shape", TensorProto.INT64, ["rank"]))
    x = b.op("Reshape", b.input(*SHAPE), "shape")  # of unknown rank: the convolution takes in neither
    y = conv(b, x)
    nodes = [
        helper.make_node("PRelu", [y, "slope"], ["leaky"]),
        helper.make_node("Relu", [y], ["relu"]),
        helper.make_node("Add", ["leaky", "relu"], ["sum"]),
    ]
    slope = numpy_helper.from_array(np.array([0.3], np.float32), "slope")
    branches = [
        helper.make_graph(nodes, "then", [], [onnx.ValueInfoProto(name="sum")], [slope]),
        helper.make_graph(
            [helper.make_node("Identity", [x], ["same"])], "else", [], [onnx.ValueInfoProto(name="same")]
        ),
    ]
    z = b.op("If", "condition", then_branch=branches[0], else_branch=branches[1])
    model = b.model(z, shape=SHAPE)
    rewritten = rewrite(model).model
    feeds = {"x2": b.random.standard_normal(SHAPE).astype(np.float32), "shape": np.array(SHAPE)}
    for condition in (True, False):
        assert_same_answers(model, rewritten, feeds | {"condition": np.array(condition)})
