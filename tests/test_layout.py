"""The NHWC pass: the same answers, as few Transposes as can be, and right shapes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rewrite_models import Builder, assert_same_answers, random_feeds, rewrite, run


def conv(net, x, channels, filters, rank=2):
    w, b = net.normal(filters, channels, *(3, 3, 3)[:rank]), net.normal(filters)
    return net.op("Conv", x, w, b, pads=[1] * (2 * rank))


def check(net, *outputs, transposes, fuse=False, **dims):
    """Rewrites to NHWC and compares answers; `transposes` is the number that has to be left."""
    original = net.model(*outputs)
    result = rewrite(original, layout="nhwc", fuse=fuse)
    assert [record.decision for record in result.nodes] == ["swapped"] * len(result.nodes)
    rewritten = result.model
    graph = rewritten.graph
    assert [output.name for output in graph.output] == list(outputs)
    for node in graph.node:
        if node.domain == "ort_cks":
            assert helper.get_node_attr_value(node, "layout") == b"NHWC"
    feeds = random_feeds(original, dims=dims)
    # As it is saved, without ONNX Runtime's optimiser: what that would tidy up does not count.
    assert_same_answers(original, rewritten, feeds)
    check_shapes(rewritten, feeds)
    assert [node.op_type for node in graph.node].count("Transpose") == transposes
    return rewritten


def check_shapes(model, feeds):
    """Every shape that the model states is the one that the value has in a run."""
    stated = {value.name: value.type.tensor_type for value in (*model.graph.value_info, *model.graph.output)}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    exposed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    checked = 0
    for name, array in zip(names, run(exposed, feeds), strict=True):
        if name in stated and stated[name].HasField("shape"):
            dims = stated[name].shape.dim
            assert len(dims) == array.ndim, name
            for dim, extent in zip(dims, array.shape, strict=True):
                assert not dim.HasField("dim_value") or dim.dim_value == extent, name
            checked += 1
    assert checked == len(names)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_one_operator(rank):
    net = Builder()
    x = net.input(2, 3, *(7, 6, 5)[:rank])
    check(net, conv(net, x, 3, 4, rank), transposes=2)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_operator(rank):
    net = Builder()
    x, w = net.input(2, 3, *(5, 4, 3)[:rank]), net.normal(3, 4, *(3, 2, 3)[:rank])
    check(net, net.op("ConvTranspose", x, w, strides=[2] * rank, output_padding=[1] * rank), transposes=2)


def test_a_chain_through_elementwise_operators():
    net = Builder()
    y = conv(net, net.input(1, 3, 6, 7), 3, 4)
    y = net.op("LeakyRelu", y, alpha=0.2)
    y = net.op("Clip", y, net.constant(-1.0), net.constant(2.0))
    y = net.op("Add", y, net.normal(4, 1, 1))
    y = net.op("Mul", net.normal(1, 4, 1, 1), y)
    y = net.op("Sub", y, net.normal(7))  # along W
    y = net.op("Mul", y, net.normal(4, 6, 7))
    y = net.op("PRelu", y, net.normal(4, 1, 1))
    y = net.op("Cast", net.op("Cast", y, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    y = net.op("Identity", net.op("Dropout", y))
    check(net, conv(net, y, 4, 2), transposes=2)


def test_dynamic_extents():
    net = Builder()
    y = conv(net, net.input("n", 3, "h", "w"), 3, 4)
    y = net.op("Add", net.op("Sigmoid", y), net.normal(4, 1, 1))
    check(net, conv(net, y, 4, 2), transposes=2, n=2, h=6, w=7)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_concat(axis):
    net = Builder()
    x = net.input(1, 3, 5, 5)
    a, b = conv(net, x, 3, 4), net.op("Relu", conv(net, x, 3, 4))
    y = net.op("Concat", a, b, net.normal(1, 4, 5, 5), axis=axis)
    channels = 12 if axis in (1, -3) else 4
    check(net, conv(net, y, channels, 2), transposes=2)


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("axis", [1, -1])
def test_split(axis, opset):
    net = Builder(opset=opset)
    y = conv(net, net.input(1, 3, 6, 6), 3, 4)
    first, second = f"first{axis}", f"second{axis}"
    sizes = [net.constant(np.array([2, 2] if axis == 1 else [3, 3], np.int64))] if opset >= 13 else []
    net.nodes.append(helper.make_node("Split", [y, *sizes], [first, second], axis=axis))
    halves = net.op("Add", net.op("Relu", first), second)
    check(net, conv(net, halves, 2 if axis == 1 else 4, 4), transposes=2)


def test_gate_of_one_pixel_and_residuals():
    """Squeeze-and-excitation: pools stay NCHW, and only the one pixel is transposed for it."""
    net = Builder()
    y = conv(net, net.input(1, 3, 8, 8), 3, 4)
    pooled = net.op("GlobalAveragePool", y)
    w = net.normal(4, 4, 1, 1)
    gate = net.op("Sigmoid", net.op("Conv", pooled, w))
    y = net.op("Add", net.op("Mul", y, gate), y)
    # in, to the pool, from the pool, out
    check(net, conv(net, y, 4, 4), transposes=4)


@pytest.mark.parametrize("fuse", [False, True], ids=["Add", "as input Z"])
def test_residual_block(fuse):
    net = Builder()
    x = net.op("Relu", conv(net, net.input(1, 3, 6, 6), 3, 4))
    y = conv(net, net.op("Relu", conv(net, x, 4, 4)), 4, 4)
    model = check(net, net.op("Relu", net.op("Add", y, x)), transposes=2, fuse=fuse)
    assert ("Add" in {node.op_type for node in model.graph.node}) is not fuse


def test_pools_keep_transposes_around_them():
    net = Builder()
    y = net.op("Relu", conv(net, net.input(1, 3, 8, 8), 3, 4))
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Relu", conv(net, y, 4, 4))
    y = net.op("AveragePool", y, kernel_shape=[2, 2])
    check(net, conv(net, y, 4, 2), transposes=6)


def test_a_value_needed_in_both_layouts_is_transposed_once():
    net = Builder()
    y = conv(net, net.input(1, 3, 8, 8), 3, 4)
    pools = [net.op("MaxPool", y, kernel_shape=[k, k]) for k in (2, 3)]
    check(net, y, conv(net, y, 4, 2), *pools, transposes=3)


def test_the_smaller_side_is_transposed():
    """One channel leaves the Conv of eight; its Sigmoid may be on either side, the upsampled sum may not."""
    net = Builder()
    x = net.input(1, 8, 4, 4)
    small = net.op("Sigmoid", conv(net, x, 8, 1))
    wide = net.op("Mul", small, net.normal(8, 4, 4))
    model = check(net, net.op("Exp", wide), transposes=2)
    transposes = [node for node in model.graph.node if node.op_type == "Transpose"]
    mul = next(node for node in model.graph.node if node.op_type == "Mul")
    assert transposes[1].output[0] in mul.input


def test_constants_that_others_use_keep_their_layout():
    net = Builder()
    x, shared = net.input(1, 4, 5, 5), net.normal(4, 5, 5)
    y = net.op("Add", conv(net, x, 4, 4), shared)
    other = net.op("MatMul", x, shared)
    check(net, conv(net, y, 4, 2), other, transposes=2)


def test_lower_rank_run_time_operands_are_barriers():
    net = Builder()
    x, row = net.input(1, 4, 5, 5), net.input(5)
    check(net, conv(net, net.op("Add", conv(net, x, 4, 4), row), 4, 2), transposes=4)


def test_one_element_run_time_operands_are_not():
    net = Builder()
    x, factor = net.input(1, 4, 5, 5), net.input(1)
    check(net, conv(net, net.op("Mul", conv(net, x, 4, 4), factor), 4, 2), transposes=2)


def test_a_weight_made_at_run_time_stays_as_it_is():
    net = Builder()
    x = net.input(1, 3, 5, 5)
    w = net.op("Relu", conv(net, x, 3, 4))  # [1, 4, 5, 5], read as a filter too
    check(net, net.op("Conv", w, net.op("Tanh", w)), transposes=3)


def test_transposes_of_the_model_cancel():
    """As exported from frameworks that are NHWC themselves: nothing is left."""
    net = Builder()
    x = net.op("Transpose", net.input(1, 6, 7, 3), perm=[0, 3, 1, 2])
    y = net.op("Relu", conv(net, x, 3, 4))
    check(net, net.op("Transpose", y, perm=[0, 2, 3, 1]), transposes=0)


def test_transposes_that_do_not_cancel_merge():
    net = Builder()
    x = net.op("Transpose", net.input(1, 6, 7, 3), perm=[0, 3, 2, 1])
    check(net, conv(net, x, 3, 4), transposes=2)


def test_a_weight_gradient_shares_the_layout_of_what_it_reads():
    net = Builder()
    x, dy = net.input(2, 3, 7, 7), net.input(2, 4, 7, 7)
    y = conv(net, x, 3, 4)
    dy = net.op("Mul", dy, net.op("Sign", y))
    swapped = [net.op("Transpose", value, perm=[1, 0, 2, 3]) for value in (x, dy)]
    dw = net.op("Transpose", net.op("Conv", *swapped, pads=[1] * 4), perm=[1, 0, 2, 3])
    # x and dy in, y out: dW has no layout
    model = check(net, y, dw, transposes=3)
    assert "SkDilatedWeightGrad" in {node.op_type for node in model.graph.node}


def test_subgraphs_are_converted_each_for_itself():
    net = Builder()
    outer = conv(net, net.input(1, 3, 6, 6), 3, 4)
    w, flag = net.normal(4, 4, 3, 3), net.constant(True)
    inner = [
        helper.make_node("Conv", [outer, w], ["inner"], name="inner_conv", pads=[1] * 4),
        helper.make_node("Relu", ["inner"], ["chosen_inside"]),
    ]
    result = [helper.make_tensor_value_info("chosen_inside", TensorProto.FLOAT, None)]
    branch = helper.make_graph(inner, "branch", [], result)
    chosen = net.op("If", flag, then_branch=branch, else_branch=branch)
    # in, and from NHWC for the subgraphs
    model = check(net, chosen, transposes=2)
    branches = [a.g for a in model.graph.node[-1].attribute]
    assert [[n.op_type for n in b.node] for b in branches] == [
        ["Transpose", "ConvV2", "Relu", "Transpose"]
    ] * 2
