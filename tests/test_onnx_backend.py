"""ONNX's own backend tests of Conv and ConvTranspose, rewritten: with the library and without it."""

import copy
import functools
import glob
import os
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import ort_cks
from ort_cks.graph_rewrite import rewrite_model

CASES = {
    "node": """
        basic_conv_with_padding basic_conv_without_padding conv_with_autopad_same
        conv_with_strides_and_asymmetric_padding conv_with_strides_no_padding conv_with_strides_padding
        convtranspose convtranspose_1d convtranspose_3d convtranspose_autopad_same convtranspose_dilations
        convtranspose_group_2 convtranspose_group_2_image_3 convtranspose_kernel_shape
        convtranspose_output_shape convtranspose_pad convtranspose_pads
    """,
    "pytorch-converted": """
        Conv1d Conv1d_dilated Conv1d_groups Conv1d_pad1 Conv1d_pad1size1 Conv1d_pad2 Conv1d_pad2size1
        Conv1d_stride Conv2d Conv2d_depthwise Conv2d_depthwise_padded Conv2d_depthwise_strided
        Conv2d_depthwise_with_multiplier Conv2d_dilated Conv2d_groups Conv2d_groups_thnn Conv2d_no_bias
        Conv2d_padding Conv2d_strided Conv3d Conv3d_dilated Conv3d_dilated_strided Conv3d_groups
        Conv3d_no_bias Conv3d_stride Conv3d_stride_padding ConvTranspose2d ConvTranspose2d_no_bias
    """,
    "pytorch-operator": "operator_conv operator_convtranspose",
}
NAMES = [(kind, f"test_{name}") for kind, names in CASES.items() for name in names.split()]
CONVOLUTIONS = ("Conv", "ConvTranspose")


@functools.cache
def cases(kind):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # onnx computes the data of all its node tests, some of which overflow
        return {case.name: case for case in load_model_tests(kind=kind)}


def load(kind, name):
    """The model, and its data sets as (inputs, outputs), lists of arrays. Up to onnx 1.18 all are files."""
    case = cases(kind)[name]
    if case.model is not None:
        return case.model, [tuple(list(part) for part in data_set) for data_set in case.data_sets]
    model = onnx.load(os.path.join(case.model_dir, "model.onnx"))
    folders = sorted(glob.glob(os.path.join(case.model_dir, "test_data_set_*")))
    return model, [tuple(_read(folder, part) for part in ("input", "output")) for folder in folders]


def _read(folder, part):
    count = len(glob.glob(os.path.join(folder, f"{part}_*.pb")))
    paths = [os.path.join(folder, f"{part}_{index}.pb") for index in range(count)]
    return [numpy_helper.to_array(onnx.load_tensor(path)) for path in paths]


def with_initializers(model, data_set):
    """The model with every weight and bias as an initializer, and the inputs that are left."""
    model = copy.deepcopy(model)
    weights = {name for node in model.graph.node if node.op_type in CONVOLUTIONS for name in node.input[1:]}
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    feeds = dict(zip((value.name for value in inputs), data_set[0], strict=True))
    for name in weights - known:
        model.graph.initializer.append(numpy_helper.from_array(feeds.pop(name), name))
    del model.graph.input[:]
    model.graph.input.extend(value for value in inputs if value.name in feeds)
    model.ir_version = max(model.ir_version, 4)  # before, an initializer has to be an input too
    return model, (list(feeds.values()), data_set[1])


def session(model, library):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if library:
        return ort_cks.InferenceSession(model, options, providers)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers)


def run(model, inputs, library):
    opened = session(model, library)
    return opened.run(None, dict(zip((value.name for value in opened.get_inputs()), inputs, strict=True)))


def assert_same(got, want, rtol):
    """Every element, to within rtol of it and of the largest one."""
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.abs(other).max(), strict=True)


@pytest.mark.parametrize("weights", ["as given", "initializers"])
@pytest.mark.parametrize(("kind", "name"), NAMES, ids=[name for _, name in NAMES])
def test_backend_case(kind, name, weights):
    model, data_sets = load(kind, name)
    assert data_sets
    for data_set in data_sets:
        tested = model
        if weights == "initializers":
            tested, data_set = with_initializers(model, data_set)
        result = rewrite_model(tested)
        convolutions = [node.op_type for node in tested.graph.node if node.op_type in CONVOLUTIONS]
        assert convolutions
        assert [(r.op_type, r.decision) for r in result.nodes] == [(op, "swapped") for op in convolutions], [
            r.reason for r in result.nodes
        ]
        rewritten = result.model
        onnx.checker.check_model(rewritten, full_check=True)
        ours = [node.op_type for node in rewritten.graph.node if node.domain == "ort_cks"]
        assert ours == [record.new_op for record in result.nodes]
        assert not {node.op_type for node in rewritten.graph.node} & set(CONVOLUTIONS)

        inputs, outputs = data_set
        native = run(tested, inputs, library=False)
        without_functions = copy.deepcopy(rewritten)
        del without_functions.functions[:]  # so that nothing but the library's kernels can run it
        for answer in (run(without_functions, inputs, library=True), run(rewritten, inputs, library=False)):
            assert_same(answer, native, rtol=1e-5)
            assert_same(answer, outputs, rtol=1e-5)
