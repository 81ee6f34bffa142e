"""Models in which nodes of one operator differ: right without the library, whoever forgets their overloads.

onnxslim drops overloads, and ONNX Runtime before 1.27 does not look at them.
"""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import onnxsim
import onnxslim
import pytest
from fallback_models import TOLERANCES, with_fallback
from onnx import TensorProto, compose, helper
from reference import ACTIVATIONS
from rewrite_models import Builder, random_feeds, rewrite
from test_fallback import Case

import ort_cks
from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.fallback import add_fallback_functions
from ort_cks.graph_rewrite.fallback_guard import guard_attribute

REFUSAL = "the_function_is_another_nodes_so_this_model_needs_the_ort_cks_library"


def without_overloads(model: onnx.ModelProto, keep: int) -> onnx.ModelProto:
    """What a tool leaves that takes functions for equal whose names are: the first (0) or the last (-1)."""
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    by_name = {}
    for function in changed.functions:
        function.overload = ""
        by_name.setdefault((function.domain, function.name), []).append(function)
    functions = [alike[keep] for alike in by_name.values()]
    del changed.functions[:]
    changed.functions.extend(functions)
    for node in changed.graph.node:
        node.overload = ""
    return changed


CHANGES = {
    "unchanged": lambda model: model,
    "onnxsim": lambda model: onnxsim.simplify(model)[0],
    "onnxslim": onnxslim.slim,
    "the first function": lambda model: without_overloads(model, 0),
    "the last function": lambda model: without_overloads(model, -1),
}


def session(model, **options):
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    return ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def side_by_side(cases: list[Case]) -> onnx.ModelProto:
    """One model with the nodes of all cases, each with its own inputs and output."""
    graphs = [compose.add_prefix_graph(case.model.graph, f"case{i}_") for i, case in enumerate(cases)]
    parts = ([x for graph in graphs for x in getattr(graph, part)] for part in ("node", "input", "output"))
    nodes, inputs, outputs = parts
    for output, case in zip(outputs, cases, strict=True):
        element_type = output.type.tensor_type.elem_type
        output.CopyFrom(helper.make_tensor_value_info(output.name, element_type, case.expected.shape))
    graph = helper.make_graph(nodes, "side_by_side", inputs, outputs)
    return helper.make_model(graph, opset_imports=cases[0].model.opset_import, ir_version=9)


def check(model: onnx.ModelProto, cases: list[Case]) -> None:
    """Without the library, against the answers in float64."""
    onnx.checker.check_model(model, full_check=True)
    feeds = {}
    for i, case in enumerate(cases):
        feed_type = np.float16 if case.dtype == "float16" else np.float32
        feeds |= {f"case{i}_{name}": array.astype(feed_type) for name, array in case.inputs.items()}
    for answer, case in zip(session(model).run(None, feeds), cases, strict=True):
        rtol, atol = TOLERANCES[case.dtype]
        np.testing.assert_allclose(
            np.float64(answer), case.expected, rtol=rtol, atol=atol * max(case.largest, 1), strict=True
        )


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
def test_every_activation_with_and_without_residual(op, dtype, change):
    cases = [
        Case(op, 2, activation=name, residual=residual, nhwc=residual, dtype=dtype, opset=22)
        for i, name in enumerate(ACTIVATIONS)
        for residual in ((False, True) if i < 4 else (i % 2 == 0,))
    ]
    check(CHANGES[change](with_fallback(side_by_side(cases))), cases)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("without", [False, True], ids=["all have residuals", "one has none"])
def test_residuals_of_different_leaky_relus(without, change):
    cases = [Case("ConvV2", 2, residual=True, residual_alpha=alpha) for alpha in (0.5, 0.125, 1.0)]
    cases += [Case("ConvV2", 2, activation="PRelu")] if without else []
    check(CHANGES[change](with_fallback(side_by_side(cases))), cases)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("opset", [9, 12, 18, 24])
