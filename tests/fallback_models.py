"""Running models that carry fallback functions, in a session that knows nothing of the library."""

import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch.nn.functional as F
from onnx import TensorProto

from ort_cks.graph_rewrite.fallback import add_fallback_functions

# name: (element type, relative tolerance, absolute tolerance over the largest value before the activation)
TYPES = {
    "float": (TensorProto.FLOAT, 1e-5, 1e-6),
    "float16": (TensorProto.FLOAT16, 2e-3, 1e-3),
    # computed in float and rounded once: half a unit in the last place
    "bfloat16": (TensorProto.BFLOAT16, 2**-8, 1e-6),
}
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def with_fallback(proto):
    model = ir.from_proto(proto)
    add_fallback_functions(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(model, inputs):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]
