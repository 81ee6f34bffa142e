"""The fallback functions compute what docs/ops.md says, in a session that knows nothing of the library."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxsim
import onnxslim
import pytest
from fallback_models import TOLERANCES, run, with_fallback
from nodes import node_model, representable
from onnx import TensorProto, helper
from reference import ACTIVATIONS, Geometry, activation_attributes, to_nhwc

from ort_cks.graph_rewrite.fallback import add_fallback_functions


class Case:
    """A model of one node, its inputs, and its answer in float64."""

    def __init__(
        self,
        op,
        rank,
        *,
        activation="",
        nhwc=False,
        y_layout="",
        residual=False,
        bias=True,
        opset=18,
        dtype="float",
        residual_alpha=1.0,
    ):
        random = np.random.default_rng(0)
        transposed, group, channels, filters = op == "KSDeconv", 2, 4, 6
        geometry = Geometry(
            kernel=(3, 2, 3)[:rank],
            strides=(2, 1, 2)[:rank],
            dilations=(2, 1, 1)[:rank] if op == "SkDilated" else (),
            pads=(1, 0, 1)[:rank] + (0, 1, 2)[:rank],
            group=group,
            output_padding=(1, 0, 0)[:rank] if transposed else (),
            transposed=transposed,
        )
        extents = (7, 6, 5)[:rank]
        w_shape = (channels, filters // group) if transposed else (filters, channels // group)
        shapes = {"X": (2, channels, *extents), "W": (*w_shape, *geometry.kernel)}
        if bias or residual:
            shapes["B"] = (filters,)
        if residual:
            shapes["Z"] = (2, filters, *geometry.output_extents(extents))
        inputs = {name: representable(random.standard_normal(s) / 2, dtype) for name, s in shapes.items()}

        before = geometry.convolve(inputs["X"], inputs["W"])
        if "B" in inputs:
            before += inputs["B"].reshape(-1, *(1,) * rank)
        if residual:
            before += np.where(inputs["Z"] < 0, inputs["Z"] / residual_alpha, inputs["Z"])
        _, activate = ACTIVATIONS[activation]
        self.dtype, self.largest = dtype, np.abs(before).max()
        self.expected = activate(before)
        layout = "NHWC" if nhwc else "NCHW"
        layouts = {"X": layout, "Z": y_layout or layout}
        inputs |= {name: to_nhwc(inputs[name]) for name in inputs if layouts.get(name) == "NHWC"}
        if layouts["Z"] == "NHWC":
            self.expected = to_nhwc(self.expected)
        attributes = geometry.attributes() | {"layout": layout}
        attributes |= {"y_layout": y_layout} if y_layout else {}
        attributes |= activation_attributes(activation, filters)
        if residual_alpha != 1:
            attributes["residual_alpha"] = residual_alpha
        self.inputs = inputs
        self.model = node_model(op, inputs, attributes, dtype)
        self.model.opset_import[0].version = opset

    @property
    def node(self):
        return next(node for node in self.model.graph.node if node.domain == "ort_cks")

    def check(self, model=None):
        """Adds the functions, runs the model without the library and compares every element."""
        model = model or with_fallback(self.model)
        answer = np.float64(run(model, self.inputs, self.dtype))
        rtol, atol = TOLERANCES[self.dtype]
        np.testing.assert_allclose(
            answer, self.expected, rtol=rtol, atol=atol * max(self.largest, 1), strict=True
        )
        return model


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
def test_float(op, activation, rank, nhwc, residual):
    Case(op, rank, activation=activation, nhwc=nhwc, residual=residual).check()


@pytest.mark.parametrize("activation", ["", "PRelu"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["of NCHW", "of NHWC"])
@pytest.mark.parametrize("y_layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
def test_a_layout_of_y_alone(op, rank, y_layout, nhwc, residual, activation):
    Case(op, rank, nhwc=nhwc, y_layout=y_layout, residual=residual, activation=activation).check()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_half_precision(activation, nhwc, residual, dtype):
    Case("ConvV2", 2, activation=activation, nhwc=nhwc, residual=residual, dtype=dtype, opset=22).check()


@pytest.mark.parametrize(
    ("activation", "opset"),
    [
        (activation, opset)
        for opset in (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 20, 22, 24)
        for activation in ACTIVATIONS
        if opset >= 9 or activation != "Gelu"  # no model before Erf, of opset 9, has a Gelu
    ],
)
def test_every_opset(activation, opset):
    Case("ConvV2", 2, activation=activation, residual=True, nhwc=True, opset=opset).check()


@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
def test_a_residual_that_went_through_a_leaky_relu(op, nhwc, dtype):
    Case(op, 2, nhwc=nhwc, residual=True, residual_alpha=0.125, dtype=dtype, opset=22).check()


@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
def test_without_bias(op):
    Case(op, 2, bias=False).check()


@pytest.mark.parametrize("params", [(0.25, np.inf), (-np.inf, 0.25)])
def test_open_ended_clip(params):
    case = Case("ConvV2", 2)
    attributes = {"activation": "Clip", "activation_params": params}
    case.node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    case.expected = np.clip(case.expected, *params)
    case.check()


TOOLS = {
    "no tool": lambda model: model,
    "onnxsim": lambda model: onnxsim.simplify(model)[0],
    "onnxslim": onnxslim.slim,
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
def test_other_tools_leave_it_equal(op, nhwc, dynamic, tool):
    case = Case(op, 2, activation="HardSwish", nhwc=nhwc, residual=True)
    if dynamic:
        for value in case.model.graph.input:
            if value.name in ("X", "Z"):
                for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                    dim.dim_param = f"{value.name}{axis}"
    changed = TOOLS[tool](case.check())
    onnx.checker.check_model(changed, full_check=True)
    assert [n.op_type for n in changed.graph.node if n.domain == "ort_cks"] == [op]
    case.check(changed)


def test_nodes_in_subgraphs():
    case = Case("ConvV2", 2, activation="Relu")
    inner = case.model.graph
    outer_inputs = list(inner.input)
    branch = helper.make_graph(inner.node, "then", [], inner.output, value_info=inner.value_info)
    node = helper.make_node("If", ["flag"], ["Y"], then_branch=branch, else_branch=branch)
    flag = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
    graph = helper.make_graph([node], "g", outer_inputs, inner.output, initializer=[flag])
    case.model = helper.make_model(graph, opset_imports=case.model.opset_import, ir_version=8)
    functions = case.check().functions
    assert [(f.domain, f.name, f.overload) for f in functions] == [("ort_cks", "ConvV2", "Relu")]


def test_equal_nodes_share_a_function_and_names_say_what_it_is():
    one, other = Case("ConvV2", 2, nhwc=True, residual=True, activation="LeakyRelu"), Case("ConvV2", 3)
    undone = Case("ConvV2", 2, residual=True, residual_alpha=0.1)
    models = [ir.from_proto(case.model) for case in (one, one, other, undone)]
    for model in models:
        add_fallback_functions(model)
    overloads = [[f.overload for f in model.functions.values()] for model in models]
    assert overloads == [["residual_LeakyRelu_0.25"]] * 2 + [[""], ["residual_of_LeakyRelu_0.1"]]


def test_the_cases_tell_layouts_and_attributes_apart():
    """A body that ignored layout, pads, group or residual would fail: the expected answers differ."""
    answers = [
        Case("ConvV2", 2, residual=r, activation=a).expected
        for r, a in itertools.product([False, True], ["", "Relu"])
    ]
    for one, other in itertools.combinations(answers, 2):
        assert np.abs(one - other).max() > 0.1
