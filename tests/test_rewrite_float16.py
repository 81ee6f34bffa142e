"""--to fp16: the answers of the float model, within what float16 allows, and in float what it would ruin."""

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rewrite_models import Builder, op_types, random_feeds, rewrite, run

import ort_cks
from ort_cks.comparison.cli import main as compare_main
from ort_cks.graph_rewrite import RewriteError
from ort_cks.graph_rewrite.cli import main

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def scaled(b: Builder, *shape: int) -> str:
    """Weights that keep the size of what they multiply."""
    fan_in = np.prod(shape[1:])
    return b.constant(b.random.standard_normal(shape) / np.sqrt(fan_in))


def double(b: Builder, number: float) -> str:
    b.initializers.append(numpy_helper.from_array(np.array(number), "double"))
    return "double"


def dcgan_like() -> onnx.ModelProto:
    b = Builder()
    y = b.input(2, 16, 1, 1)
    y = b.op("Relu", b.batch_norm(b.op("ConvTranspose", y, scaled(b, 16, 12, 4, 4)), 12))
    for channels in (8, 6):
        w = scaled(b, 12 if channels == 8 else 8, channels, 4, 4)
        y = b.op("ConvTranspose", y, w, strides=[2, 2], pads=[1] * 4)
        y = b.op("Relu", b.batch_norm(y, channels))
    return b.model(
        b.op("Tanh", b.op("ConvTranspose", y, scaled(b, 6, 3, 4, 4), strides=[2, 2], pads=[1] * 4))
    )