def test_every_rank_and_layout(opset, change):
    if change in ("onnxsim", "onnxslim") and opset == 9:
        pytest.skip("these tools write newer operators")
    cases = [
        Case("KSDeconv", rank, nhwc=nhwc, y_layout=y_layout, activation=activation, opset=opset)
        for rank in (1, 2, 3)
        for nhwc, y_layout, activation in (
            (True, "", "Relu"),
            (False, "", "Relu"),
            (True, "NCHW", "Clip"),
            (False, "NHWC", ""),
        )
    ]
    check(CHANGES[change](with_fallback(side_by_side(cases))), cases)


def several_of_each_operator() -> onnx.ModelProto:
    """A chain in which every operator has at least three epilogues."""
    b = Builder()

    def conv(x: str, **attributes) -> str:
        return b.op("Conv", x, b.normal(4, 4, 3, 3), b.normal(4), kernel_shape=[3, 3], **attributes)

    def upsampled(x: str) -> str:
        deconv = b.op("ConvTranspose", x, b.normal(4, 4, 4, 4), kernel_shape=[4, 4], strides=[2] * 2)
        return b.op("Tanh", deconv)

    x = b.op("Relu", conv(b.input(2, 4, 6, 6), pads=[1] * 4))
    x = b.op("LeakyRelu", b.op("Add", conv(x, pads=[1] * 4), x), alpha=0.2)
    x = b.op("Sigmoid", conv(x, pads=[2] * 4, dilations=[2, 2]))
    x = b.op("Add", conv(x, pads=[2] * 4, dilations=[2, 2]), x)
    x = conv(b.op("Tanh", conv(x, pads=[2] * 4, dilations=[2, 2])), pads=[1] * 4)
    x = upsampled(x)
    for activation in ("Relu", None):
        x = b.op("ConvTranspose", x, b.normal(4, 4, 3, 3), kernel_shape=[3, 3], pads=[1] * 4, strides=[2] * 2)
        x = b.op(activation, x) if activation else x
    return b.model(x)


