"""Convolutions in subgraphs and functions, weights in every form, and nodes that must stay as they are."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rewrite_models import Builder, assert_same_answers, only, op_types, random_feeds, rewrite, run

from ort_cks.graph_rewrite import RewriteError, rewrite_model


def weights(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def branch(name: str, value: np.ndarray) -> onnx.GraphProto:
    """A graph without inputs that convolves the outer x0, then Relu."""
    nodes = [
        helper.make_node("Conv", ["x0", f"{name}_w"], [f"{name}_y"], name=f"/{name}/conv", pads=[1] * 4),
        helper.make_node("Relu", [f"{name}_y"], [f"{name}_z"]),
    ]
    out = helper.make_tensor_value_info(f"{name}_z", TensorProto.FLOAT, [1, 3, 5, 5])
    return helper.make_graph(nodes, name, [], [out], [numpy_helper.from_array(value, f"{name}_w")])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("simplify", [False, True])
def test_both_branches_of_an_if(simplify, layout):
    b = Builder()
    b.input(1, 2, 5, 5)
    b.inputs.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    y = b.op(
        "If",
        "condition",
        then_branch=branch("a", weights(3, 2, 3, 3)),
        else_branch=branch("b", weights(3, 2, 3, 3, seed=6)),
    )
    model = b.model(b.op("Identity", y), shape=[1, 3, 5, 5])
    result = rewrite(model, simplify=simplify, layout=layout)
    fused = ["Relu"] if layout == "nchw" else ["Transpose", "Relu", "Transpose"]
    assert sorted((r.name, r.decision, r.fused) for r in result.nodes) == [
        ("/a/conv", "swapped", fused),
        ("/b/conv", "swapped", fused),
    ]
    for condition in (True, False):
        feeds = {"x0": weights(1, 2, 5, 5), "condition": np.array(condition)}
        assert_same_answers(model, result.model, feeds)


def test_the_body_of_a_loop():
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Conv", ["state", "w"], ["convolved"], name="/body/conv", pads=[1] * 4),
            helper.make_node("BatchNormalization", ["convolved", "s", "s", "s", "s"], ["normal"]),
            helper.make_node("Tanh", ["normal"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, 2, 5, 5]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 2, 5, 5]),
        ],
    )
    b = Builder()
    x = b.input(1, 2, 5, 5)
    b.constant(weights(2, 2, 3, 3), "w")
    b.constant(np.array([0.5, 2.0]), "s")
    y = b.op("Loop", b.constant(np.array(3)), "", x, body=body)
    model = b.model(b.op("Identity", y), shape=[1, 2, 5, 5])
    result = rewrite(model)
    assert only(result.nodes).fused == ["BatchNormalization", "Tanh"]
    assert_same_answers(model, result.model)


def function(domain: str = "blocks") -> onnx.FunctionProto:
    """block(x, w) = Relu(Conv(x, w) * 2), with the strides as an attribute of the call."""
    conv = helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4)
    conv.attribute.append(
        onnx.AttributeProto(name="strides", ref_attr_name="strides", type=onnx.AttributeProto.INTS)
    )
    nodes = [
        conv,
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["c", "two"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    return helper.make_function(
        domain, "block", ["x", "w"], ["y"], nodes, [helper.make_opsetid("", 17)], ["strides"]
    )


@pytest.mark.parametrize("simplify", [False, True])
def test_model_local_functions(simplify):
    b = Builder()
    x = b.input(1, 2, 6, 6)
    y = b.op("block", x, b.normal(4, 2, 3, 3), domain="blocks", strides=[1, 1])
    y = b.op("block", y, b.normal(3, 4, 3, 3), domain="blocks", strides=[2, 2])
    model = b.model(b.op("Neg", y), functions=[function()], domains=["blocks"])
    result = rewrite(model, simplify=simplify)
    assert [r.fused for r in result.nodes] == [["Mul", "Relu"]] * 2
    assert [r.output_shape for r in result.nodes] == [(1, 4, 6, 6), (1, 3, 3, 3)]
    assert_same_answers(model, result.model)


def as_constant_node(b: Builder, value: np.ndarray) -> str:
    return b.op("Constant", value=numpy_helper.from_array(value))


def test_weights_from_constant_nodes():
    b = Builder()
    x = b.input(1, 2, 6, 6)
    y = b.op("Conv", x, as_constant_node(b, weights(3, 2, 3, 3)), as_constant_node(b, weights(3)))
    model = b.model(b.batch_norm(y, 3))
    result = rewrite(model)
    assert only(result.nodes).fused == ["BatchNormalization"]
    assert op_types(result) == ["ConvV2"]
    assert_same_answers(model, result.model)


def test_initializers_that_are_inputs_too_become_constants():
    b = Builder(opset=9)
    x = b.input(1, 2, 6, 6)
    model = b.model(b.batch_norm(b.op("Conv", x, b.normal(3, 2, 3, 3)), 3), ir_version=3)
    for initializer in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(initializer.name, TensorProto.FLOAT, initializer.dims)
        )
    result = rewrite(model)
    assert [i.name for i in result.model.graph.input] == [x]
    assert only(result.nodes).fused == ["BatchNormalization"]
    assert_same_answers(model, result.model)


def test_run_time_weights_are_swapped_too():
    b = Builder()
    model = b.model(b.op("Relu", b.op("Conv", b.input(1, 2, 6, 6), b.input(3, 2, 3, 3), pads=[1] * 4)))
    result = rewrite(model)
    assert only(result.nodes).decision == "swapped"
    assert "run time" in only(result.nodes).reason
    assert op_types(result) == ["ConvV2"]
    assert_same_answers(model, result.model)


def test_which_operator_takes_which_node_and_that_names_stay():
    b = Builder()
    x = b.input(1, 2, 6, 6)
    plain = b.op("Conv", x, b.normal(2, 2, 3, 3), pads=[1] * 4)
    dilated = b.op("Conv", plain, b.normal(2, 2, 3, 3), pads=[2] * 4, dilations=[1, 2])
    model = b.model(b.op("ConvTranspose", dilated, b.normal(2, 2, 3, 3), strides=[2, 2]))
    model.graph.node[1].name = ""
    result = rewrite(model)
    assert [(n.name, n.domain, n.op_type) for n in result.model.graph.node] == [
        ("/conv0", "ort_cks", "ConvV2"),
        ("conv1", "ort_cks", "SkDilated"),
        ("/convtranspose2", "ort_cks", "KSDeconv"),
    ]
    assert [(r.name, r.op_type) for r in result.nodes] == [
        ("/conv0", "Conv"),
        ("conv1", "Conv"),
        ("/convtranspose2", "ConvTranspose"),
    ]
    assert {o.domain: o.version for o in result.model.opset_import} == {"": 17, "ort_cks": 1}
    assert_same_answers(model, result.model)


def test_records_say_shapes_and_zeros():
    b = Builder()
    y = b.op("Conv", b.input("n", 2, 4, 4), b.normal(3, 2, 3, 3), pads=[1] * 4)
    model = b.model(b.op("ConvTranspose", y, b.normal(3, 5, 2, 2), strides=[2, 2]))
    conv, deconv = rewrite(model, input_shapes={"x0": [1, 2, 4, 4]}).nodes
    assert (conv.input_shape, conv.weight_shape, conv.output_shape) == (
        (1, 2, 4, 4),
        (3, 2, 3, 3),
        (1, 3, 4, 4),
    )
    assert conv.zero_fraction == pytest.approx(1 - (10 / 12) ** 2)
    assert deconv.zero_fraction == pytest.approx(3 / 4)
    conv, _ = rewrite(model).nodes
    assert conv.input_shape == ("n", 2, 4, 4)
    assert conv.zero_fraction is None


def test_precision_is_written_on_float_nodes_only_where_it_is_strict():
    def attributes(dtype: int, precision: str) -> list[str]:
        b = Builder(dtype)
        model = b.model(b.op("Conv", b.input(1, 2, 6, 6), b.normal(3, 2, 3, 3)))
        return [a.name for a in rewrite(model, precision=precision).model.graph.node[0].attribute]

    assert "precision" in attributes(TensorProto.FLOAT, "fp32")
    assert "precision" not in attributes(TensorProto.FLOAT, "tf32")
    assert "precision" not in attributes(TensorProto.FLOAT16, "fp32")


def test_patterns_choose_by_name_and_by_operator():
    b = Builder()
    x = b.input(1, 2, 6, 6)
    y = b.op("Conv", x, b.normal(2, 2, 1, 1), output="stem")
    y = b.op("Conv", y, b.normal(2, 2, 1, 1), output="head")
    model = b.model(b.op("ConvTranspose", y, b.normal(2, 2, 1, 1), output="up"))

    def swapped(**options) -> list[str]:
        return [r.name for r in rewrite(model, **options).nodes if r.decision == "swapped"]

    assert swapped(include=["Conv"]) == ["/stem", "/head"]
    assert swapped(include=["*head*", "ConvTranspose"]) == ["/head", "/up"]
    assert swapped(exclude=["/s*"]) == ["/head", "/up"]
    assert swapped(include=["Conv*"], exclude=["Conv"]) == ["/up"]
    assert swapped(include=["nothing"]) == []
    assert swapped(exclude="*head*") == swapped(exclude=["*head*"]) == ["/stem", "/up"]


def quantized() -> onnx.ModelProto:
    b = Builder()
    scale, zero = b.constant(0.1), b.constant(np.array(0, np.int8))
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", b.input(1, 2, 6, 6), scale, zero), scale, zero)
    w = b.op("DequantizeLinear", b.constant(np.ones((3, 2, 3, 3), np.int8)), scale, zero)
    y = b.op("QuantizeLinear", b.op("Conv", x, w), scale, zero)
    return b.model(b.op("DequantizeLinear", y, scale, zero))


def of_type(dtype: int) -> onnx.ModelProto:
    b = Builder(dtype)
    return b.model(b.op("Conv", b.input(1, 2, 6, 6), b.normal(3, 2, 3, 3)))


def four_dimensional() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.op("Conv", b.input(1, 2, 3, 3, 3, 3), b.normal(3, 2, 1, 1, 1, 1)))


def unknown_rank() -> onnx.ModelProto:
    b = Builder()
    x, w = b.input(1, 2, 6, 6), b.input(3, 2, 3, 3)
    model = b.model(b.op("Conv", x, w))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.ClearField("shape")
    return model


REFUSED = {
    "QDQ": (quantized, "quantized"),
    "float64": (lambda: of_type(TensorProto.DOUBLE), "double"),
    "4-D": (four_dimensional, "4 spatial axes"),
    "unknown rank": (unknown_rank, "rank"),
}


@pytest.mark.parametrize("simplify", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_in_words_and_leave_the_node(case, simplify):
    make, words = REFUSED[case]
    result = rewrite(make(), simplify=simplify)
    assert only(result.nodes).decision == "kept"
    assert only(result.nodes).new_op is None
    assert words in only(result.nodes).reason
    assert "Conv" in op_types(result)
    assert all(o.domain != "ort_cks" for o in result.model.opset_import)


@pytest.mark.parametrize(
    ("domain", "op_type"),
    [("com.microsoft", "FusedConv"), ("com.microsoft", "NhwcFusedConv"), ("com.microsoft.nchwc", "Conv")],
)
def test_models_that_onnxruntime_optimized_are_refused(domain, op_type):
    node = helper.make_node(op_type, ["x", "w"], ["y"], name="/fused", domain=domain)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 3, 3]) for name in "xwy"]
    model = helper.make_model(
        helper.make_graph([node], "g", infos[:2], infos[2:]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)],
    )
    with pytest.raises(RewriteError, match="rewrite the original export"):
        rewrite(model)


def test_the_given_model_is_not_changed():
    b = Builder()
    w = as_constant_node(b, weights(3, 2, 3, 3))
    model = b.model(b.op("Relu", b.batch_norm(b.op("Conv", b.input(1, 2, 6, 6), w), 3)))
    before = model.SerializeToString()
    rewrite_model(model)
    assert model.SerializeToString() == before


def test_a_rewritten_model_has_nothing_left_to_swap():
    b = Builder()
    model = b.model(b.op("Relu", b.op("Conv", b.input(1, 2, 6, 6), b.normal(3, 2, 3, 3))))
    once = rewrite_model(model).model
    twice = rewrite_model(once)
    assert twice.nodes == []
    np.testing.assert_array_equal(run(twice.model, random_feeds(model))[0], run(once, random_feeds(model))[0])


@pytest.mark.parametrize("option", [{"layout": "NHWC"}, {"precision": "fp16"}])
def test_options_that_do_not_exist(option):
    b = Builder()
    with pytest.raises(RewriteError, match="must be one of"):
        rewrite_model(b.model(b.op("Conv", b.input(1, 2, 6, 6), b.normal(3, 2, 3, 3))), **option)


def test_a_model_of_another_domains_operators_alone():
    """It need not import ONNX's own, whose opset the rewriter would ask for."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 5, 5]) for name in "xy"]
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    graph = helper.make_graph([node], "test", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("com.microsoft", 1)], ir_version=8)
    result = rewrite(model, layout="nhwc")
    assert result.nodes == []
    feeds = {"x": weights(1, 3, 5, 5)}
    np.testing.assert_array_equal(run(result.model, feeds)[0], run(model, feeds)[0])
