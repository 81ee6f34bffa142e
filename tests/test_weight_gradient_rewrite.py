"""Weight gradients in exported backward graphs become SkDilatedWeightGrad; what only looks like one stays."""

import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from fallback_models import CONVOLUTIONS, run, with_fallback
from onnx import TensorProto, helper
from onnx_ir.passes.common import InlinePass

from ort_cks.graph_rewrite.convolution import convolutions
from ort_cks.graph_rewrite.prepare import prepare
from ort_cks.graph_rewrite.records import NodeRecord
from ort_cks.graph_rewrite.weight_gradient import SwapWeightGradientPass


class SwappedConvolution(torch.nn.Module):
    """The weight gradient as one writes it for an exporter that has no aten::convolution_backward."""

    def __init__(self, kernel, stride, padding, dilation):
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation

    def forward(self, x, dy):
        dw = F.conv2d(
            x.transpose(0, 1),
            dy.transpose(0, 1),
            padding=self.padding,
            stride=self.dilation,
            dilation=self.stride,
        )
        return dw.transpose(0, 1)[:, :, : self.kernel[0], : self.kernel[1]]


class LibraryGradient(torch.nn.Module):
    """torch.nn.grad.conv2d_weight, which is aten::convolution_backward once traced."""

    def __init__(self, kernel, stride, padding, dilation):
        super().__init__()
        self.kernel, self.arguments = kernel, {"stride": stride, "padding": padding, "dilation": dilation}

    def forward(self, x, dy):
        shape = (dy.shape[1], x.shape[1], *self.kernel)
        return torch.nn.grad.conv2d_weight(x, shape, dy, **self.arguments)


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


# kernel, stride, padding, dilation, input
GEOMETRIES = [
    ((3, 3), (2, 2), (1, 1), (1, 1), (10, 10)),  # one row of X is never read: Slice
    ((3, 3), (2, 2), (1, 1), (1, 1), (9, 9)),
    ((4, 2), (3, 2), (1, 0), (2, 1), (15, 12)),
    ((3, 3), (1, 1), (1, 1), (1, 1), (6, 7)),
    ((1, 1), (2, 2), (0, 0), (1, 1), (8, 7)),
]


