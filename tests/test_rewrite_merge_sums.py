"""Adds that become one Sum."""

import numpy as np
import pytest
from onnx import TensorProto
from rewrite_models import Builder, assert_same_answers, op_types, rewrite


def model_of_sums(make, count, shape=(2, 4, 5, 6), dtype=TensorProto.FLOAT):
    b = Builder(dtype)
    x = b.input(*shape)
    terms = [b.op("Exp", b.op("Mul", x, b.constant(0.1 * i))) for i in range(count)]
    y = make(b, terms)
    return b.model(b.op("Conv", b.op("Neg", y), b.normal(2, 4, 3, 3)))


def chain(b, terms):
    y, *rest = terms
    for term in rest:
        y = b.op("Add", y, term)
    return y


MERGED = {
    "a chain": (chain, 3),
    "from the right": (lambda b, t: b.op("Add", t[0], b.op("Add", t[1], t[2])), 3),
    "of two pairs": (lambda b, t: b.op("Add", b.op("Add", t[0], t[1]), b.op("Sum", t[2], t[3])), 4),
    "as many as one kernel takes": (chain, 8),
}


def sums(model):
    return [node for node in op_types(rewrite(model)) if node in ("Add", "Sum")]


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), ("n", 4, "h", "w")])
@pytest.mark.parametrize("case", MERGED)
def test_sums_of_equal_shapes_merge(case, shape):
    model = model_of_sums(*MERGED[case], shape)
    assert sums(model) == ["Sum"]
    feeds = {"x0": np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)}
    assert_same_answers(model, rewrite(model).model, feeds)


def test_more_than_one_kernel_takes():
    model = model_of_sums(chain, 12)
    assert sums(model) == ["Sum", "Sum"]
    assert_same_answers(model, rewrite(model).model)


KEPT = {
    "a broadcast": lambda b, t: b.op("Add", b.op("Add", t[0], t[1]), b.normal(4, 1, 1)),
    "an inner broadcast": lambda b, t: b.op("Add", b.op("Add", t[0], b.normal(6)), t[1]),
    "an inner sum that others read": lambda b, t: b.op(
        "Mul", b.op("Add", inner := b.op("Add", t[0], t[1]), t[2]), inner
    ),
    "a sum with itself": lambda b, t: b.op("Add", inner := b.op("Add", t[0], t[1]), inner),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_not_merged(case):
    model = model_of_sums(KEPT[case], 3)
    assert sums(model) == ["Add", "Add"]
    assert_same_answers(model, rewrite(model).model)
