"""Filters lose the taps that only ever meet padding."""

import numpy as np
import onnx
import pytest
from rewrite_models import Builder, assert_same_answers, only, op_types, rewrite


def weight_shape(result) -> list[int]:
    (node,) = [n for n in result.model.graph.node if n.domain == "ort_cks"]
    (w,) = [i for i in result.model.graph.initializer if i.name == node.input[1]]
    return list(w.dims)


CUTS = {
    "dilation beyond the map": (
        "Conv",
        [1, 2, 9, 9],
        [3, 2, 3, 3],
        {"dilations": [9, 9], "pads": [9] * 4},
        [1, 1],
    ),
    "one axis": ("Conv", [1, 2, 9, 2], [3, 2, 3, 5], {"pads": [1, 2, 1, 2]}, [3, 3]),
    "one side": ("Conv", [1, 2, 2, 8], [3, 2, 4, 1], {"pads": [2, 0, 1, 0]}, [3, 1]),
    "both sides unevenly": ("Conv", [1, 2, 1, 8], [3, 2, 5, 1], {"pads": [3, 0, 1, 0]}, [1, 1]),
    "1-D": ("Conv", [1, 2, 3], [3, 2, 7], {"pads": [3, 3]}, [5]),
    "3-D": ("Conv", [1, 2, 1, 4, 4], [3, 2, 3, 3, 3], {"pads": [1] * 6}, [1, 3, 3]),
    "groups": ("Conv", [1, 4, 1, 4], [4, 1, 3, 3], {"pads": [1] * 4, "group": 4}, [1, 3]),
    "DCGAN's first layer": (
        "ConvTranspose",
        [2, 4, 1, 1],
        [4, 3, 4, 4],
        {"strides": [2, 2], "pads": [1] * 4},
        [2, 2],
    ),
    "transposed, one axis": ("ConvTranspose", [2, 4, 1, 3], [4, 3, 4, 4], {"pads": [1, 1, 2, 0]}, [1, 4]),
    "transposed, output_padding": (
        "ConvTranspose",
        [2, 4, 1, 1],
        [4, 3, 5, 5],
        {"strides": [3, 3], "pads": [2] * 4, "output_padding": [1, 0]},
        [2, 1],
    ),
}


@pytest.mark.parametrize("case", CUTS)
def test_dead_taps_are_cut(case):
    op_type, x, w, attributes, left = CUTS[case]
    b = Builder()
    model = b.model(b.op(op_type, b.input(*x), b.normal(*w), **attributes))
    result = rewrite(model)
    assert weight_shape(result) == [*w[:2], *left]
    assert ("cut" in only(result.nodes).reason) == (left != w[2:])
    assert list(only(result.nodes).weight_shape) == w
    assert_same_answers(model, result.model)


def test_a_dilated_filter_cut_to_one_tap_is_no_longer_dilated():
    op_type, x, w, attributes, _ = CUTS["dilation beyond the map"]
    b = Builder()
    model = b.model(b.op(op_type, b.input(*x), b.normal(*w), **attributes))
    result = rewrite(model)
    assert op_types(result) == ["ConvV2"]
    assert only(result.nodes).zero_fraction == pytest.approx(8 / 9)


def test_whoever_shares_the_weights_keeps_them_whole():
    b = Builder()
    w = b.normal(2, 2, 3, 3)
    small = b.op("Conv", b.input(1, 2, 1, 1), w, pads=[1] * 4)
    large = b.op("Conv", b.input(1, 2, 5, 5), w, pads=[1] * 4)
    model = b.model(small, large)
    result = rewrite(model)
    dims = {i.name: list(i.dims) for i in result.model.graph.initializer}
    assert [dims[node.input[1]] for node in result.model.graph.node] == [[2, 2, 1, 1], [2, 2, 3, 3]]
    assert_same_answers(model, result.model)


@pytest.mark.parametrize("reason", ["a dynamic extent", "run-time weights"])
def test_uncertain_taps_are_not_cut(reason):
    b = Builder()
    x = b.input(1, 2, "height" if reason == "a dynamic extent" else 1, 1)
    w = b.normal(3, 2, 3, 3) if reason == "a dynamic extent" else b.input(3, 2, 3, 3)
    model = b.model(b.op("Conv", x, w, pads=[1] * 4))
    result = rewrite(model)
    assert "cut" not in only(result.nodes).reason
    feeds = {
        name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for name, shape in ((x, (1, 2, 1, 1)), (w, (3, 2, 3, 3)))
        if name in (i.name for i in model.graph.input)
    }
    assert_same_answers(model, result.model, feeds)


def test_an_input_shape_makes_taps_certain():
    b = Builder()
    model = b.model(b.op("Conv", b.input(1, 2, "height", "width"), b.normal(3, 2, 3, 3), pads=[1] * 4))
    result = rewrite(model, input_shapes={"x0": (1, 2, 1, 4)})
    assert weight_shape(result) == [3, 2, 1, 3]
    dims = result.model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 2, 1, 4]
    assert isinstance(result.model, onnx.ModelProto)
