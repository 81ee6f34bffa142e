"""Weight gradients in exported backward graphs become SkDilatedWeightGrad; what only looks like one stays."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fallback_models import with_fallback
from nodes import node_model
from onnx import TensorProto, helper, inliner
from reference import Geometry
from rewrite_models import Builder, assert_same_answers, only, op_types, rewrite, run
from torch_gradient import weight_gradient

import ort_cks


class SwappedConvolution(torch.nn.Module):
    """The weight gradient as one writes it for an exporter that has no aten::convolution_backward."""

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry

    def forward(self, x, dy):
        g = self.geometry
        dw = F.conv2d(x.transpose(0, 1), dy.transpose(0, 1), None, g.dilations, g.pads[: g.rank], g.strides)
        return dw.transpose(0, 1)[:, :, : g.kernel[0], : g.kernel[1]]


class LibraryGradient(SwappedConvolution):
    """torch.nn.grad.conv2d_weight, which is aten::convolution_backward once traced."""

    def forward(self, x, dy):
        g = self.geometry
        shape = (dy.shape[1], x.shape[1], *g.kernel)
        return torch.nn.grad.conv2d_weight(x, shape, dy, g.strides, g.pads[: g.rank], g.dilations)


def translate_convolution_backward(
    grad_output,
    input,
    weight,
    bias_sizes,
    stride,
    padding,
    dilation,
    transposed,
    output_padding,
    groups,
    output_mask,
):
    """aten::convolution_backward, for the exporter's custom_translation_table."""
    from onnxscript import opset20 as op

    x, dy = op.Transpose(input, perm=[1, 0, 2, 3]), op.Transpose(grad_output, perm=[1, 0, 2, 3])
    dw = op.Conv(x, dy, strides=dilation, dilations=stride, pads=[*padding, *padding])
    ends = op.Constant(value_ints=list(weight.shape)[2:])
    starts, axes = op.Constant(value_ints=[0, 0]), op.Constant(value_ints=[2, 3])
    dw = op.Slice(op.Transpose(dw, perm=[1, 0, 2, 3]), starts, ends, axes)
    return op.Identity(grad_output), dw, op.Identity(grad_output)


# The forward Conv, and the extents of its input
EXPORTED = [
    (Geometry((3, 3), (2, 2), pads=(1, 1, 1, 1)), (10, 10)),  # the last row of X is never read
    (Geometry((3, 3), (2, 2), pads=(1, 1, 1, 1)), (9, 9)),
    (Geometry((4, 2), (3, 2), (2, 1), (1, 0, 1, 0)), (15, 12)),
    (Geometry((3, 3), pads=(1, 1, 1, 1)), (6, 7)),
    (Geometry((1, 1), (2, 2)), (8, 7)),
]


def operands(geometry, extents):
    random = np.random.default_rng(3)
    x_shape = (2, 4 * geometry.group, *extents)
    dy_shape = (2, 3 * geometry.group, *geometry.output_extents(extents))
    return (np.float32(random.standard_normal(shape)) for shape in (x_shape, dy_shape))


def check(model, geometry, x, dy, simplify=False):
    """One operator is left of the model, and its answer is the gradient, with the library and without it."""
    result = rewrite(model, simplify=simplify)
    record = only(result.nodes)
    assert op_types(result) == ["SkDilatedWeightGrad"]
    assert (record.decision, record.new_op) == ("swapped", "SkDilatedWeightGrad")
    assert "weight gradient" in record.reason
    assert [value.name for value in result.model.graph.output] == [v.name for v in model.graph.output]
    feeds = dict(zip((value.name for value in model.graph.input), (x, dy), strict=True))
    assert_same_answers(model, result.model, feeds)
    expected = weight_gradient(geometry, x, dy)
    for answer in (run(result.model, feeds), ort_cks.InferenceSession(result.model).run(None, feeds)):
        np.testing.assert_allclose(answer[0], expected, rtol=1e-5, atol=1e-5)
    return result.model


