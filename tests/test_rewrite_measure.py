"""--measure keeps what is native where it is faster, with what folding has gained."""

import numpy as np
import onnx
import pytest
from rewrite_models import Builder, assert_same_answers, op_types, random_feeds, rewrite, run

import ort_cks
from ort_cks.graph_rewrite import measure_nodes
from ort_cks.graph_rewrite.measure import Timing


def model_of_two() -> onnx.ModelProto:
    """A convolution with zeros in front, whose filter is cut, and a 1x1."""
    b = Builder()
    x = b.input(1, 2, 1, 1)
    y = b.op("Relu", b.batch_norm(b.op("Conv", x, b.normal(4, 2, 3, 3), pads=[1] * 4), 4))
    return b.model(b.op("Add", b.op("Conv", y, b.normal(4, 4, 1, 1)), y))


@pytest.fixture
def measured(monkeypatch):
    """What was measured; ours counts as slower for nodes with this many weights."""
    calls, slow = [], set()

    def measure_node(native: onnx.ModelProto, swapped: onnx.ModelProto) -> Timing:
        calls.append((native, swapped))
        weights = [i for i in swapped.graph.initializer if len(i.dims) == 4]
        return Timing(10.0, 20.0 if np.prod(weights[0].dims) in slow else 5.0)

    monkeypatch.setattr(measure_nodes, "measure_node", measure_node)
    return calls, slow


def test_all_faster(measured):
    model = model_of_two()
    result = rewrite(model, measure=True)
    assert op_types(result) == ["ConvV2", "ConvV2"]
    assert all(record.reason.endswith("5.0 us, native 10.0 us") for record in result.nodes)
    assert_same_answers(model, result.model)


def test_a_slower_node_stays_native_folded_and_cut(measured):
    measured[1].add(8)  # the first one's weights, after the cut
    model = model_of_two()
    result = rewrite(model, measure=True)
    first, second = result.nodes
    assert op_types(result) == ["Conv", "Relu", "ConvV2"]
    assert (first.decision, second.decision) == ("kept", "swapped")
    assert first.fused == ["BatchNormalization"]
    assert "native is faster here: 10.0 us, swapped 20.0 us" in first.reason
    assert "cut from 3x3 to 1x1" in first.reason
    assert [i.dims[2:] for i in result.model.graph.initializer if len(i.dims) == 4] == [[1, 1], [1, 1]]
    assert_same_answers(model, result.model)


def test_both_sides_of_a_measurement_compute_the_same(measured):
    rewrite(model_of_two(), measure=True, layout="nchw")
    for native, swapped in measured[0]:
        assert all(node.domain == "" for node in native.graph.node)
        assert [node.op_type for node in swapped.graph.node] == ["ConvV2"]
        feeds = random_feeds(native)
        (expected,), (answer,) = run(native, feeds), ort_cks.InferenceSession(swapped).run(None, feeds)
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)


def test_in_nhwc_ours_is_measured_without_transposes(measured):
    b = Builder()
    model = b.model(b.op("Conv", b.input(1, 2, 6, 5), b.normal(4, 2, 3, 3)))
    rewrite(model, measure=True, layout="nhwc")
    ((native, swapped),) = measured[0]
    shapes = [
        [d.dim_value for d in value.type.tensor_type.shape.dim]
        for graph in (native.graph, swapped.graph)
        for value in (graph.input[0], graph.output[0])
    ]
    assert shapes == [[1, 2, 6, 5], [1, 4, 4, 3], [1, 6, 5, 2], [1, 4, 3, 4]]
    assert len(swapped.graph.node) == 1


def test_open_shapes_are_not_measured(measured):
    b = Builder()
    result = rewrite(b.model(b.op("Conv", b.input("n", 2, 6, 5), b.normal(4, 2, 3, 3))), measure=True)
    assert measured[0] == []
    assert op_types(result) == ["ConvV2"]
