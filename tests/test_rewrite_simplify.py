"""onnxsim in front of the rewrite: what it folds, and that weights pass round it unread."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxsim
import pytest
from onnx import TensorProto
from rewrite_models import Builder, assert_same_answers, only, op_types, rewrite

from ort_cks.graph_rewrite import simplify as simplify_module
from ort_cks.graph_rewrite.cast_like import CastLikePass
from ort_cks.graph_rewrite.load import load
from ort_cks.graph_rewrite.simplify import simplify

LARGE = (16, 16, 3, 3)  # 9 KB, a weight


def test_weights_computed_from_constants_are_folded():
    b = Builder()
    half = b.op("Cast", b.normal(*LARGE), to=TensorProto.FLOAT16)
    w = b.op("Mul", b.op("Cast", half, to=TensorProto.FLOAT), b.normal(16, 1, 1, 1))
    model = b.model(b.batch_norm(b.op("Conv", b.input(1, 16, 6, 6), w), 16))
    result = rewrite(model, simplify=True)
    assert op_types(result) == ["ConvV2"]
    assert only(result.nodes).fused == ["BatchNormalization"]
    assert_same_answers(model, result.model)


def test_a_bias_of_zeros_cast_to_the_type_of_the_input_is_folded():
    """As PyTorch's exporter writes a convolution that has none, told not to optimize."""
    b = Builder()
    x, w = b.input(1, 16, 6, 6), b.normal(*LARGE)
    channels = b.op("Shape", w, start=0, end=1)
    bias = b.op("Expand", b.op("CastLike", b.constant(0.0), x), channels)
    model = b.model(b.batch_norm(b.op("Conv", x, w, bias), 16))
    result = rewrite(model, simplify=True)
    assert op_types(result) == ["ConvV2"]
    assert only(result.nodes).fused == ["BatchNormalization"]
    assert_same_answers(model, result.model)


def test_a_cast_to_a_type_that_the_model_does_not_tell_stays():
    b = Builder()
    x = b.input(1, 16, 6, 6)
    unknown = b.op("Unknown", x, domain="somebody")
    b.op("CastLike", b.constant(0.0), unknown)
    model = ir.serde.deserialize_model(b.model(b.op("Conv", x, b.normal(*LARGE)), domains=["somebody"]))
    assert not CastLikePass()(model).modified
    assert [node.op_type for node in model.graph] == ["Unknown", "CastLike", "Conv"]


def test_onnxsim_sees_no_weights_and_they_all_come_back(monkeypatch):
    seen = []
    original = onnxsim.simplify

    def spy(model, **options):
        seen.append(model.ByteSize())
        return original(model, **options)

    monkeypatch.setattr(onnxsim, "simplify", spy)
    b = Builder()
    x = b.input(1, 16, 6, 6)
    y = b.op("Identity", b.op("Conv", x, b.normal(*LARGE)))
    unused = b.normal(64, 64)
    model = b.model(b.op("Neg", b.op("Conv", y, b.normal(*LARGE))))
    result = rewrite(model, simplify=True)
    assert seen[0] < 2000
    assert op_types(result) == ["ConvV2", "ConvV2", "Neg"]
    names = [i.name for i in result.model.graph.initializer]
    assert len(names) == 2
    assert unused not in names
    assert [i.name for i in result.model.graph.input] == [x]
    assert_same_answers(model, result.model)


def test_quantized_weights_are_not_dequantized():
    b = Builder()
    w = b.constant(np.ones(LARGE, np.int8))
    w = b.op("DequantizeLinear", w, b.constant(0.1), b.constant(np.array(0, np.int8)))
    result = rewrite(b.model(b.op("Conv", b.input(1, 16, 6, 6), w)), simplify=True)
    assert op_types(result) == ["DequantizeLinear", "Conv"]
    assert "quantized" in only(result.nodes).reason


def test_a_simple_graph_does_not_wait_for_onnxsim(monkeypatch):
    monkeypatch.setattr(onnxsim, "simplify", lambda *args, **options: pytest.fail("it was called"))
    b = Builder()
    result = rewrite(
        b.model(b.op("Relu", b.op("Conv", b.input(1, 16, 6, 6), b.normal(*LARGE)))), simplify=True
    )
    assert op_types(result) == ["ConvV2"]


def test_the_models_metadata_is_the_users():
    model = needs_simplifying().model("y")
    onnx.helper.set_model_props(model, {"names": "cat, dog"})
    result = rewrite(model, simplify=True)
    assert op_types(result) == ["ConvV2"]
    assert [(p.key, p.value) for p in result.model.metadata_props] == [("names", "cat, dog")]


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("second", [[1], [1, 3]])
def test_reductions_in_a_row_keep_their_shape(second, opset):
    """onnxsim would make one ReduceMean of them that drops the axis which the first one keeps."""
    b = Builder(opset=opset)
    y = b.op("Identity", b.op("Conv", b.input(2, 16, 6, 5), b.normal(*LARGE)))
    for axes, keepdims in (([2], 1), (second, 0)):
        if opset >= 18:
            y = b.op("ReduceMean", y, b.constant(np.array(axes)), keepdims=keepdims)
        else:
            y = b.op("ReduceMean", y, axes=axes, keepdims=keepdims)
    model = b.model(y)
    result = rewrite(model, simplify=True)
    assert op_types(result)[0] == "ConvV2"
    assert "Identity" not in op_types(result)
    assert_same_answers(model, result.model)


def needs_simplifying() -> Builder:
    b = Builder()
    b.op("Identity", b.op("Conv", b.input(1, 16, 6, 6), b.normal(*LARGE)), output="y")
    return b


def test_a_failure_of_onnxsim_is_a_warning(monkeypatch, caplog):
    def fail(*args, **options):
        raise RuntimeError("it broke\nbadly")

    monkeypatch.setattr(onnxsim, "simplify", fail)
    model = needs_simplifying().model("y")
    result = rewrite(model, simplify=True)
    assert only(result.nodes).decision == "swapped"
    assert "onnxsim was skipped, as it failed: it broke" in caplog.text
    assert "run time" not in only(result.nodes).reason  # the weights are weights again
    assert_same_answers(model, result.model)


def test_constants_beyond_the_limit_skip_it_with_the_reason(monkeypatch, caplog):
    monkeypatch.setattr(simplify_module, "_LIMIT_BYTES", 100)
    b = needs_simplifying()
    folded = b.op("Neg", b.constant(np.ones((1, 16, 4, 4))))
    model = load(b.model(b.op("Add", "y", folded)))
    assert simplify(model) is model
    assert "GB of constants to fold" in caplog.text
    assert len(model.graph.initializers) == 2
    assert [value.name for value in model.graph.inputs] == ["x0"]
