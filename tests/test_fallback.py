"""The fallback functions compute what docs/ops.md says, in a session that knows nothing of the library."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxsim
import onnxslim
import pytest
import torch
import torch.nn.functional as F
from fallback_models import CONVOLUTIONS, TYPES, run, with_fallback
from onnx import TensorProto, helper

from ort_cks.graph_rewrite.fallback import add_fallback_functions

ACTIVATIONS = {
    "": ([], lambda x: x),
    "Relu": ([], torch.relu),
    "LeakyRelu": ([0.1], lambda x: F.leaky_relu(x, 0.1)),
    "Clip": ([-0.5, 1.25], lambda x: x.clamp(-0.5, 1.25)),
    "Sigmoid": ([], torch.sigmoid),
    "Tanh": ([], torch.tanh),
    "HardSigmoid": ([0.3, 0.4], lambda x: (0.3 * x + 0.4).clamp(0, 1)),
    "HardSwish": ([], F.hardswish),
    "Silu": ([], F.silu),
    "Gelu": ([], F.gelu),
    "GeluTanh": ([], lambda x: F.gelu(x, approximate="tanh")),
    "Elu": ([0.7], lambda x: F.elu(x, 0.7)),
}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class Case:
    """One node of the ort_cks domain in a model, with its inputs and its answer in float64.

    The model's own inputs and output are float, so that the types numpy lacks can be run too.
    """

    def __init__(
        self,
        op,
        rank,
        *,
        activation="",
        nhwc=False,
        residual=False,
        bias=True,
        opset=18,
        dtype="float",
        seed=0,
    ):
        random = np.random.default_rng(seed)
        self.element_type, self.rtol, self.atol_factor = TYPES[dtype]
        spatial = (7, 6, 5)[:rank]
        params, activate = ACTIVATIONS[activation]
        group, channels, filters = 2, 4, 6
        transposed = op == "KSDeconv"
        attributes = {
            "group": group,
            "kernel_shape": (3, 2, 3)[:rank],
            "strides": (2, 1, 2)[:rank],
            "pads": [1, 0, 1][:rank] + [0, 1, 2][:rank],
            "dilations": (2, 1, 1)[:rank] if op == "SkDilated" else (1,) * rank,
        }
        if transposed:
            attributes["output_padding"] = (1, 0, 0)[:rank]
        w_shape = (channels, filters // group) if transposed else (filters, channels // group)
        arrays = {
            "X": random.standard_normal((2, channels, *spatial)),
            "W": random.standard_normal((*w_shape, *attributes["kernel_shape"])) / 2,
        }
        if bias or residual:
            arrays["B"] = random.standard_normal(filters)
        arrays = {name: self._rounded(a) for name, a in arrays.items()}
        before = self._convolve(arrays, attributes, rank, transposed)
        if residual:
            arrays["Z"] = self._rounded(random.standard_normal(before.shape))
            before = before + torch.from_numpy(arrays["Z"])
        self.scale = before.abs().max().item()
        self.expected = activate(before).numpy()
        if nhwc:
            self.expected = np.moveaxis(self.expected, 1, -1)
            arrays |= {name: np.moveaxis(arrays[name], 1, -1) for name in ("X", "Z") if name in arrays}
        attributes |= {"layout": "NHWC" if nhwc else "NCHW"}
        if activation:
            attributes |= {"activation": activation} | ({"activation_params": params} if params else {})
        self.inputs = {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}
        self.model = self._model(op, attributes, opset)

    def _rounded(self, array):
        """`array` in float64, with values that the element type can hold."""
        return array.astype(helper.tensor_dtype_to_np_dtype(self.element_type)).astype(np.float64)

    @staticmethod
    def _convolve(arrays, attributes, rank, transposed):
        x, w = torch.from_numpy(arrays["X"]), torch.from_numpy(arrays["W"])
        b = torch.from_numpy(arrays["B"]) if "B" in arrays else None
        begin, end = attributes["pads"][:rank], attributes["pads"][rank:]
        stride, dilation, group = attributes["strides"], attributes["dilations"], attributes["group"]
        if not transposed:
            pads = [p for pair in reversed(list(zip(begin, end, strict=True))) for p in pair]
            return CONVOLUTIONS[rank](F.pad(x, pads), w, b, stride=stride, dilation=dilation, groups=group)
        y = TRANSPOSED[rank](
            x,
            w,
            b,
            stride=stride,
            dilation=dilation,
            groups=group,
            output_padding=attributes["output_padding"],
        )
        crop = tuple(slice(p, y.shape[i + 2] - q) for i, (p, q) in enumerate(zip(begin, end, strict=True)))
        return y[(slice(None), slice(None), *crop)]

    def _model(self, op, attributes, opset):
        names = list(self.inputs)
        nodes = [helper.make_node("Cast", [n], [n + "_cast"], to=self.element_type) for n in names]
        nodes += [
            helper.make_node(
                op, [n + "_cast" for n in names], ["Y_cast"], name="node", domain="ort_cks", **attributes
            ),
            helper.make_node("Cast", ["Y_cast"], ["Y"], to=TensorProto.FLOAT),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in self.inputs.items()],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, self.expected.shape)],
            value_info=[
                helper.make_tensor_value_info(n + "_cast", self.element_type, self.inputs[n].shape)
                for n in names
            ],
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ort_cks", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def check(self, model=None):
        """Adds the functions, runs the model without the library and compares every element."""
        model = model or with_fallback(self.model)
        answer = run(model, self.inputs)
        np.testing.assert_allclose(
            answer, self.expected, rtol=self.rtol, atol=self.atol_factor * max(self.scale, 1)
        )
        return model


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
def test_float(op, activation, rank, nhwc, residual):
    Case(op, rank, activation=activation, nhwc=nhwc, residual=residual).check()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_half_precision(activation, nhwc, residual, dtype):
    Case("ConvV2", 2, activation=activation, nhwc=nhwc, residual=residual, dtype=dtype, opset=22).check()


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 17, 20, 22, 24])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_opset(activation, opset):
    Case("ConvV2", 2, activation=activation, residual=True, nhwc=True, opset=opset).check()


@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
def test_without_bias(op):
    Case(op, 2, bias=False).check()


def test_open_ended_clip():
    for params, clamp in (([0.25, np.inf], {"min": 0.25}), ([-np.inf, 0.25], {"max": 0.25})):
        case = Case("ConvV2", 2)
        attributes = case.model.graph.node[-2].attribute
        attributes.extend(
            [helper.make_attribute("activation", "Clip"), helper.make_attribute("activation_params", params)]
        )
        case.expected = torch.from_numpy(case.expected).clamp(**clamp).numpy()
        case.check()


@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("op", ["ConvV2", "KSDeconv"])
def test_dynamic_shapes(op, nhwc):
    case = Case(op, 2, nhwc=nhwc, activation="Silu", residual=True)
    for value in (*case.model.graph.input, *case.model.graph.output):
        if value.name in ("X", "Z", "Y"):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                dim.dim_param = f"{value.name}{axis}"
    del case.model.graph.value_info[:]
    case.model.graph.value_info.append(
        helper.make_tensor_value_info("X_cast", TensorProto.FLOAT, ["a", "b", "c", "d"]),
    )
    case.check()


@pytest.mark.parametrize(
    "simplify", [lambda m: onnxsim.simplify(m)[0], onnxslim.slim], ids=["onnxsim", "onnxslim"]
)
@pytest.mark.parametrize("op", ["ConvV2", "SkDilated", "KSDeconv"])
@pytest.mark.parametrize("nhwc", [False, True], ids=["NCHW", "NHWC"])
def test_other_tools_leave_it_equal(op, nhwc, simplify):
    case = Case(op, 2, activation="HardSwish", nhwc=nhwc, residual=True)
    simplified = simplify(case.check())
    onnx.checker.check_model(simplified, full_check=True)
    assert [n.op_type for n in simplified.graph.node if n.domain == "ort_cks"] == [op]
    case.check(simplified)


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
    models = [ir.from_proto(case.model) for case in (one, one, other)]
    for model in models:
        add_fallback_functions(model)
    overloads = [[f.overload for f in model.functions.values()] for model in models]
    assert overloads == [["nhwc2d_residual_LeakyRelu_0.1"]] * 2 + [[""]]


def test_the_cases_tell_layouts_and_attributes_apart():
    """A body that ignored layout, pads, group or residual would fail: the expected answers differ."""
    answers = [
        Case("ConvV2", 2, residual=r, activation=a).expected
        for r, a in itertools.product([False, True], ["", "Relu"])
    ]
    for one, other in itertools.combinations(answers, 2):
        assert np.abs(one - other).max() > 0.1
