"""Running models that carry fallback functions, in a session that knows nothing of the library."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from ort_cks.graph_rewrite.fallback import add_fallback_functions

# data type: (relative tolerance, absolute tolerance over the largest value before the activation)
TOLERANCES = {
    "float": (1e-5, 1e-6),
    "float16": (2e-3, 1e-3),
    "bfloat16": (2.0**-8, 1e-6),  # computed in float and rounded once: half a unit in the last place
}


def with_fallback(proto):
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    add_fallback_functions(model)
    # Through the functions, ONNX itself knows the output's shape, which the checker asks for.
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(model, inputs, dtype="float"):
    """The model's first output; bfloat16 nodes are in models with float inputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed_type = np.float16 if dtype == "float16" else np.float32
    return session.run(None, {name: array.astype(feed_type) for name, array in inputs.items()})[0]