def unet_like() -> onnx.ModelProto:
    b = Builder()
    x = b.input(1, 3, 16, 12)
    a = b.op("Relu", b.op("Conv", x, scaled(b, 8, 3, 3, 3), pads=[1] * 4))
    d = b.op("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2])
    d = b.op("Relu", b.op("Conv", d, scaled(b, 16, 8, 3, 3), pads=[2] * 4, dilations=[2, 2]))
    u = b.op("ConvTranspose", d, scaled(b, 16, 8, 2, 2), strides=[2, 2])
    v = b.op("Resize", d, "", b.constant(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    y = b.op("Concat", a, u, v, axis=1)
    return b.model(b.op("Sigmoid", b.op("Conv", y, scaled(b, 2, 32, 1, 1))))


def resnet_like() -> onnx.ModelProto:
    b = Builder()
    y = b.op("Conv", b.input(4, 3, 14, 14), scaled(b, 8, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    for _ in range(3):
        z = b.op("Relu", b.batch_norm(b.op("Conv", y, scaled(b, 8, 8, 3, 3), pads=[1] * 4), 8))
        z = b.batch_norm(b.op("Conv", z, scaled(b, 8, 8, 3, 3), pads=[1] * 4), 8)
        y = b.op("Relu", b.op("Add", z, y))
    y = b.op("Flatten", b.op("GlobalAveragePool", y))
    return b.model(b.op("Gemm", y, scaled(b, 8, 10), scaled(b, 10)))


def rounded(feeds: dict) -> dict:
    """Floats that float16 has, in float32, so that the inputs of both models are the same."""
    return {
        n: v.astype(np.float16).astype(np.float32) if v.dtype == np.float32 else v for n, v in feeds.items()
    }


def as_fed(model: onnx.ModelProto, feeds: dict) -> dict:
    kinds = {info.name: info.type.tensor_type.elem_type for info in model.graph.input}
    return {n: v.astype(np.float16) if kinds[n] == HALF else v for n, v in feeds.items()}


def assert_close(got, want, share=1e-2):
    """Within a share of each output's root mean square, by element."""
    for array, reference in zip(got, want, strict=True):
        assert array.shape == reference.shape
        if reference.dtype.kind != "f":
            np.testing.assert_array_equal(array, reference)
            continue
        size = np.sqrt(np.mean(np.square(reference.astype(np.float64))))
        assert 0 < size < np.inf
        np.testing.assert_allclose(array.astype(np.float64), reference, rtol=share, atol=share * size)


def check(original: onnx.ModelProto, rewritten: onnx.ModelProto, feeds: dict | None = None, share=1e-2):
    """With the library and without it."""
    onnx.checker.check_model(rewritten, full_check=True)
    feeds = rounded(random_feeds(original) if feeds is None else feeds)
    want, given = run(original, feeds), as_fed(rewritten, feeds)
    assert_close(run(rewritten, given), want, share)
    assert_close(ort_cks.InferenceSession(rewritten).run(None, given), want, share)


def element_types(values) -> list[int]:
    return [value.type.tensor_type.elem_type for value in values]


def nodes_by_name(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def constant_types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize("simplify", [False, True])
@pytest.mark.parametrize("keep_io", [False, True])
@pytest.mark.parametrize("make", [dcgan_like, unet_like, resnet_like])
def test_models(make, keep_io, simplify):
    model = make()
    result = rewrite(model, to="fp16", keep_io=keep_io, simplify=simplify, layout="nhwc")
    graph = result.model.graph
    assert element_types([*graph.input, *graph.output]) == [FLOAT if keep_io else HALF] * 2
    assert all(record.decision == "swapped" for record in result.nodes)
    weights = {node.input[1] for node in graph.node if node.domain == "ort_cks" and len(node.input) > 1}
    assert {constant_types(result.model)[name] for name in weights} == {HALF}
    assert [node.op_type for node in graph.node if node.op_type == "Cast"] == ["Cast"] * (2 * keep_io)
    check(model, result.model)


@pytest.mark.parametrize("dtype", [HALF, TensorProto.BFLOAT16])
def test_a_model_in_16_bits_is_left_as_it_is(dtype, caplog):
    b = Builder(dtype)
    model = b.model(b.op("Conv", b.input(1, 2, 5, 5), b.normal(3, 2, 3, 3)))
    with caplog.at_level(logging.WARNING):
        converted = rewrite(model, to="fp16")
    assert "in 16 bits already" in caplog.text
    assert converted.model == rewrite(model).model


def test_extents_stay_exact():
    """Half of 4098 is no float16, and neither is 4098 itself."""
    b = Builder()
    x = b.input(1, 1, 1, "w")
    wide = b.op("Cast", b.op("Shape", b.op("Conv", x, b.constant(np.ones((1, 1, 1, 1))))), to=FLOAT)
    halved = b.op("Cast", b.op("Floor", b.op("Mul", wide, b.constant([1.0, 1.0, 1.0, 0.5]))), to=INT64)
    model = b.model(b.op("Resize", x, "", "", halved, mode="nearest"), halved, shape=None)
    result = rewrite(model, to="fp16")
    feeds = rounded(random_feeds(model, dims={"w": 4098}))
    got = run(result.model, as_fed(result.model, feeds))
    assert_close(got, run(model, feeds))
    assert got[0].shape == (1, 1, 1, 2049)
    assert got[0].dtype == np.float16


def test_scales_of_a_resize_stay_float():
    b = Builder()
    scales = b.constant(np.array([1, 1, 1.7001, 2], np.float32), "scales")
    y = b.op("Conv", b.input(1, 2, 10, 6), b.normal(3, 2, 1, 1))
    model = b.model(b.op("Resize", y, "", scales, mode="nearest"), b.op("Mul", scales, scales))
    result = rewrite(model, to="fp16")
    assert HALF in constant_types(result.model).values()
    resize = next(node for node in result.model.graph.node if node.op_type == "Resize")
    (kept,) = [t for t in result.model.graph.initializer if t.name == resize.input[2]]
    np.testing.assert_array_equal(numpy_helper.to_array(kept), np.array([1, 1, 1.7001, 2], np.float32))
    check(model, result.model)


def test_what_float16_does_not_hold_is_computed_in_float():
    """A factor too large, one too small, a variance: each node, not its neighbours, and each right."""
    b = Builder()
    y = b.op("Conv", b.input(1, 4, 6, 5), scaled(b, 4, 4, 3, 3))
    y = b.op("Mul", y, b.constant(1e6), output="large")
    y = b.op("Mul", y, b.constant(1e-6), output="small")
    y = b.op("Conv", y, scaled(b, 4, 4, 1, 1))
    y = b.op("Relu", y)
    ones = b.constant(np.ones(4))
    y = b.op("BatchNormalization", y, ones, b.normal(4), ones, b.constant(np.full(4, 2e5)), output="norm")
    model = b.model(b.op("Mul", y, b.constant(300.0)))
    result = rewrite(model, to="fp16", fuse=False)
    assert np.isfinite(run(model, random_feeds(model))[0]).all()
    check(model, result.model)
    types = {**constant_types(result.model)}
    read = {node.output[0]: node.input[1:] for node in result.model.graph.node}
    values = [*result.model.graph.value_info]
    types |= {info.name: info.type.tensor_type.elem_type for info in values}
    for node in result.model.graph.node:
        if node.name in ("/large", "/small", "/norm"):
            assert {types[name] for name in node.input[1:]} == {FLOAT}, node
        elif node.domain == "ort_cks":
            assert {types[name] for name in read[node.output[0]]} == {HALF}, node
    # Nothing in float16 lies between the first two: their product with 1e6 would be infinite.
    assert nodes_by_name(result.model)["/small"].input[0] in nodes_by_name(result.model)["/large"].output


def test_a_mask_becomes_the_largest_that_float16_has():
    b = Builder()
    y = b.op("Conv", b.input(1, 2, 3, 4), b.normal(2, 2, 1, 1))
    mask = np.zeros((1, 1, 1, 4), np.float32)
    mask[..., 2:] = np.finfo(np.float32).min
    model = b.model(b.op("Softmax", b.op("Add", y, b.constant(mask, "mask")), axis=-1))
    result = rewrite(model, to="fp16")
    (kept,) = [numpy_helper.to_array(t) for t in result.model.graph.initializer if t.name == "mask"]
    np.testing.assert_array_equal(kept, np.array([[[[0, 0, -65504, -65504]]]], np.float16))
    check(model, result.model)


def test_operators_without_float16():
    b = Builder()
    y = b.op("Conv", b.input(1, 2, 6, 6), b.normal(4, 2, 3, 3))
    y = b.op("CumSum", y, b.constant(np.array(1)))
    model = b.model(b.op("Conv", y, b.normal(2, 4, 1, 1)))
    result = rewrite(model, to="fp16")
    assert op_types(result) == ["ConvV2", "Cast", "CumSum", "Cast", "ConvV2"]
    check(model, result.model)


def test_casts_and_other_types():
    b = Builder()
    y = b.op("Conv", b.input(1, 2, 6, 6), b.normal(4, 2, 3, 3))
    wide = b.op("Cast", b.op("Mul", b.op("Cast", y, to=TensorProto.DOUBLE), double(b, 3.0)), to=FLOAT)
    count = b.op("Cast", b.op("Greater", wide, b.constant(0.5)), to=INT64)
    model = b.model(b.op("Conv", wide, b.normal(2, 4, 1, 1)), b.op("ReduceSum", count, keepdims=0))
    result = rewrite(model, to="fp16")
    feeds = rounded(random_feeds(model))
    (y, _), (want, _) = run(result.model, as_fed(result.model, feeds)), run(model, feeds)
    assert_close([y], [want])
    assert element_types(result.model.graph.output) == [HALF, INT64]


def loop(body_nodes, initializers=(), count=3) -> onnx.ModelProto:
    """count times: state -> Conv by the outer weights -> the body's nodes, which make `next` from `y`."""
    value = helper.make_tensor_value_info
    w = (np.random.default_rng(0).standard_normal((3, 3, 3, 3)) / 5).astype(np.float32)
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["state", "w"], ["y"], name="inner", pads=[1] * 4),
            *body_nodes,
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("i", INT64, []), value("go", TensorProto.BOOL, []), value("state", FLOAT, [1, 3, 5, 5])],
        [value("go_on", TensorProto.BOOL, []), value("next", FLOAT, [1, 3, 5, 5])],
        initializers,
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "", "x"], ["z"], name="loop", body=body)],
        "loop",
        [value("x", FLOAT, [1, 3, 5, 5])],
        [value("z", FLOAT, [1, 3, 5, 5])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array(count), "count")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("keep_io", [False, True])
def test_a_loop(keep_io):
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    model = loop([helper.make_node("Mul", ["y", "half"], ["next"])], [half])
    result = rewrite(model, to="fp16", keep_io=keep_io)
    assert [record.decision for record in result.nodes] == ["swapped"]
    check(model, result.model)


def test_what_the_converter_cannot_do_in_a_loop_is_said():
    axis = numpy_helper.from_array(np.array(1), "axis")
    model = loop([helper.make_node("CumSum", ["y", "axis"], ["next"], name="sums")], [axis])
    with pytest.raises(RewriteError, match=r"Node 'sums' \(CumSum\), in the body of another"):
        rewrite(model, to="fp16")


def test_branches_with_constants_of_the_same_name():
    def branch(name, factor):
        value = helper.make_tensor_value_info("b", FLOAT, [1, 2, 4, 4])
        constant = numpy_helper.from_array(np.array(factor, np.float32), "factor")
        node = helper.make_node("Mul", ["conv", "factor"], ["b"])
        return helper.make_graph([node], name, [], [value], [constant])

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["conv"], name="conv"),
            helper.make_node("If", ["c"], ["y"], then_branch=branch("t", 2), else_branch=branch("e", -3)),
        ],
        "branches",
        [value("x", FLOAT, [1, 2, 4, 4]), value("c", TensorProto.BOOL, [])],
        [value("y", FLOAT, [1, 2, 4, 4])],
        [numpy_helper.from_array(np.random.default_rng(0).random((2, 2, 1, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = rewrite(model, to="fp16")
    for chosen in (True, False):
        check(model, result.model, random_feeds(model) | {"c": np.array(chosen)})


def test_a_function_is_converted_too():
    function = helper.make_function(
        "mine",
        "twice",
        ["x"],
        ["y"],
        [
            helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2, np.float32))),
            helper.make_node("Mul", ["x", "two"], ["y"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    b = Builder()
    y = b.op("Conv", b.input(1, 2, 4, 4), b.normal(2, 2, 1, 1))
    b.nodes.append(helper.make_node("twice", [y], ["z"], domain="mine"))
    model = b.model("z", functions=[function], domains=["mine"], shape=[1, 2, 4, 4])
    check(model, rewrite(model, to="fp16").model)


def test_a_rewritten_model_is_refused():
    with pytest.raises(RewriteError, match=r"was rewritten already .* convert the original"):
        rewrite(rewrite(resnet_like()).model, to="fp16")


def test_an_input_that_is_an_output():
    b = Builder()
    x = b.input(1, 2, 4, 4)
    model = b.model(b.op("Conv", x, b.normal(3, 2, 1, 1)))
    model.graph.output.append(model.graph.input[0])
    check(model, rewrite(model, to="fp16").model)
    with pytest.raises(RewriteError, match="'x0' is an input and an output"):
        rewrite(model, to="fp16", keep_io=True)


def test_without_the_converter_it_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime.transformers", None)
    with pytest.raises(RewriteError, match="needs onnxruntime with its transformers"):
        rewrite(resnet_like(), to="fp16")


def test_bad_options():
    with pytest.raises(RewriteError, match="to must be one of fp16, not 'int8'"):
        rewrite(resnet_like(), to="int8")
    with pytest.raises(RewriteError, match="keep_io has no meaning without a conversion"):
        rewrite(resnet_like(), keep_io=True)


def test_the_command_line(tmp_path, capsys):
    path, output = tmp_path / "m.onnx", tmp_path / "m.cks.onnx"
    onnx.save(unet_like(), path)
    assert main([str(path), "--to", "fp16", "--check", "2"]) == 0
    assert capsys.readouterr().out.count("agrees") == 2
    assert element_types(onnx.load(output).graph.input) == [HALF]
    assert compare_main([str(path), str(output), "--provider", "cpu", "--runs", "2", "--warmup", "0"]) == 0
    text = capsys.readouterr().out
    assert "the rewritten model computes in float16, the original in float32" in text
    assert "precision  fp16" in text
    assert main([str(path), "--to", "fp16", "--keep-io", "--check"]) == 0
    assert element_types(onnx.load(output).graph.input) == [FLOAT]
    assert main([str(path), "--keep-io"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
