"""Tests marked `gpu` are skipped, with the reason, where onnxruntime has no CUDA device to run on."""

import functools
import importlib.util

import pytest


@functools.cache
def why_no_gpu() -> str:
    """The reason why GPU tests cannot run; empty where they can."""
    import onnxruntime
    from onnx import TensorProto, helper

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA provider (install onnxruntime-gpu)"
    if importlib.util.find_spec("torch"):
        import torch  # noqa: F401 - brings cuDNN and cuBLAS into the process
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
    except Exception as error:
        return f"onnxruntime's CUDA provider does not start: {error}"
    if "CUDAExecutionProvider" not in session.get_providers():
        return "onnxruntime's CUDA provider does not start (no device, or CUDA libraries are missing)"
    return ""


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and why_no_gpu():
        pytest.skip(why_no_gpu())


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def provider(request):
    """The provider that the operators run on: every test of an operator is a test of both."""
    return request.param
