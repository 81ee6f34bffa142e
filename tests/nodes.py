"""One node of the ort_cks domain, run in an ONNX Runtime session."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from reference import NUMPY_TYPES

import ort_cks

ELEMENT_TYPES = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider"]}
DOMAIN = "ort_cks"
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]


def tensor(name, array, dtype):
    array = np.ascontiguousarray(array, NUMPY_TYPES[dtype])
    return helper.make_tensor(name, ELEMENT_TYPES[dtype], array.shape, array.tobytes(), raw=True)


def node_model(
    op, inputs, attributes, dtype="float", constants=(), shapes=None, name="the_node", outputs=("Y",)
):
    """A model of one node.

    Args:
        op: the operator's name.
        inputs: name to float32 array, in the node's order.
        attributes: of the node.
        dtype: the node's type. numpy and ONNX Runtime's Python API lack bfloat16, so such a model casts
            its own float inputs and outputs.
        constants: the names of the inputs that are initializers.
        shapes: name to the shape that the model declares, where it is not the array's.
        outputs: their names, in the node's order.
    """
    feeds = [n for n in inputs if n not in constants]
    outer = "float" if dtype == "bfloat16" else dtype
    names = {n: f"{n}_cast" if outer != dtype and n in feeds else n for n in inputs}
    nodes = [
        helper.make_node("Cast", [n], [names[n]], to=ELEMENT_TYPES[dtype]) for n in feeds if names[n] != n
    ]
    node_outputs = [f"{n}_cast" if outer != dtype else n for n in outputs]
    nodes.append(
        helper.make_node(op, list(names.values()), node_outputs, name=name, domain=DOMAIN, **attributes)
    )
    if outer != dtype:
        nodes += [
            helper.make_node("Cast", [node_output], [n], to=ELEMENT_TYPES[outer])
            for node_output, n in zip(node_outputs, outputs, strict=True)
        ]
    graph = helper.make_graph(
        nodes,
        "one_node",
        [
            helper.make_tensor_value_info(n, ELEMENT_TYPES[outer], (shapes or {}).get(n, inputs[n].shape))
            for n in feeds
        ],
        [helper.make_tensor_value_info(n, ELEMENT_TYPES[outer], None) for n in outputs],
        [tensor(n, inputs[n], dtype) for n in constants],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9)


def session(model, provider="cpu", **options):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    for key, value in options.items():
        setattr(settings, key, value)
    return ort_cks.InferenceSession(model, settings, PROVIDERS[provider])


def run_node(op, inputs, attributes, dtype="float", constants=(), provider="cpu"):
    """The node's output as an array of float64, from inputs that its type can hold."""
    model = node_model(op, inputs, attributes, dtype, constants)
    feed_type = np.float16 if dtype == "float16" else np.float32
    feeds = {n: v.astype(feed_type) for n, v in inputs.items() if n not in constants}
    return session(model, provider).run(None, feeds)[0].astype(np.float64)


def representable(array, dtype):
    """The array, rounded to the type, in float32."""
    return array.astype(NUMPY_TYPES[dtype]).astype(np.float32)
