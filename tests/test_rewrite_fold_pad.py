"""Pads in front of a convolution, and its own pads in every spelling."""

import numpy as np
import onnx
import pytest
from rewrite_models import Builder, assert_same_answers, only, op_types, rewrite


def attributes_of(result) -> dict:
    (node,) = [n for n in result.model.graph.node if n.domain == "ort_cks"]
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def pad(b: Builder, x: str, pads: list[int], *more: str, **attributes) -> str:
    return b.op("Pad", x, b.constant(np.array(pads, np.int64)), *more, **attributes)


FOLDED = {
    "spatial pads": (13, lambda b, x: pad(b, x, [0, 0, 1, 2, 0, 0, 3, 0])),
    "an explicit zero": (13, lambda b, x: pad(b, x, [0, 0, 1, 2, 0, 0, 3, 0], b.constant(0.0))),
    "axes": (18, lambda b, x: pad(b, x, [1, 2, 3, 0], "", b.constant(np.array([2, -1], np.int64)))),
    "attributes": (10, lambda b, x: b.op("Pad", x, pads=[0, 0, 1, 2, 0, 0, 3, 0])),
    "a Constant node": (
        13,
        lambda b, x: b.op("Pad", x, b.op("Constant", value_ints=[0, 0, 1, 2, 0, 0, 3, 0])),
    ),
    "two of them": (13, lambda b, x: pad(b, pad(b, x, [0, 0, 1, 0, 0, 0, 3, 0]), [0, 0, 0, 2, 0, 0, 0, 0])),
}


@pytest.mark.parametrize("case", FOLDED)
def test_zero_pads_join_the_convolutions_own(case):
    opset, make = FOLDED[case]
    b = Builder(opset=opset)
    y = b.op("Conv", make(b, b.input(2, 3, 6, 5)), b.normal(4, 3, 3, 3), pads=[1, 0, 0, 1], dilations=[2, 1])
    model = b.model(y)
    result = rewrite(model)
    assert only(result.nodes).fused == ["Pad"] * (2 if case == "two of them" else 1)
    assert only(result.nodes).input_shape == (2, 3, 6, 5)
    assert op_types(result) == ["SkDilated"]
    assert attributes_of(result)["pads"] == [2, 2, 3, 1]
    assert_same_answers(model, result.model)


KEPT = {
    "another value": lambda b, x: pad(b, x, [0, 0, 1, 1, 0, 0, 1, 1], b.constant(0.5)),
    "reflection": lambda b, x: pad(b, x, [0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"),
    "a crop": lambda b, x: pad(b, x, [0, 0, 1, 1, 0, 0, -1, 1]),
    "channels": lambda b, x: pad(b, x, [0, 1, 0, 0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("case", KEPT)
def test_other_pads_stay(case):
    b = Builder()
    channels = 4 if case == "channels" else 3
    model = b.model(b.op("Conv", KEPT[case](b, b.input(2, 3, 6, 5)), b.normal(4, channels, 3, 3)))
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model)


def test_a_pad_that_others_read_stays_for_them():
    b = Builder()
    padded = pad(b, b.input(2, 3, 6, 5), [0, 0, 1, 1, 0, 0, 1, 1])
    model = b.model(b.op("Conv", padded, b.normal(4, 3, 3, 3)), b.op("Relu", padded))
    result = rewrite(model)
    assert only(result.nodes).fused == ["Pad"]
    assert op_types(result) == ["Pad", "ConvV2", "Relu"]
    assert_same_answers(model, result.model)


def test_a_pad_before_a_transposed_convolution_stays():
    b = Builder()
    padded = pad(b, b.input(2, 3, 6, 5), [0, 0, 1, 1, 0, 0, 1, 1])
    model = b.model(b.op("ConvTranspose", padded, b.normal(3, 4, 3, 3)))
    result = rewrite(model)
    assert only(result.nodes).fused == []
    assert_same_answers(model, result.model)


@pytest.mark.parametrize(
    ("op_type", "attributes", "pads"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 1]}, [0, 1, 1, 1]),
        ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 1]}, [1, 1, 0, 1]),
        ("Conv", {"auto_pad": "VALID"}, [0, 0, 0, 0]),
        ("Conv", {"auto_pad": "NOTSET", "pads": [0, 1, 2, 1]}, [0, 1, 2, 1]),
        ("ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [0, 0, 1, 1]),
        ("ConvTranspose", {"output_shape": [13, 11], "strides": [2, 2]}, [0, 0, 0, 0]),
        ("ConvTranspose", {"output_shape": [12, 10], "strides": [2, 2]}, [1, 1, 0, 0]),
        (
            "ConvTranspose",
            {"output_shape": [12, 8], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
            [0, 1, 1, 2],
        ),
    ],
)
def test_pads_are_written_out(op_type, attributes, pads):
    b = Builder()
    model = b.model(b.op(op_type, b.input(2, 3, 6, 5), b.normal(3, 3, 3, 3), **attributes))
    result = rewrite(model)
    written = attributes_of(result)
    assert written["pads"] == pads
    assert "auto_pad" not in written
    assert "output_shape" not in written
    assert_same_answers(model, result.model)


@pytest.mark.parametrize(
    ("op_type", "attributes", "stays"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "auto_pad"),
        ("Conv", {"auto_pad": "SAME_UPPER"}, None),
        ("ConvTranspose", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, None),
        ("ConvTranspose", {"output_shape": [12, 10], "strides": [2, 2]}, "output_shape"),
    ],
)
def test_what_depends_on_an_open_extent_stays_an_attribute(op_type, attributes, stays):
    b = Builder()
    x = b.input(2, 3, "height", "width")
    model = b.model(b.op(op_type, x, b.normal(3, 3, 3, 3), **attributes))
    result = rewrite(model)
    written = attributes_of(result)
    assert {name for name in ("auto_pad", "output_shape") if name in written} == ({stays} if stays else set())
    assert only(result.nodes).zero_fraction is None
    feeds = {x: np.random.default_rng(3).standard_normal((2, 3, 6, 5)).astype(np.float32)}
    assert_same_answers(model, result.model, feeds)
