"""A Concat of two that the operators behind it read themselves, and each reason to leave it."""

import numpy as np
import onnx
import pytest
from fallback_models import run as run_optimized
from onnx import TensorProto, helper
from rewrite_models import Builder, assert_same_answers, op_types, random_feeds, rewrite
from test_fallback_overloads import CHANGES

import ort_cks


def conv(b: Builder, x: str, channels: int, filters: int, kernel: int = 3, bias: bool = True, **attributes):
    w = b.constant(b.random.standard_normal((filters, channels, *(kernel,) * 2)) / kernel / channels**0.5)
    return b.op("Conv", x, w, *([b.normal(filters)] if bias else []), pads=[kernel // 2] * 4, **attributes)


def two(b: Builder, c1: int = 8, c2: int = 8) -> tuple[str, str]:
    """Two convolutions of one input: what a Concat is of."""
    x = b.input(2, 3, 6, 5)
    return conv(b, x, 3, c1), conv(b, x, 3, c2)


def joined(b: Builder, c1: int = 8, c2: int = 8) -> str:
    return b.op("Concat", *two(b, c1, c2), axis=1)


def nhwc(model: onnx.ModelProto, **options):
    return rewrite(model, layout="nhwc", **options)


def attribute(node: onnx.NodeProto, name: str):
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def check_fused(model: onnx.ModelProto, readers: int = 1, rtol: float = 2e-5) -> onnx.ModelProto:
    """Every Concat is gone, its inputs are where the contract says, and the answers are as before: with the
    functions of standard operators, optimized or not, and with the library.
    """
    result = nhwc(model)
    rewritten = result.model
    assert "Concat" not in op_types(result)
    fused = [node for node in rewritten.graph.node if attribute(node, "concat") == 1]
    assert len(fused) == readers
    assert all(all(node.input) for node in fused)
    assert {r.name for r in result.nodes if "Concat" in r.fused} == {node.name for node in fused}
    assert_same_answers(model, rewritten, rtol=rtol)
    feeds = random_feeds(model)
    want = run_optimized(model, feeds)
    size = np.sqrt(np.mean(np.square(want.astype(np.float64))))
    for got in (run_optimized(rewritten, feeds), ort_cks.InferenceSession(rewritten).run(None, feeds)[0]):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * size)
    return rewritten


@pytest.mark.parametrize("channels", [(8, 8), (5, 3), (64, 32)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_reads_both(channels, bias):
    b = Builder()
    rewritten = check_fused(b.model(conv(b, joined(b, *channels), sum(channels), 8, bias=bias)))
    node = rewritten.graph.node[-2]
    assert [node.input[0], node.input[3]] == ["conv0_nhwc", "conv1_nhwc"]
    assert len(node.input) == 4


def test_x2_comes_behind_the_residual():
    b = Builder()
    x, x2 = two(b)
    y = conv(b, b.op("Concat", x2, x, axis=-3), 16, 8)
    rewritten = check_fused(b.model(b.op("Relu", b.op("Add", y, x))))
    node = rewritten.graph.node[-2]
    assert [node.input[0], *node.input[3:]] == ["conv1_nhwc", "conv0_nhwc", "conv0_nhwc"]


def test_what_is_fused_is_told_in_the_order_of_computation():
    b = Builder()
    x = joined(b)
    y = conv(b, x, 16, 8)
    result = nhwc(b.model(b.op("Relu", b.op("Add", y, "conv0"))))
    assert result.nodes[-1].fused == ["Concat", "residual Add", "Relu"]


@pytest.mark.parametrize("op", ["dilated", "transposed", "grouped"])
def test_every_operator_reads_both(op):
    b = Builder()
    x = joined(b)
    if op == "transposed":
        y = b.op("ConvTranspose", x, b.constant(b.random.standard_normal((16, 4, 2, 2)) / 8), strides=[2, 2])
    elif op == "dilated":
        y = b.op("Conv", x, b.constant(b.random.standard_normal((4, 16, 3, 3)) / 12), dilations=[2, 2])
    else:
        y = b.op("Conv", x, b.constant(b.random.standard_normal((8, 4, 3, 3)) / 6), group=4)
    check_fused(b.model(y))


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    b = Builder()
    x = b.input(2, 3, *(6, 5, 4)[:rank])
    parts = [b.op("Conv", x, b.normal(4, 3, *(1,) * rank)) for _ in range(2)]
    w = b.constant(b.random.standard_normal((4, 8, *(2,) * rank)) / 8)
    check_fused(b.model(b.op("Conv", b.op("Concat", *parts, axis=1), w)))


def test_open_extents():
    b = Builder()
    x = b.input("n", 3, "h", "w")
    parts = conv(b, x, 3, 8), conv(b, x, 3, 8)
    model = b.model(conv(b, b.op("Concat", *parts, axis=1), 16, 4))
    result = nhwc(model)
    assert "Concat" not in op_types(result)
    for dims in ({"n": 1, "h": 4, "w": 9}, {"n": 3, "h": 7, "w": 2}):
        assert_same_answers(model, result.model, random_feeds(model, dims=dims))


def every_set_of_inputs() -> onnx.ModelProto:
    """Convolutions with and without X2 and a residual, strides apart, so that a wrong branch does not fit."""
    b = Builder()
    x, x2 = two(b)
    y = b.op("Relu", conv(b, b.op("Concat", x, x2, axis=1), 16, 8))
    y = b.op("Add", conv(b, y, 8, 8), y)
    z = b.op("Add", conv(b, b.op("Concat", y, x2, axis=1), 16, 8), y)
    halves = [conv(b, part, 8, 12, strides=[2, 2]) for part in (z, y)]
    return b.model(b.op("Add", conv(b, b.op("Concat", *halves, axis=1), 24, 12), halves[0]))


def test_nodes_of_one_operator_with_every_set_of_inputs_share_one_function():
    rewritten = check_fused(every_set_of_inputs(), readers=3, rtol=1e-4)
    bodies = {tuple(node.op_type for node in f.node) for f in rewritten.functions if f.name == "ConvV2"}
    assert len(bodies) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_tools_and_runtimes_that_know_no_overloads(change):
    model = every_set_of_inputs()
    feeds = random_feeds(model)
    got = run_optimized(CHANGES[change](nhwc(model).model), feeds)
    want = run_optimized(model, feeds)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_sixteen_bits(dtype):
    b = Builder(dtype)
    x = joined(b)
    y = b.op("Relu", conv(b, x, 16, 8))
    result = nhwc(b.model(y))
    assert "Concat" not in op_types(result)
    if dtype == TensorProto.FLOAT16:
        assert_same_answers(b.model(y), result.model, rtol=5e-3)


@pytest.mark.parametrize("opset", [8, 10])
def test_left_where_the_fallback_could_not_choose(opset):
    b = Builder(opset=opset)
    model = b.model(conv(b, joined(b), 16, 8))
    result = nhwc(model)
    assert op_types(result).count("Concat") == 1
    assert_same_answers(model, result.model)


def test_left_where_the_rank_of_the_result_is_unknown():
    """As shape inference says nothing of a convolution with weights of unknown rank."""
    b = Builder()
    x = joined(b)
    b.inputs.append(helper.make_tensor_value_info("shape", TensorProto.INT64, ["rank"]))
    w = b.op("Reshape", b.input(4, 16, 3, 3), "shape")
    model = b.model(b.op("Cos", b.op("Conv", x, w)), shape=[2, 4, 4, 3])
    result = nhwc(model)
    assert op_types(result).count("Concat") == 1
    assert_same_answers(model, result.model, random_feeds(model) | {"shape": np.array([4, 16, 3, 3])})


def test_readers_that_read_it_in_place_all_take_it():
    b = Builder()
    x = joined(b, 32, 4)
    model = b.model(b.op("Add", conv(b, x, 36, 4), b.op("Neg", conv(b, x, 36, 4, kernel=1))))
    assert "Concat" not in op_types(nhwc(model))
    check_fused(model, readers=2)


def leave_readers_that_would_copy_it(b):
    x = joined(b, 16, 4)
    return b.op("Add", conv(b, x, 20, 4), b.op("Neg", conv(b, x, 20, 4)))


def leave_one_reader_in_groups(b):
    x = joined(b, 32, 4)
    return b.op("Add", conv(b, x, 36, 4), b.op("Neg", conv(b, x, 9, 4, group=4)))


def leave_another_reader(b):
    x = joined(b, 32, 4)
    return b.op("Add", conv(b, x, 36, 36), b.op("Neg", x))


def leave_a_second_reading(b):
    x = joined(b, 32, 4)
    return b.op("Add", conv(b, x, 36, 36), x)


def leave_a_third_input(b):
    x, x2 = two(b)
    return conv(b, b.op("Concat", x, x2, x, axis=1), 24, 4)


def leave_another_axis(b):
    return conv(b, b.op("Concat", *two(b), axis=2), 8, 4)


def leave_a_weight(b):
    x, x2 = two(b, 3, 3)
    w = b.op("Reshape", b.op("Concat", x, x2, axis=1), b.constant(np.array([12, 5, 3, 2])))
    return b.op("Conv", b.input(1, 5, 4, 4), w)


LEFT = {name.removeprefix("leave_"): make for name, make in globals().items() if name.startswith("leave_")}


@pytest.mark.parametrize("case", LEFT)
def test_left(case):
    b = Builder()
    model = b.model(LEFT[case](b))
    result = nhwc(model)
    assert op_types(result).count("Concat") == 1
    assert not any("Concat" in record.fused for record in result.nodes)
    assert_same_answers(model, result.model, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"layout": "nchw"}, {"fuse": False}, {"exclude": "/conv3"}, {"include": ["/conv0", "/conv1"]}]
)
def test_left_by_options(options):
    b = Builder()
    model = b.model(conv(b, joined(b), 16, 4))
    result = rewrite(model, **({"layout": "nhwc"} | options))
    assert op_types(result).count("Concat") == 1
    assert_same_answers(model, result.model)


def test_left_as_an_output_of_the_model():
    b = Builder()
    x = joined(b, 32, 4)
    result = nhwc(b.model(conv(b, x, 36, 4), x))
    assert op_types(result).count("Concat") == 1


def test_operators_that_the_model_had_before_are_left():
    b = Builder()
    once = nhwc(b.model(conv(b, joined(b), 16, 4)), fuse=False, fallback=False).model
    once.graph.node.append(
        helper.make_node("Conv", [once.graph.output[0].name, "c1x1"], ["last"], name="last")
    )
    once.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float32), "c1x1"))
    once.graph.output[0].name = "last"
    once.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    result = nhwc(once)
    assert op_types(result).count("Concat") == 1
    assert [record.decision for record in result.nodes] == ["swapped"]