@pytest.mark.parametrize("with_library", [False, True], ids=["functions", "library"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_rewritten_models(layout, change, with_library):
    model = several_of_each_operator()
    rewritten = rewrite(model, layout=layout).model
    overloads = [(f.name, f.overload) for f in rewritten.functions]
    assert min([name for name, _ in overloads].count(op) for op in ("ConvV2", "SkDilated", "KSDeconv")) >= 3
    changed = CHANGES[change](rewritten)
    onnx.checker.check_model(changed, full_check=True)
    feeds = random_feeds(model)
    expected = session(model).run(None, feeds)[0]
    runner = ort_cks.InferenceSession(changed) if with_library else session(changed)
    answer = runner.run(None, feeds)[0]
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(), strict=True)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_onnx_runtime_leaves_nothing_of_choice_and_guard(layout, tmp_path):
    """So that the functions are as fast as the model was, and captured by CUDA graphs, which allow no If."""
    path = str(tmp_path / "optimized.onnx")
    basic = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    model = rewrite(several_of_each_operator(), layout=layout).model
    session(model, optimized_model_filepath=path, graph_optimization_level=basic)
    left = [node.op_type for node in onnx.load(path).graph.node]
    assert left.count("Transpose") <= 2  # nothing stood in the way of those between two operators
    assert left.count("Conv") == 6
    assert left.count("ConvTranspose") == 3
    assert not {"If", "Less", "Identity", "LRN", "Reshape"} & set(left)
    assert left.count("Add") + left.count("Sum") <= 3  # two residuals, and the zero that makes the output


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_every_activation_in_bfloat16(change, residual):
    cases = [
        Case("ConvV2", 2, activation=name, residual=residual, dtype="bfloat16", opset=22)
        for name in ACTIVATIONS
    ]
    check(CHANGES[change](with_fallback(side_by_side(cases))), cases)


@pytest.mark.parametrize("keep", [0, -1])
def test_some_residuals_in_bfloat16_without_overloads_are_refused(keep):
    cases = [Case("ConvV2", 2, residual=residual, dtype="bfloat16", opset=22) for residual in (False, True)]
    model = with_fallback(side_by_side(cases))
    check(model, cases)
    with pytest.raises(Exception, match=rf"{REFUSAL}|Number of actual parameters"):
        session(without_overloads(model, keep))


def test_different_epilogues_before_opset_9_are_refused():
    cases = [Case("ConvV2", 2, activation=activation, opset=8) for activation in ("Relu", "Tanh")]
    with pytest.raises(RewriteError, match="differ in inputs or activation, which needs opset 9"):
        with_fallback(side_by_side(cases))


@pytest.mark.parametrize("keep", [0, -1])
def test_data_types_that_lose_their_overloads_are_refused(keep):
    cases = [Case("ConvV2", 2, dtype=dtype, activation="Silu") for dtype in ("float", "float16")]
    model = with_fallback(side_by_side(cases))
    check(model, cases)
    with pytest.raises(Exception, match="inconsistent type"):
        session(without_overloads(model, keep))


def test_a_node_with_the_function_of_another_model_is_refused():
    relu, both = ([Case("ConvV2", 2, activation=a) for a in names] for names in (["Relu"], ["Relu", "Tanh"]))
    model, other = (with_fallback(side_by_side(cases)) for cases in (relu, both))
    check(model, relu)
    del model.functions[:]
    model.functions.extend(f for f in other.functions if f.overload == "Relu")
    with pytest.raises(Exception, match=REFUSAL):
        session(model)


@pytest.mark.parametrize("keep", [0, -1])
def test_different_weight_gradients_without_overloads_are_refused(keep):
    nodes = [
        helper.make_node(
            "SkDilatedWeightGrad", ["X", "dY"], [y], domain="ort_cks", kernel_shape=[2, 2], pads=pads
        )
        for y, pads in (("a", [0, 0, 1, 1]), ("b", [1, 1, 0, 0]))
    ]
    values = {"X": [1, 2, 4, 4], "dY": [1, 3, 4, 4], "a": [3, 2, 2, 2], "b": [3, 2, 2, 2]}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
    graph = helper.make_graph(nodes, "gradients", infos[:2], infos[2:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ort_cks", 1)]
    model = with_fallback(helper.make_model(graph, opset_imports=opsets, ir_version=9))
    session(model)
    with pytest.raises(Exception, match=REFUSAL):
        session(without_overloads(model, keep))


def test_nodes_keep_no_attribute_of_earlier_functions():
    cases = [Case("ConvV2", 2, activation=a, nhwc=True) for a in ("Relu", "Tanh")]
    model = ir.from_proto(with_fallback(side_by_side(cases)))
    add_fallback_functions(model)
    once = {name for node in model.graph for name in node.attributes if name.startswith("fallback")}
    for node in model.graph:
        del node.attributes["activation"]
    add_fallback_functions(model)
    again = {name for node in model.graph for name in node.attributes if name.startswith("fallback")}
    guards = [[name for name in names if name.startswith("fallback_for")] for names in (once, again)]
    assert guards == [["fallback_for_float_nhwc_Relu_Tanh"], ["fallback_for_float_nhwc_linear"]]
    assert "fallback_epilogue" in once
    assert "fallback_epilogue" not in again


def test_numbers_make_different_guards():
    numbers = ["1.0", "-1.0", "10.0", "1e-05", "-1e-05", "1e+20", "1e-20", "inf", "-inf", "0.5", "5.0"]
    guards = {guard_attribute(f"Clip_{low}_{high}") for low in numbers for high in numbers}
    assert len(guards) == len(numbers) ** 2
    assert all(guard.isidentifier() for guard in guards)
