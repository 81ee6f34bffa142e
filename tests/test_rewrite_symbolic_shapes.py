"""Residuals in models whose extents are open: fused where the shapes are certainly equal, and only there."""

import numpy as np
import pytest
from rewrite_models import Builder, assert_same_answers, rewrite

from ort_cks.graph_rewrite.load import load
from ort_cks.graph_rewrite.symbolic_shapes import SymbolicShapes


def conv(b: Builder, x: str, size: int = 3, **attributes) -> str:
    return b.op("Conv", x, b.normal(4, 4, size, size), **({"pads": [size // 2] * 4} | attributes))


def open_input(b: Builder, name: str | None = None) -> str:
    return b.input("n", 4, "h", "w", name=name)


EQUAL = {
    "a convolution that keeps its extents": lambda b, x: (conv(b, x), x),
    "dilated": lambda b, x: (conv(b, x, pads=[2] * 4, dilations=[2, 2]), x),
    "auto_pad": lambda b, x: (b.op("Conv", x, b.normal(4, 4, 4, 4), auto_pad="SAME_UPPER"), x),
    "transposed": lambda b, x: (b.op("ConvTranspose", x, b.normal(4, 4, 3, 3), pads=[1] * 4), x),
    "behind elementwise nodes": lambda b, x: (
        conv(b, b.op("Relu", b.op("Add", x, b.normal(4, 1, 1)))),
        b.op("Mul", b.op("Sigmoid", x), x),
    ),
    "the same strides": lambda b, x: (
        conv(b, x, strides=[2, 2]),
        b.op("Conv", x, b.normal(4, 4, 1, 1), strides=[2, 2]),
    ),
    "the same pooling": lambda b, x: (
        conv(b, b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])),
        b.op("MaxPool", b.op("Neg", x), kernel_shape=[2, 2], strides=[2, 2]),
    ),
}


@pytest.mark.parametrize("shape", [(2, 4, 6, 7), (1, 4, 9, 5)])
@pytest.mark.parametrize("case", EQUAL)
def test_equal_shapes(case, shape):
    b = Builder()
    x = open_input(b)
    model = b.model(b.op("Add", *EQUAL[case](b, x)))
    result = rewrite(model)
    assert ["residual Add"] in [record.fused for record in result.nodes]
    feeds = {x: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    assert_same_answers(model, result.model, feeds)


def another(b: Builder) -> str:
    return b.input("n", 4, "other", "w", name="another")


UNCERTAIN = {
    "another extent": lambda b, x: (conv(b, x), another(b)),
    "an extent without a name": lambda b, x: (conv(b, x), b.input("n", 4, None, "w", name="another")),
    "a convolution that shrinks": lambda b, x: (conv(b, x, pads=[0, 1, 1, 1]), x),
    "other strides": lambda b, x: (conv(b, x, strides=[2, 1]), x),
    "other pads at the same stride": lambda b, x: (
        conv(b, x, strides=[2, 2]),
        conv(b, x, strides=[2, 2], pads=[0] * 4),
    ),
    "a concatenation along the height": lambda b, x: (conv(b, x), b.op("Concat", x, x, axis=2)),
    "a broadcast between two": lambda b, x: (conv(b, x), b.op("Add", x, another(b))),
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_uncertain_shapes(case):
    b = Builder()
    model = b.model(b.op("Add", *UNCERTAIN[case](b, open_input(b))))
    for record in rewrite(model).nodes:
        assert record.fused == []


def test_unknown_shapes_are_equal_to_none_but_themselves():
    b = Builder()
    x = b.input(None, 4, None, None)
    model = load(b.model(b.op("Neg", x), b.op("Neg", b.input(None, 4, None, None))))
    shapes = SymbolicShapes(model)
    (x, other), (y, z) = model.graph.inputs, model.graph.outputs
    assert shapes.same(x, y)
    assert not shapes.same(x, other)
    assert not shapes.same(y, z)
