"""Small models for the tests of the rewriter, and what it takes to compare two of them."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from ort_cks.graph_rewrite import NodeRecord, RewriteResult, rewrite_model


class Builder:
    """Collects a graph; values are named by their order. Floats are of one data type throughout."""

    def __init__(self, dtype: int = TensorProto.FLOAT, opset: int = 17, seed: int = 0):
        self.dtype, self.opset = dtype, opset
        self.nodes, self.initializers, self.inputs = [], [], []
        self.random = np.random.default_rng(seed)

    def input(self, *shape: int | str | None, name: str | None = None) -> str:
        name = name or f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, self.dtype, shape))
        return name

    def constant(self, array, name: str | None = None) -> str:
        """Floats in the model's type, integers as they are."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(helper.tensor_dtype_to_np_dtype(self.dtype))
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape))

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes) -> str:
        name = output or f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"/{name}", **attributes))
        return name

    def batch_norm(self, x: str, channels: int, **attributes) -> str:
        scale, variance = (self.constant(self.random.uniform(0.5, 1.5, channels)) for _ in range(2))
        bias, mean = self.normal(channels), self.normal(channels)
        return self.op("BatchNormalization", x, scale, bias, mean, variance, **attributes)

    def model(
        self, *outputs: str, ir_version: int = 8, functions=(), domains=(), shape=None
    ) -> onnx.ModelProto:
        """`shape` is the outputs', where ONNX does not infer it."""
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        if shape is not None:
            infos = [helper.make_tensor_value_info(name, self.dtype, shape) for name in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, infos, self.initializers)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)
        inferred = onnx.shape_inference.infer_shapes(model)
        for info, output in zip(inferred.graph.output, outputs, strict=True):
            assert info.type.HasField("tensor_type"), f"no type was inferred for {output}"
        return inferred


def rewrite(model: onnx.ModelProto, **options) -> RewriteResult:
    """Without onnxsim and NHWC, so that a test sees its own pass at work."""
    return rewrite_model(model, **({"simplify": False, "layout": "nchw"} | options))


def op_types(result: RewriteResult) -> list[str]:
    return [node.op_type for node in result.model.graph.node]


def only(records: list[NodeRecord]) -> NodeRecord:
    (record,) = records
    return record


def random_feeds(model: onnx.ModelProto, seed: int = 1, dims: dict[str, int] | None = None) -> dict:
    """Standard normal values for every float input, True for booleans; open dimensions from `dims`."""
    random, feeds = np.random.default_rng(seed), {}
    constants = {initializer.name for initializer in model.graph.initializer}
    for info in model.graph.input:
        if info.name in constants:
            continue
        tensor = info.type.tensor_type
        shape = [(dims or {}).get(d.dim_param, 1) if d.dim_param else d.dim_value for d in tensor.shape.dim]
        values = random.standard_normal(shape)
        feeds[info.name] = values.astype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return feeds


def run(model: onnx.ModelProto, feeds: dict) -> list[np.ndarray]:
    """ONNX Runtime's CPU provider without its own optimizations, and without the library."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_same_answers(
    original: onnx.ModelProto, rewritten: onnx.ModelProto, feeds: dict | None = None, rtol: float = 2e-5
) -> None:
    """Every element equal to within rtol of itself and of its output's root mean square, borders too."""
    onnx.checker.check_model(rewritten, full_check=True)
    feeds = random_feeds(original) if feeds is None else feeds
    for got, expected in zip(run(rewritten, feeds), run(original, feeds), strict=True):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        size = np.sqrt(np.mean(np.square(expected.astype(np.float64))))
        assert size > 0
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * size)
