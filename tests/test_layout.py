"""The NHWC pass: the same answers, as few Transposes as can be, and right shapes."""

import numpy as np
import pytest
from layout_models import check, conv
from onnx import TensorProto, helper
from rewrite_models import Builder


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
    """Squeeze-and-excitation: the pool is a mean over axes, in whatever layout."""
    net = Builder()
    y = conv(net, net.input(1, 3, 8, 8), 3, 4)
    pooled = net.op("GlobalAveragePool", y)
    w = net.normal(4, 4, 1, 1)
    gate = net.op("Sigmoid", net.op("Conv", pooled, w))
    y = net.op("Add", net.op("Mul", y, gate), y)
    check(net, conv(net, y, 4, 4), transposes=2)


@pytest.mark.parametrize("fuse", [False, True], ids=["Add", "as input Z"])
def test_residual_block(fuse):
    net = Builder()
    x = net.op("Relu", conv(net, net.input(1, 3, 6, 6), 3, 4))
    y = conv(net, net.op("Relu", conv(net, x, 4, 4)), 4, 4)
    model = check(net, net.op("Relu", net.op("Add", y, x)), transposes=1 if fuse else 2, fuse=fuse)
    assert ("Add" in {node.op_type for node in model.graph.node}) is not fuse


def test_what_has_no_rule_keeps_transposes_around_it():
    net = Builder()
    y = net.op("Relu", conv(net, net.input(1, 3, 8, 8), 3, 4))
    y = net.op("LRN", y, size=3)
    y = net.op("Relu", conv(net, y, 4, 4))
    scale, bias = net.normal(4), net.normal(4)
    y = net.op("InstanceNormalization", y, scale, bias)
    check(net, conv(net, y, 4, 2), transposes=6)


def test_a_value_needed_in_both_layouts_is_transposed_once():
    net = Builder()
    y = conv(net, net.input(1, 3, 8, 8), 3, 4)
    normalized = [net.op("LRN", y, size=size) for size in (1, 3)]
    check(net, y, conv(net, y, 4, 2), *normalized, transposes=3)


def test_the_smaller_side_is_transposed():
    """One image leaves the Conv; its Sigmoid may be on either side, the batch of six may not."""
    net = Builder()
    small = net.op("Sigmoid", conv(net, net.input(1, 8, 4, 4), 8, 2))
    wide = net.op("Mul", small, net.normal(6, 2, 4, 4))
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
    # in, and the filter: out has one pixel in one channel a filter, 1x1 maps being the same in either layout
    check(net, net.op("Conv", w, net.op("Tanh", w)), transposes=2)


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


OF_ONES = {
    "one pixel": (2, 3, 1, 1),
    "one pixel, any batch": ("n", 3, 1, 1),
    "one channel": (2, 1, 6, 7),
    "one channel, any width": (2, 1, 6, "w"),
    "one channel of a signal": ("n", 1, 9),
    "one channel of a volume": (2, 1, "d", 4, 5),
}


@pytest.mark.parametrize("case", OF_ONES)
def test_transposes_that_only_move_ones_are_reshapes(case):
    net = Builder()
    n, channels, *extents = OF_ONES[case]
    y = conv(net, net.input(n, channels, *extents), channels, 1, len(extents))
    model = check(net, y, transposes=0, n=2, w=7, d=3)
    assert [node.op_type for node in model.graph.node] == ["Reshape", "ConvV2", "Reshape"]


def test_where_two_extents_are_open_ones_are_squeezed():
    net = Builder()
    y = conv(net, net.input("n", 1, "h", "w"), 1, 1)
    model = check(net, y, transposes=0, n=2, h=6, w=7)
    views = ["Squeeze", "Unsqueeze"]
    assert [node.op_type for node in model.graph.node] == [*views, "ConvV2", *views]


@pytest.mark.parametrize("op_type", ["Flatten", "Reshape", "Squeeze"])
@pytest.mark.parametrize("batch", [2, "n"])
def test_views_of_one_pixel_merge(op_type, batch):
    net = Builder()
    y = net.op("Conv", net.input(batch, 3, 5, 5), net.normal(4, 3, 5, 5))
    inputs = {"Flatten": [], "Reshape": [[0, -1]], "Squeeze": [[2, 3]]}[op_type]
    y = net.op(op_type, y, *(net.constant(np.array(values)) for values in inputs))
    model = check(net, net.op("MatMul", y, net.normal(4, 2)), transposes=1, n=2)
    assert [node.op_type for node in model.graph.node] == ["Transpose", "ConvV2", "Reshape", "MatMul"]


def test_views_that_undo_each_other_go():
    net = Builder()
    y = conv(net, net.input("n", 3, 6, 6), 3, 4)
    for _ in range(2):
        y = net.op("AveragePool", y, kernel_shape=[2, 2])
    model = check(net, conv(net, y, 4, 2), transposes=2, n=2)
    pools = ["Unsqueeze", "AveragePool", "AveragePool", "Squeeze"]
    assert [n.op_type for n in model.graph.node] == ["Transpose", "ConvV2", *pools, "ConvV2", "Transpose"]


def test_a_view_that_others_read_stays_as_it_is():
    net = Builder()
    y = net.op("Conv", net.input(2, 3, 5, 5), net.normal(4, 3, 5, 5))
    flat = net.op("Flatten", y)
    column = net.op("Unsqueeze", flat, net.constant(np.array([2])))
    check(net, flat, column, net.op("Neg", y), transposes=1)


def test_the_models_own_transposes_decide_with_the_rest():
    """ConvNeXt: what is normalized along the last axis is in NHWC already, and so are the residuals."""
    net = Builder()
    x = conv(net, net.input(1, 3, 6, 5), 3, 4)
    for _ in range(2):
        y = net.op("Transpose", conv(net, x, 4, 4), perm=[0, 2, 3, 1])
        y = net.op("LayerNormalization", y, net.normal(4), net.normal(4))
        y = net.op("Tanh", net.op("MatMul", y, net.normal(4, 4)))
        x = net.op("Add", net.op("Transpose", y, perm=[0, 3, 1, 2]), x)
    check(net, x, transposes=2)
