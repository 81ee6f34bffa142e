"""The weight gradient's fallback function against autograd in float64."""

import numpy as np
import onnx
import onnxsim
import onnxslim
import pytest
import torch
import torch.nn.functional as F
from fallback_models import CONVOLUTIONS, TYPES, run, with_fallback
from onnx import TensorProto, helper

from ort_cks.graph_rewrite.errors import RewriteError


def weight_gradient_model(attributes, x_shape, dy_shape, dw_shape, *, opset=18, dtype=TensorProto.FLOAT):
    shapes = {"X": x_shape, "dY": dy_shape}
    nodes = [
        *(helper.make_node("Cast", [n], [n + "_cast"], to=dtype) for n in shapes),
        helper.make_node(
            "SkDilatedWeightGrad",
            ["X_cast", "dY_cast"],
            ["dW_cast"],
            name="node",
            domain="ort_cks",
            **attributes,
        ),
        helper.make_node("Cast", ["dW_cast"], ["dW"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info("dW", TensorProto.FLOAT, dw_shape)],
        value_info=[helper.make_tensor_value_info(n + "_cast", dtype, s) for n, s in shapes.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ort_cks", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def check_weight_gradient(
    rank,
    group,
    kernel,
    stride,
    dilation,
    begin,
    end,
    size,
    *,
    nhwc=False,
    auto_pad="NOTSET",
    dtype="float",
    dynamic=False,
    opset=18,
):
    element_type, rtol, atol = TYPES[dtype]
    random = np.random.default_rng(7)
    shape = (3, 2 * group, *size)
    numpy_type = helper.tensor_dtype_to_np_dtype(element_type)
    x = torch.from_numpy(random.standard_normal(shape).astype(numpy_type).astype(np.float64))
    w = torch.zeros(3 * group, 2, *kernel, dtype=torch.float64, requires_grad=True)
    pads = [p for pair in reversed(list(zip(begin, end, strict=True))) for p in pair]
    y = CONVOLUTIONS[rank](F.pad(x, pads), w, stride=stride, dilation=dilation, groups=group)
    dy = torch.from_numpy(random.standard_normal(y.shape).astype(numpy_type).astype(np.float64))
    y.backward(dy)
    attributes = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, "group": group}
    attributes |= {"pads": [*begin, *end]} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    attributes["layout"] = "NHWC" if nhwc else "NCHW"
    inputs = {"X": x.numpy(), "dY": dy.numpy()}
    if nhwc:
        inputs = {name: np.moveaxis(a, 1, -1) for name, a in inputs.items()}
    inputs = {name: np.ascontiguousarray(a, np.float32) for name, a in inputs.items()}
    shapes = [[f"{n}{axis}" for axis in range(rank + 2)] if dynamic else a.shape for n, a in inputs.items()]
    model = with_fallback(
        weight_gradient_model(attributes, *shapes, w.shape, opset=opset, dtype=element_type)
    )
    expected = w.grad.numpy()
    answer = run(model, inputs)
    assert answer.shape == expected.shape
    np.testing.assert_allclose(answer, expected, rtol=rtol, atol=atol * 10)
    return model, inputs, expected


# rank, group, kernel, stride, dilation, pads before, pads after, input
GRADIENTS = [
    (1, 1, (3,), (2,), (1,), (1,), (1,), (9,)),
    (1, 2, (4,), (3,), (2,), (0,), (2,), (14,)),
    (2, 1, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (5, 6)),
    (2, 1, (3, 2), (2, 3), (1, 1), (1, 0), (1, 2), (8, 10)),  # the stride leaves rows of X unread
    (2, 1, (3, 3), (2, 2), (2, 1), (2, 1), (0, 1), (9, 7)),
    (2, 3, (3, 3), (2, 2), (1, 2), (1, 2), (0, 1), (8, 9)),
    (2, 4, (1, 1), (2, 2), (1, 1), (0, 0), (0, 0), (6, 7)),
    (3, 1, (2, 3, 2), (2, 1, 2), (1, 2, 1), (1, 2, 0), (0, 1, 1), (5, 7, 6)),
    (3, 2, (2, 2, 3), (2, 2, 1), (1, 1, 1), (0, 1, 1), (1, 0, 1), (4, 5, 6)),
]


@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("gradient", GRADIENTS, ids=str)
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
    strides = (stride, stride)
    check_weight_gradient(2, 2, kernel, strides, (1, 1), begin, end, size, auto_pad=auto_pad, dynamic=dynamic)


@pytest.mark.parametrize("gradient", [GRADIENTS[4], GRADIENTS[5]], ids=["group 1", "group 3"])
@pytest.mark.parametrize(
    "simplify", [lambda m: onnxsim.simplify(m)[0], onnxslim.slim], ids=["onnxsim", "onnxslim"]
)
def test_other_tools_leave_a_weight_gradient_equal(gradient, simplify):
    model, inputs, expected = check_weight_gradient(*gradient)
    simplified = simplify(model)
    onnx.checker.check_model(simplified, full_check=True)
    np.testing.assert_allclose(run(simplified, inputs), expected, rtol=1e-5, atol=1e-5)


def test_a_weight_gradient_below_opset_11_is_refused_in_words():
    with pytest.raises(RewriteError, match="'node'.*opset 11 or newer, and the model has 10"):
        with_fallback(
            weight_gradient_model(
                {"kernel_shape": [3, 3]}, (1, 2, 5, 5), (1, 2, 3, 3), (2, 2, 3, 3), opset=10
            )
        )
