"""The NHWC pass: the same answers, as few Transposes as can be, and right shapes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ort_cks.graph_rewrite import rewrite_model


class Net:
    """A model of standard operators, built line by line; each method returns the name of a value."""

    def __init__(self, opset=17):
        self.random = np.random.default_rng(11)
        self.nodes, self.inputs, self.constants, self.opset = [], [], {}, opset
        self.feeds = {}

    def input(self, *shape, declared=None):
        name = f"x{len(self.inputs)}"
        self.feeds[name] = np.float32(self.random.standard_normal(shape))
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, declared or shape))
        return name

    def constant(self, *shape):
        return self.tensor(np.float32(self.random.standard_normal(shape)))

    def tensor(self, array):
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def node(self, op_type, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def conv(self, x, channels, filters, rank=2):
        w, b = self.constant(filters, channels, *(3, 3, 3)[:rank]), self.constant(filters)
        return self.node("Conv", x, w, b, pads=[1] * (2 * rank))

    def model(self, *outputs, extra=()):
        graph = helper.make_graph(
            [*self.nodes, *extra],
            "g",
            self.inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            list(self.constants.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def check(self, *outputs, transposes, fuse=False, extra=()):
        """Rewrites to NHWC and compares answers; `transposes` is the number that has to be left."""
        original = self.model(*outputs, extra=extra)
        rewritten = rewrite_model(original, layout="nhwc", simplify=False, fuse=fuse).model
        onnx.checker.check_model(rewritten, full_check=True)
        graph = rewritten.graph
        assert [output.name for output in graph.output] == list(outputs)
        for node in graph.node:
            if node.domain == "ort_cks":
                assert attribute(node, "layout") == b"NHWC"
        for got, want in zip(run(rewritten, self.feeds), run(original, self.feeds), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        check_shapes(rewritten, self.feeds)
        assert [node.op_type for node in graph.node].count("Transpose") == transposes
        return rewritten


def attribute(node, name):
    return next(helper.get_attribute_value(a) for a in node.attribute if a.name == name)


def run(model, feeds, outputs=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # As it is saved: what ONNX Runtime's optimiser would tidy up does not count.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(outputs, feeds)


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
    net = Net()
    x = net.input(2, 3, *(7, 6, 5)[:rank])
    net.check(net.conv(x, 3, 4, rank), transposes=2)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_operator(rank):
    net = Net()
    x, w = net.input(2, 3, *(5, 4, 3)[:rank]), net.constant(3, 4, *(3, 2, 3)[:rank])
    net.check(net.node("ConvTranspose", x, w, strides=[2] * rank, output_padding=[1] * rank), transposes=2)


def test_a_chain_through_elementwise_operators():
    net = Net()
    y = net.conv(net.input(1, 3, 6, 7), 3, 4)
    y = net.node("LeakyRelu", y, alpha=0.2)
    y = net.node("Clip", y, net.tensor(np.float32(-1)), net.tensor(np.float32(2)))
    y = net.node("Add", y, net.constant(4, 1, 1))
    y = net.node("Mul", net.constant(1, 4, 1, 1), y)
    y = net.node("Sub", y, net.constant(7))  # along W
    y = net.node("Mul", y, net.constant(4, 6, 7))
    y = net.node("PRelu", y, net.constant(4, 1, 1))
    y = net.node("Cast", net.node("Cast", y, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    y = net.node("Identity", net.node("Dropout", y))
    net.check(net.conv(y, 4, 2), transposes=2)


def test_dynamic_extents():
    net = Net()
    y = net.conv(net.input(2, 3, 6, 7, declared=["n", 3, "h", "w"]), 3, 4)
    y = net.node("Add", net.node("Sigmoid", y), net.constant(4, 1, 1))
    net.check(net.conv(y, 4, 2), transposes=2)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_concat(axis):
    net = Net()
    x = net.input(1, 3, 5, 5)
    a, b = net.conv(x, 3, 4), net.node("Relu", net.conv(x, 3, 4))
    y = net.node("Concat", a, b, net.constant(1, 4, 5, 5), axis=axis)
    channels = 12 if axis in (1, -3) else 4
    net.check(net.conv(y, channels, 2), transposes=2)


def test_gate_of_one_pixel_and_residuals():
    """Squeeze-and-excitation: pools stay NCHW, and only the one pixel is transposed for it."""
    net = Net()
    y = net.conv(net.input(1, 3, 8, 8), 3, 4)
    pooled = net.node("GlobalAveragePool", y)
    w = net.constant(4, 4, 1, 1)
    gate = net.node("Sigmoid", net.node("Conv", pooled, w))
    y = net.node("Add", net.node("Mul", y, gate), y)
    # in, to the pool, from the pool, out
    net.check(net.conv(y, 4, 4), transposes=4)


@pytest.mark.parametrize("fuse", [False, True], ids=["Add", "as input Z"])
def test_residual_block(fuse):
    net = Net()
    x = net.node("Relu", net.conv(net.input(1, 3, 6, 6), 3, 4))
    y = net.conv(net.node("Relu", net.conv(x, 4, 4)), 4, 4)
    model = net.check(net.node("Relu", net.node("Add", y, x)), transposes=2, fuse=fuse)
    assert ("Add" in {node.op_type for node in model.graph.node}) is not fuse


def test_pools_keep_transposes_around_them():
    net = Net()
    y = net.node("Relu", net.conv(net.input(1, 3, 8, 8), 3, 4))
    y = net.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.node("Relu", net.conv(y, 4, 4))
    y = net.node("AveragePool", y, kernel_shape=[2, 2])
    net.check(net.conv(y, 4, 2), transposes=6)


def test_a_value_needed_in_both_layouts_is_transposed_once():
    net = Net()
    y = net.conv(net.input(1, 3, 8, 8), 3, 4)
    pools = [net.node("MaxPool", y, kernel_shape=[k, k]) for k in (2, 3)]
    net.check(y, net.conv(y, 4, 2), *pools, transposes=3)


def test_the_smaller_side_is_transposed():
    """One channel leaves the Conv of eight; its Sigmoid may be on either side, the upsampled sum may not."""
    net = Net()
    x = net.input(1, 8, 4, 4)
    small = net.node("Sigmoid", net.conv(x, 8, 1))
    wide = net.node("Mul", small, net.constant(8, 4, 4))
    model = net.check(net.node("Exp", wide), transposes=2)
    transposes = [node for node in model.graph.node if node.op_type == "Transpose"]
    mul = next(node for node in model.graph.node if node.op_type == "Mul")
    assert transposes[1].output[0] in mul.input


def test_constants_that_others_use_keep_their_layout():
    net = Net()
    x, shared = net.input(1, 4, 5, 5), net.constant(4, 5, 5)
    y = net.node("Add", net.conv(x, 4, 4), shared)
    other = net.node("MatMul", x, shared)
    net.check(net.conv(y, 4, 2), other, transposes=2)


def test_lower_rank_run_time_operands_are_barriers():
    net = Net()
    x, row = net.input(1, 4, 5, 5), net.input(5)
    net.check(net.conv(net.node("Add", net.conv(x, 4, 4), row), 4, 2), transposes=4)


def test_one_element_run_time_operands_are_not():
    net = Net()
    x, factor = net.input(1, 4, 5, 5), net.input(1)
    net.check(net.conv(net.node("Mul", net.conv(x, 4, 4), factor), 4, 2), transposes=2)


def test_a_weight_made_at_run_time_stays_as_it_is():
    net = Net()
    x = net.input(1, 3, 5, 5)
    w = net.node("Relu", net.conv(x, 3, 4))  # [1, 4, 5, 5], read as a filter too
    net.check(net.node("Conv", w, net.node("Tanh", w)), transposes=3)


def test_transposes_of_the_model_cancel():
    """As exported from frameworks that are NHWC themselves: nothing is left."""
    net = Net()
    x = net.node("Transpose", net.input(1, 6, 7, 3), perm=[0, 3, 1, 2])
    y = net.node("Relu", net.conv(x, 3, 4))
    net.check(net.node("Transpose", y, perm=[0, 2, 3, 1]), transposes=0)


def test_transposes_that_do_not_cancel_merge():
    net = Net()
    x = net.node("Transpose", net.input(1, 6, 7, 3), perm=[0, 3, 2, 1])
    net.check(net.conv(x, 3, 4), transposes=2)


def test_subgraphs_are_converted_each_for_itself():
    net = Net()
    outer = net.conv(net.input(1, 3, 6, 6), 3, 4)
    w, flag = net.constant(4, 4, 3, 3), net.tensor(np.array(True))
    inner = [
        helper.make_node("Conv", [outer, w], ["inner"], name="inner_conv", pads=[1] * 4),
        helper.make_node("Relu", ["inner"], ["chosen_inside"]),
    ]
    result = [helper.make_tensor_value_info("chosen_inside", TensorProto.FLOAT, None)]
    branch = helper.make_graph(inner, "branch", [], result)
    choice = helper.make_node("If", [flag], ["chosen"], name="choice", then_branch=branch, else_branch=branch)
    # in, and from NHWC for the subgraphs
    model = net.check("chosen", transposes=2, extra=[choice])
    branches = [a.g for a in model.graph.node[-1].attribute]
    assert [[n.op_type for n in b.node] for b in branches] == [
        ["Transpose", "ConvV2", "Relu", "Transpose"]
    ] * 2
