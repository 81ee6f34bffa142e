"""The weight gradient's fallback function against autograd's, in float64."""

import numpy as np
import onnx
import onnxsim
import onnxslim
import pytest
from fallback_models import TOLERANCES, run, with_fallback
from nodes import node_model, representable
from reference import Geometry, to_nhwc
from torch_gradient import weight_gradient

from ort_cks.graph_rewrite.errors import RewriteError


def check_weight_gradient(
    geometry, extents, *, nhwc=False, auto_pad=None, dtype="float", dynamic=False, opset=18
):
    """Runs one node's fallback function; gives back the model, its inputs and the answer in float64."""
    random = np.random.default_rng(7)
    x = representable(random.standard_normal((3, 2 * geometry.group, *extents)), dtype)
    dy_shape = (3, 3 * geometry.group, *geometry.output_extents(extents))
    dy = representable(random.standard_normal(dy_shape), dtype)
    expected = weight_gradient(geometry, x, dy)
    attributes = geometry.attributes() | {"layout": "NHWC" if nhwc else "NCHW"}
    if auto_pad:
        del attributes["pads"]
        attributes["auto_pad"] = auto_pad
    inputs = {"X": to_nhwc(x), "dY": to_nhwc(dy)} if nhwc else {"X": x, "dY": dy}
    unknown = {name: [f"{name}{axis}" for axis in range(array.ndim)] for name, array in inputs.items()}
    model = node_model("SkDilatedWeightGrad", inputs, attributes, dtype, shapes=unknown if dynamic else None)
    model.opset_import[0].version = opset
    # ONNX infers nothing of a Conv whose filter has unknown extents, not even the rank.
    for extent in expected.shape:
        model.graph.output[0].type.tensor_type.shape.dim.add(dim_value=extent)
    model = with_fallback(model)
    rtol, atol = TOLERANCES[dtype]
    answer = np.float64(run(model, inputs, dtype))
    np.testing.assert_allclose(answer, expected, rtol=rtol, atol=atol * np.abs(expected).max(), strict=True)
    return model, inputs, expected


# The Conv, and the extents of its input
GRADIENTS = [
    (Geometry((3,), (2,), (1,), (1, 1)), (9,)),
    (Geometry((4,), (3,), (2,), (0, 2), group=2), (14,)),
    (Geometry((3, 3), pads=(1, 1, 1, 1)), (5, 6)),
    (Geometry((3, 2), (2, 3), pads=(1, 0, 1, 2)), (8, 10)),  # the strides leave some of X unread
    (Geometry((3, 3), (2, 2), (2, 1), (2, 1, 0, 1)), (9, 7)),
    (Geometry((3, 3), (2, 2), (1, 2), (1, 2, 0, 1), group=3), (8, 9)),
    (Geometry((1, 1), (2, 2), group=4), (6, 7)),
    (Geometry((2, 3, 2), (2, 1, 2), (1, 2, 1), (1, 2, 0, 0, 1, 1)), (5, 7, 6)),
    (Geometry((2, 2, 3), (2, 2, 1), pads=(0, 1, 1, 1, 0, 1), group=2), (4, 5, 6)),
]


@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_weight_gradient(gradient, nhwc, dynamic):
    check_weight_gradient(*gradient, nhwc=nhwc, dynamic=dynamic)


@pytest.mark.parametrize("opset", [11, 12, 14, 24])
def test_weight_gradient_in_every_opset(opset):
    check_weight_gradient(*GRADIENTS[5], opset=opset)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weight_gradient_in_half_precision(dtype):
    check_weight_gradient(*GRADIENTS[5], dtype=dtype, opset=22)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_weight_gradient_auto_pad(auto_pad, stride, dynamic):
    kernel, size = (4, 3), (9, 10)
    begin, end = [0, 0], [0, 0]
    for axis, (k, n) in enumerate(zip(kernel, size, strict=True)):
        total = max((-(-n // stride) - 1) * stride + k - n, 0) if auto_pad != "VALID" else 0
        begin[axis] = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        end[axis] = total - begin[axis]
    geometry = Geometry(kernel, (stride, stride), pads=(*begin, *end), group=2)
    check_weight_gradient(geometry, size, auto_pad=auto_pad, dynamic=dynamic)


@pytest.mark.parametrize("gradient", [GRADIENTS[4], GRADIENTS[5]], ids=["group 1", "group 3"])
@pytest.mark.parametrize(
    "simplify", [lambda m: onnxsim.simplify(m)[0], onnxslim.slim], ids=["onnxsim", "onnxslim"]
)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_other_tools_leave_a_weight_gradient_equal(gradient, simplify, dynamic):
    model, inputs, expected = check_weight_gradient(*gradient, dynamic=dynamic)
    simplified = simplify(model)
    onnx.checker.check_model(simplified, full_check=True)
    np.testing.assert_allclose(run(simplified, inputs), expected, rtol=1e-5, atol=1e-5)


def test_a_weight_gradient_below_opset_11_is_refused_in_words():
    with pytest.raises(RewriteError, match=r"'the_node'.*opset 11 or newer, and the model has 10"):
        check_weight_gradient(*GRADIENTS[0], opset=10)