def export(module, x, dy, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = torch.from_numpy(x), torch.from_numpy(dy)
        return torch.onnx.export(module.eval(), tensors, dynamo=True, verbose=False, **options).model_proto


@pytest.mark.parametrize(("geometry", "extents"), EXPORTED)
def test_exported_by_torch(geometry, extents):
    x, dy = operands(geometry, extents)
    check(export(SwappedConvolution(geometry), x, dy), geometry, x, dy)


@pytest.mark.parametrize("simplify", [False, True], ids=["", "onnxsim"])
def test_exported_by_torch_with_a_dynamic_batch(simplify):
    geometry, extents = EXPORTED[0]
    x, dy = operands(geometry, extents)
    batch = {0: torch.export.Dim.DYNAMIC}
    model = export(SwappedConvolution(geometry), x, dy, dynamic_shapes=(batch, batch))
    check(model, geometry, x, dy, simplify)


def test_torch_nn_grad_through_a_translation_of_convolution_backward():
    geometry, extents = EXPORTED[0]
    x, dy = operands(geometry, extents)
    table = {torch.ops.aten.convolution_backward.default: translate_convolution_backward}
    check(export(LibraryGradient(geometry), x, dy, custom_translation_table=table), geometry, x, dy)


def hand_built(geometry, x, dy, *, slices=(), shapes=None, x_perm=None, dy_constant=False, show_conv=False):
    """Transpose, Conv, Transpose and Slices, each as (starts, ends, axes)."""
    net, swap = Builder(), [1, 0, *range(2, geometry.rank + 2)]
    x_shape, dy_shape = shapes or (x.shape, dy.shape)
    x_value = net.input(*x_shape)
    dy_value = net.constant(np.swapaxes(dy, 0, 1)) if dy_constant else net.input(*dy_shape)
    attributes = {"pads": geometry.pads, "strides": geometry.dilations, "dilations": geometry.strides}
    conv = net.op(
        "Conv",
        net.op("Transpose", x_value, perm=x_perm or swap),
        dy_value if dy_constant else net.op("Transpose", dy_value, perm=swap),
        **attributes,
    )
    y = net.op("Transpose", conv, perm=swap)
    for parameters in slices:
        y = net.op("Slice", y, *(net.constant(np.array(p, np.int64)) for p in parameters))
    rank = [None] * (geometry.rank + 2)
    return net.model(y, *([conv] if show_conv else []), shape=rank)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_hand_built_with_asymmetric_pads(rank, dynamic):
    pads = (1, 0, 1)[:rank] + (0, 2, 1)[:rank]
    geometry = Geometry((3, 2, 2)[:rank], (2, 3, 2)[:rank], (1, 2, 1)[:rank], pads)
    x, dy = operands(geometry, (10, 11, 8)[:rank])
    shapes = [
        ["n", t.shape[1], *(f"{name}{axis}" for axis in range(rank))] for t, name in ((x, "x"), (dy, "y"))
    ]
    slices = [([0], [k], [axis + 2]) for axis, k in enumerate(geometry.kernel)]
    check(hand_built(geometry, x, dy, slices=slices, shapes=shapes if dynamic else None), geometry, x, dy)


def test_uncropped_with_more_padding_than_the_forward_convolution_had():
    geometry = Geometry((2,), (1,), (3,))
    x, dy = operands(geometry, (9,))
    padded = Geometry((2,), (1,), (3,), (0, 2))
    (node,) = check(hand_built(padded, x, dy), geometry, x, dy).graph.node
    assert helper.get_node_attr_value(node, "kernel_shape") == [2]
    assert helper.get_node_attr_value(node, "pads") == [0, 0]


@pytest.mark.parametrize(("group", "batch"), [(1, 2), (1, "n"), (3, 2)])
def test_our_own_fallback_function_inlined(group, batch):
    geometry = Geometry((3, 2), (2, 3), (1, 2), (1, 0, 0, 2), group)
    x, dy = operands(geometry, (10, 11))
    inputs = {"X": x, "dY": dy}
    shapes = {name: [batch, *array.shape[1:]] for name, array in inputs.items()}
    model = node_model("SkDilatedWeightGrad", inputs, geometry.attributes(), shapes=shapes)
    dw_shape = weight_gradient(geometry, x, dy).shape
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("Y", TensorProto.FLOAT, dw_shape))
    inlined = inliner.inline_local_functions(with_fallback(model))
    assert {node.domain for node in inlined.graph.node} == {""}
    check(inlined, geometry, x, dy, simplify=True)  # which leaves nothing of the guard of the fallback


STRIDED = Geometry((3,), (2,), pads=(1, 1))


def kept(model):
    result = rewrite(model)
    assert_same_answers(model, result.model)
    return "SkDilatedWeightGrad" not in op_types(result)


@pytest.mark.parametrize(
    "changes", [{"x_perm": [0, 1, 2]}, {"dy_constant": True}, {"show_conv": True}], ids=str
)
def test_what_is_no_weight_gradient_stays(changes):
    x, dy = operands(STRIDED, (9,))
    if "x_perm" in changes:
        x = np.ascontiguousarray(x.repeat(2, 0)[:, :2])  # so that the operands fit without the exchange
    assert kept(hand_built(STRIDED, x, dy, **changes))


@pytest.mark.parametrize(
    "parameters", [([0], [2], [0]), ([1], [3], [2])], ids=["channels", "from the second on"]
)
def test_slices_that_do_not_crop_to_a_filter_stay(parameters):
    x, dy = operands(STRIDED, (9,))
    model = hand_built(STRIDED, x, dy, slices=[parameters])
    result = rewrite(model)
    assert op_types(result) == ["SkDilatedWeightGrad", "Slice"]
    assert_same_answers(model, result.model)


def test_a_filter_of_unknown_extent_stays():
    x, dy = operands(STRIDED, (9,))
    model = hand_built(STRIDED, x, dy, shapes=[["n", 4, "w"], ["n", 3, "v"]])
    assert "SkDilatedWeightGrad" not in op_types(rewrite(model))


def test_a_convolution_that_would_need_a_negative_pad_stays():
    random = np.random.default_rng(0)
    x, dy = (np.float32(random.standard_normal(shape)) for shape in ((2, 4, 10), (2, 3, 3)))
    assert kept(hand_built(Geometry((2,), (1,), (5,)), x, dy))


def test_opsets_without_a_fallback_function_stay():
    net = Builder(opset=10)
    swapped = [net.op("Transpose", net.input(2, c, n), perm=[1, 0, 2]) for c, n in ((4, 9), (3, 5))]
    model = net.model(
        net.op("Transpose", net.op("Conv", *swapped, pads=[1, 1], dilations=[2]), perm=[1, 0, 2])
    )
    assert kept(model)