def gradient(x, dy, kernel, stride, padding, dilation, group=1):
    """The weight gradient by autograd, in float64."""
    rank = x.ndim - 2
    w = torch.zeros(dy.shape[1], x.shape[1] // group, *kernel, dtype=torch.float64, requires_grad=True)
    pads = [p for before, after in reversed(padding) for p in (before, after)]
    y = CONVOLUTIONS[rank](F.pad(x.double(), pads), w, stride=stride, dilation=dilation, groups=group)
    y.backward(dy.double())
    return w.grad.numpy()


def tensors(kernel, stride, padding, dilation, size, group=1):
    torch.manual_seed(3)
    x = torch.randn(2, 4 * group, *size)
    extents = zip(size, kernel, stride, padding, dilation, strict=True)
    outputs = [(n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in extents]
    return x, torch.randn(2, 3 * group, *outputs)


def rewritten(proto):
    """The model after the pass alone, its operators and the records."""
    model = ir.from_proto(proto)
    prepare(model)
    records = {node: NodeRecord(node.name, node.op_type) for node in convolutions(model)}
    SwapWeightGradientPass(records)(model)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    return with_fallback(ir.to_proto(model)), list(records.values())


def check(proto, inputs, expected):
    """The pass swaps the model's one convolution, takes in all around it, and the answer stays."""
    names = [value.name for value in proto.graph.input]
    feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    model, [record] = rewritten(proto)
    assert [node.op_type for node in model.graph.node] == ["SkDilatedWeightGrad"]
    assert (record.decision, record.new_op) == ("swapped", "SkDilatedWeightGrad")
    assert "weight gradient" in record.reason
    assert [value.name for value in model.graph.output] == [value.name for value in proto.graph.output]
    answer = run(model, feed)
    np.testing.assert_allclose(answer, run(proto, feed), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)
    return model


def export(module, inputs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(module.eval(), inputs, dynamo=True, verbose=False, **options).model_proto


@pytest.mark.parametrize("dynamic_batch", [False, True], ids=["static", "dynamic batch"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_exported_by_torch(geometry, dynamic_batch):
    *arguments, size = geometry
    kernel, stride, padding, dilation = arguments
    both = [(p, p) for p in padding]
    inputs = tensors(kernel, stride, both, dilation, size)
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes = {"dynamic_shapes": (batch, batch)} if dynamic_batch else {}
    model = export(SwappedConvolution(*arguments), inputs, **shapes)
    check(model, inputs, gradient(*inputs, kernel, stride, both, dilation))


def test_torch_nn_grad_through_a_translation_of_convolution_backward():
    *arguments, size = GEOMETRIES[0]
    kernel, stride, padding, dilation = arguments
    both = [(p, p) for p in padding]
    inputs = tensors(kernel, stride, both, dilation, size)
    table = {torch.ops.aten.convolution_backward.default: translate_convolution_backward}
    model = export(LibraryGradient(*arguments), inputs, custom_translation_table=table)
    check(model, inputs, gradient(*inputs, kernel, stride, both, dilation))


def hand_built(x, dy, *, pads, strides, dilations, out, slices=(), spatial="static", **changes):
    """Transpose, Conv, Transpose and Slices as (starts, ends, axes), with opset 17."""
    rank = x.ndim - 2
    swap = [1, 0, *range(2, rank + 2)]
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=changes.get("x_perm", swap)),
        helper.make_node("Transpose", ["dy"], ["dyt"], perm=swap),
        helper.make_node(
            "Conv", ["xt", "dyt"], ["g"], "conv", pads=pads, strides=dilations, dilations=strides
        ),
        helper.make_node("Transpose", ["g"], ["cut0"], perm=swap),
    ]
    initializers = []
    for index, parameters in enumerate(slices):
        names = [f"slice{index}_{part}" for part in ("starts", "ends", "axes")]
        initializers += [
            helper.make_tensor(name, TensorProto.INT64, [len(v)], v)
            for name, v in zip(names, parameters, strict=True)
        ]
        nodes.append(helper.make_node("Slice", [f"cut{index}", *names], [f"cut{index + 1}"]))
    nodes[-1].output[0] = "dw"
    shapes = [list(x.shape), list(dy.shape)]
    if spatial == "dynamic":
        shapes = [
            ["n", s[1], *(f"{name}{axis}" for axis in range(rank))]
            for s, name in zip(shapes, "xy", strict=True)
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        float_inputs(x=shapes[0], dy=shapes[1]),
        [helper.make_tensor_value_info("dw", TensorProto.FLOAT, out)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("spatial", ["static", "dynamic"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_hand_built_with_asymmetric_pads(rank, spatial):
    kernel, stride, dilation = (3, 2, 2)[:rank], (2, 3, 2)[:rank], (1, 2, 1)[:rank]
    padding, size = [(1, 0), (0, 2), (1, 1)][:rank], (10, 11, 8)[:rank]
    x, dy = tensors(kernel, stride, padding, dilation, size)
    pads = [p for p, _ in padding] + [p for _, p in padding]
    slices = [([0], [k], [axis + 2]) for axis, k in enumerate(kernel)]
    out = [dy.shape[1], x.shape[1], *kernel]
    model = hand_built(
        x, dy, pads=pads, strides=stride, dilations=dilation, out=out, slices=slices, spatial=spatial
    )
    check(model, (x, dy), gradient(x, dy, kernel, stride, padding, dilation))


def test_uncropped_with_more_padding_than_the_forward_convolution_had():
    kernel, stride, dilation, size = (2,), (1,), (3,), (9,)
    x, dy = tensors(kernel, stride, [(0, 0)], dilation, size)
    model = hand_built(x, dy, pads=[0, 2], strides=stride, dilations=dilation, out=[3, 4, 2])
    model = check(model, (x, dy), gradient(x, dy, kernel, stride, [(0, 0)], dilation))
    attributes = {a.name: helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
    assert attributes["kernel_shape"] == [2]
    assert attributes["pads"] == [0, 0]


@pytest.mark.parametrize(("group", "batch"), [(1, 2), (1, "n"), (3, 2)])
def test_our_own_fallback_function_inlined(group, batch):
    kernel, stride, padding, dilation, size = (3, 2), (2, 3), [(1, 0), (0, 2)], (1, 2), (10, 11)
    x, dy = tensors(kernel, stride, padding, dilation, size, group)
    shapes = [[batch, *tensor.shape[1:]] for tensor in (x, dy)]
    node = helper.make_node(
        "SkDilatedWeightGrad",
        ["x", "dy"],
        ["dw"],
        name="node",
        domain="ort_cks",
        kernel_shape=kernel,
        strides=stride,
        dilations=dilation,
        pads=[1, 0, 0, 2],
        group=group,
    )
    graph = helper.make_graph(
        [node],
        "g",
        float_inputs(x=shapes[0], dy=shapes[1]),
        [helper.make_tensor_value_info("dw", TensorProto.FLOAT, [3 * group, 4, *kernel])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ort_cks", 1)]
    model = ir.from_proto(with_fallback(helper.make_model(graph, opset_imports=opsets)))
    InlinePass()(model)
    proto = ir.to_proto(model)
    assert "ort_cks" not in {node.domain for node in proto.graph.node}
    check(proto, (x, dy), gradient(x, dy, kernel, stride, padding, dilation, group))


def float_inputs(**shapes):
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def unchanged(proto):
    model, [record] = rewritten(proto)
    return record.decision == "kept" and "SkDilatedWeightGrad" not in {n.op_type for n in model.graph.node}


def test_what_is_no_weight_gradient_stays():
    kernel, stride, dilation, size = (3,), (2,), (1,), (9,)
    x, dy = tensors(kernel, stride, [(1, 1)], dilation, size)
    same = {"pads": [1, 1], "strides": stride, "dilations": dilation}
    assert not unchanged(hand_built(x, dy, out=[3, 4, 3], **same))

    y = torch.randn(4, 4, 9)
    assert unchanged(hand_built(y, torch.randn(4, 4, 5), out=[4, 4, 3], x_perm=[0, 1, 2], **same))
    # cuts at the front, which is no crop to a filter: the Slice stays outside
    front = hand_built(x, dy, out=[3, 4, 2], slices=[([1], [3], [2])], **same)
    assert [n.op_type for n in rewritten(front)[0].graph.node] == ["SkDilatedWeightGrad", "Slice"]
    # nothing says how large the filter is
    assert unchanged(hand_built(x, dy, out=[3, 4, None], spatial="dynamic", **same))
    # X would need a negative pad to be the input of such a Conv
    wide = {"pads": [0, 0], "strides": (1,), "dilations": (5,)}
    assert unchanged(hand_built(torch.randn(2, 4, 10), torch.randn(2, 3, 3), out=[3, 4, 2], **wide))

    constant = hand_built(x, dy, out=[3, 4, 3], **same)
    weights = onnx.numpy_helper.from_array(dy.transpose(0, 1).contiguous().numpy(), "dyt")
    del constant.graph.node[1]
    constant.graph.initializer.append(weights)
    assert unchanged(constant)

    read_twice = hand_built(x, dy, out=[3, 4, 3], **same)
    read_twice.graph.output.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, [4, 3, 3]))
    assert unchanged(read_twice)


def test_old_opsets_are_left_alone():
    x, dy = tensors((3,), (2,), [(1, 1)], (1,), (9,))
    model = hand_built(x, dy, out=[3, 4, 3], pads=[1, 1], strides=(2,), dilations=(1,))
    model.opset_import[0].version = 10
    assert unchanged(model)
    assert ort.InferenceSession(rewritten(model)[0].SerializeToString()) is not None
