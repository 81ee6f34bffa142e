"""x + conv(LeakyRelu(x)): the LeakyRelu in the operator that makes x, undone in the one that adds it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from rewrite_models import Builder, assert_same_answers, op_types, random_feeds, rewrite

import ort_cks

SHAPE = (2, 4, 6, 8)


def conv(b, x):
    return b.op("Conv", x, b.normal(4, 4, 3, 3), b.normal(4), pads=[1] * 4)


def leaky(b, x, alpha=0.125):
    return b.op("LeakyRelu", x, alpha=alpha)


def block(b, x, alpha=0.125):
    """As a vocoder has it."""
    return b.op("Add", conv(b, leaky(b, conv(b, leaky(b, x, alpha)), alpha)), x)


def attributes(result, name):
    """Of each operator, None where it has none."""
    values = []
    for node in result.model.graph.node:
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        values.append(found.get(name))
    return values


def check_kept(b, *outputs):
    model = b.model(*outputs)
    result = rewrite(model)
    assert set(attributes(result, "residual_alpha")) == {None}
    assert "LeakyRelu" in op_types(result)
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(TensorProto.FLOAT, 2e-5), (TensorProto.FLOAT16, 8e-3)], ids=["float", "float16"]
)
def test_a_chain_of_blocks(dtype, rtol, layout):
    b = Builder(dtype)
    x = conv(b, b.input(*SHAPE))
    model = b.model(conv(b, leaky(b, block(b, block(b, x)))))
    result = rewrite(model, layout=layout)
    assert [n for n in op_types(result) if n != "Transpose"] == ["ConvV2"] * 6
    assert [alpha for alpha in attributes(result, "residual_alpha") if alpha] == [0.125] * 2
    transpose = ["Transpose"] if layout == "nhwc" else []
    assert [record.fused for record in result.nodes] == [
        [*transpose, "LeakyRelu"],
        *[["LeakyRelu"], ["residual Add", "LeakyRelu"]] * 2,
        transpose,
    ]
    assert_same_answers(model, result.model, rtol=rtol)


def test_the_library_answers_the_same():
    b = Builder()
    model = b.model(conv(b, leaky(b, block(b, conv(b, b.input(*SHAPE))))))
    rewritten = rewrite(model, layout="nhwc", fallback=False).model
    feeds = random_feeds(model)
    expected = ort_cks.InferenceSession(model).run(None, feeds)[0]
    got = ort_cks.InferenceSession(rewritten).run(None, feeds)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(), strict=True)


def test_what_is_added_is_no_value_of_the_model():
    """So that --measure, which cuts both models at values of one name, does not cut there."""
    b = Builder()
    model = b.model(block(b, conv(b, b.input(*SHAPE))))
    known = {name for node in model.graph.node for name in node.output}
    added = [node.input[3] for node in rewrite(model).model.graph.node if len(node.input) > 3]
    assert len(added) == 1
    assert added[0] not in known


def test_several_blocks_that_read_the_same():
    b = Builder()
    x = conv(b, b.input(*SHAPE))
    model = b.model(block(b, x), block(b, x))
    result = rewrite(model)
    assert op_types(result) == ["ConvV2"] * 5
    assert [alpha for alpha in attributes(result, "residual_alpha") if alpha] == [0.125] * 2
    assert_same_answers(model, result.model)


def test_the_smallest_alpha():
    b = Builder()
    model = b.model(block(b, conv(b, b.input(*SHAPE)), alpha=0.01))
    result = rewrite(model)
    assert op_types(result) == ["ConvV2"] * 3
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("alpha", [0.009, 0.0, -0.5])
def test_what_cannot_be_undone_or_not_well(alpha):
    b = Builder()
    check_kept(b, block(b, conv(b, b.input(*SHAPE)), alpha))


def test_two_alphas():
    b = Builder()
    x = conv(b, b.input(*SHAPE))
    check_kept(b, block(b, x), conv(b, leaky(b, x, 0.5)))


READERS = {
    "the model's user": lambda b, x: x,
    "a convolution": conv,
    "a standard operator": lambda b, x: b.op("Exp", x),
    "another's residual": lambda b, x: b.op("Add", b.input(*SHAPE), x),
}


@pytest.mark.parametrize("reader", READERS)
def test_where_another_reads_it_too(reader):
    b = Builder()
    x = conv(b, b.input(*SHAPE))
    check_kept(b, block(b, x), READERS[reader](b, x))


def test_where_the_leaky_relu_is_an_output():
    b = Builder()
    x = conv(b, b.input(*SHAPE))
    y = leaky(b, x)
    check_kept(b, b.op("Add", conv(b, y), x), y)


def test_where_the_residual_is_no_operators():
    b = Builder()
    x = b.op("Exp", b.input(*SHAPE))
    check_kept(b, block(b, x))


def test_where_the_operator_has_an_activation():
    b = Builder()
    x = b.op("Tanh", conv(b, b.input(*SHAPE)))
    check_kept(b, block(b, x))


def test_a_convolution_that_is_kept_takes_nothing_in():
    b = Builder()
    x = b.op("Conv", b.input(*SHAPE), b.normal(4, 4, 3, 3), pads=[1] * 4, output="kept")
    model = b.model(block(b, x))
    result = rewrite(model, exclude="/kept")
    assert op_types(result) == ["Conv", "LeakyRelu", "ConvV2", "ConvV2"]
    assert_same_answers(model, result.model)
