"""What only a CUDA session has: a say about TF32, and CUDA graphs."""

import numpy as np
import onnxruntime
import pytest
from nodes import node_model
from reference import Geometry, assert_close

import ort_cks

pytestmark = pytest.mark.gpu

GEOMETRY = Geometry((3, 3), pads=(1, 1, 1, 1))
ATTRIBUTES = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}


def operands(seed=0, extents=(14, 13), C=32, K=48):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, C, *extents)).astype(np.float32)
    return x, rng.standard_normal((K, C, 3, 3)).astype(np.float32) / 16


def cuda_session(model, **provider_options):
    """A session in which a node that is not on the GPU is an error."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort_cks.InferenceSession(model, options, [("CUDAExecutionProvider", provider_options)])


def check(x, w, got, product_rounding=0.0):
    want, magnitude = GEOMETRY.convolve(x, w), GEOMETRY.convolve(abs(x), abs(w))
    borders = GEOMETRY.borders(x.shape[2:])
    assert_close(got, want, magnitude, w[0].size, "float", borders, product_rounding)


@pytest.mark.parametrize("constants", [("W",), ()])
def test_a_session_without_tf32_is_strict(constants):
    """Whatever the node says; the weights, packed for TF32 when the session started, are packed again."""
    x, w = operands()
    model = node_model("ConvV2", {"X": x, "W": w}, ATTRIBUTES | {"precision": "tf32"}, constants=constants)
    feeds = {"X": x} if constants else {"X": x, "W": w}
    strict = cuda_session(model, use_tf32="0")
    for _ in range(2):
        check(x, w, strict.run(None, feeds)[0])
    check(x, w, cuda_session(model).run(None, feeds)[0], 2.0**-11)


class Captured:
    """A model's run for one shape, captured as a CUDA graph: buffers whose addresses stay."""

    def __init__(self, session, name, x):
        self.session, self.binding = session, session.io_binding()
        self.x = onnxruntime.OrtValue.ortvalue_from_numpy(x, "cuda", 0)
        y = np.zeros((2, 48, *x.shape[2:]), np.float32)
        self.y = onnxruntime.OrtValue.ortvalue_from_numpy(y, "cuda", 0)
        self.binding.bind_ortvalue_input("X", self.x)
        self.binding.bind_ortvalue_output("Y", self.y)
        self.options = onnxruntime.RunOptions()
        self.options.add_run_config_entry("gpu_graph_id", name)

    def run(self, x):
        self.x.update_inplace(x)
        self.session.run_with_iobinding(self.binding, self.options)
        return self.y.numpy()


def test_cuda_graphs_of_many_shapes():
    """More captured shapes than a node keeps plans for: none may be dropped while its graph lives."""
    x, w = operands()
    attributes = ATTRIBUTES | {"precision": "fp32"}
    model = node_model(
        "ConvV2", {"X": x, "W": w}, attributes, constants=("W",), shapes={"X": (2, 32, "h", "w")}
    )
    session = cuda_session(model, enable_cuda_graph="1")
    graphs = [Captured(session, str(i + 1), operands(i, (5 + i, 9))[0]) for i in range(24)]
    for turn in range(3):
        for i, graph in enumerate(graphs):
            x, _ = operands(100 * turn + i, (5 + i, 9))
            check(x, w, graph.run(x))
