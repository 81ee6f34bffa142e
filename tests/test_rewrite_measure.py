"""--measure keeps native what is faster so, region by region, with what folding has gained."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from rewrite_models import Builder, assert_same_answers, op_types, random_feeds, rewrite, run
from test_rewrite_merge_relus import skipped, up

import ort_cks
from ort_cks.graph_rewrite import RewriteError, measure
from ort_cks.graph_rewrite.estimate import _node_us, estimate_us
from ort_cks.graph_rewrite.layout import NhwcLayoutPass
from ort_cks.graph_rewrite.measure import Verdict, measure_us
from ort_cks.graph_rewrite.regions import regions
from ort_cks.graph_rewrite.simplify import serialize_inline

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # last, so that the installed ort_cks is found before the checkout's

from benchmarks.suite import LAYERS  # noqa: E402


def model_of_two() -> onnx.ModelProto:
    """A convolution with zeros in front, whose filter is cut, and a 1x1."""
    b = Builder()
    x = b.input(1, 2, 1, 1)
    y = b.op("Relu", b.batch_norm(b.op("Conv", x, b.normal(4, 2, 3, 3), pads=[1] * 4), 4))
    return b.model(b.op("Add", b.op("Conv", y, b.normal(4, 4, 1, 1)), y))


def model_of_two_regions() -> onnx.ModelProto:
    """Two convolutions, something that knows NCHW only, and two with a skip connection round the first."""
    b = Builder()
    y = b.op("Relu", b.op("Conv", b.input(1, 5, 12, 10), b.normal(8, 5, 3, 3), b.normal(8), pads=[1] * 4))
    y = b.op("Neg", y)
    y = b.op("Conv", y, b.normal(8, 8, 3, 3), pads=[1] * 4)
    y = b.op("Softmax", b.op("Reshape", y, b.constant(np.array([1, 8, 120]))), axis=-1)
    y = b.op("Reshape", y, b.constant(np.array([1, 8, 12, 10])))
    z = b.op("Sigmoid", b.op("ConvTranspose", y, b.normal(8, 8, 3, 3), pads=[1] * 4))
    z = b.op("Concat", z, y, axis=1)
    return b.model(b.op("Conv", z, b.normal(4, 16, 1, 1)))


def model_of_a_pool() -> onnx.ModelProto:
    """A MaxPool between two convolutions."""
    b = Builder()
    y = b.op("Conv", b.input(1, 5, 12, 10), b.normal(8, 5, 3, 3), pads=[1] * 4)
    y = b.op("MaxPool", y, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])
    return b.model(b.op("Conv", y, b.normal(8, 8, 1, 1)))


@pytest.fixture
def measured(monkeypatch):
    """What was measured; ours counts as slower for regions that hold a filter of this many weights."""
    calls, slow = [], set()

    def measure_us(native, swapped, provider, strict):
        calls.append((native, swapped))
        sizes = {np.prod(i.dims) for i in swapped.graph.initializer if len(i.dims) == 4}
        return 10.0, 20.0 if sizes & slow else 5.0

    monkeypatch.setattr(measure, "measure_us", measure_us)
    monkeypatch.setattr(measure, "default_provider", lambda: "cuda")
    return calls, slow


def test_all_faster(measured):
    model = model_of_two()
    result = rewrite(model, measure=True)
    assert op_types(result) == ["ConvV2", "ConvV2"]
    assert all(record.reason.endswith("5.0 us, native 10.0 us") for record in result.nodes)
    assert_same_answers(model, result.model)


def test_relus_are_merged_once_regions_are_measured(measured):
    """Each region by itself, though in the end one node computes the Relus of both."""
    b = Builder()
    skips = [skipped(b, b.input(1, 4, 16, 16)) for _ in range(2)]
    model = b.model(*(b.op("Add", up(b, y, 4), later) for y, later in skips))
    result = rewrite(model, measure=True, layout="nhwc")
    assert len(measured[0]) == 2
    for _, swapped in measured[0]:
        assert [node.op_type for node in swapped.graph.node].count("Relu") == 1
    assert op_types(result).count("ReluEach") == 1
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


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("make", [model_of_two, model_of_two_regions, model_of_a_pool])
def test_both_sides_of_a_region_compute_the_same(measured, make, layout):
    rewrite(make(), measure=True, layout=layout)
    assert measured[0]
    for native, swapped in measured[0]:
        assert all(node.domain == "" for node in native.graph.node)
        assert any(node.domain == "ort_cks" for node in swapped.graph.node)
        feeds = random_feeds(native)
        names = [value.name for value in native.graph.output]
        assert {value.name for value in swapped.graph.input} == feeds.keys()
        expected = dict(zip(names, run(native, feeds), strict=True))
        answers = ort_cks.InferenceSession(swapped).run(names, feeds)
        for name, answer in zip(names, answers, strict=True):
            np.testing.assert_allclose(answer, expected[name], rtol=1e-4, atol=1e-4)


def test_a_region_is_what_lies_between_transposes(measured):
    rewrite(model_of_two_regions(), measure=True, layout="nhwc")
    first, second = ([node.op_type for node in swapped.graph.node] for _, swapped in measured[0])
    assert first.count("ConvV2") == 2
    assert "Neg" in first
    assert first[0] == first[-1] == "Transpose"
    assert sorted(second).count("KSDeconv") == 1
    assert "Concat" not in second  # the last convolution reads both
    natives = [[node.op_type for node in native.graph.node] for native, _ in measured[0]]
    assert natives[0] == ["Conv", "Relu", "Neg", "Conv"]
    assert natives[1] == ["ConvTranspose", "Sigmoid", "Concat", "Conv"]


def test_a_pool_belongs_to_a_region_and_is_no_convolution(measured):
    result = rewrite(model_of_a_pool(), measure=True, layout="nhwc")
    ((native, swapped),) = measured[0]
    assert [node.op_type for node in native.graph.node] == ["Conv", "MaxPool", "Conv"]
    between = [node.op_type for node in swapped.graph.node][1:-1]
    assert between == ["ConvV2", "MaxPoolNhwc", "ConvV2"]
    assert all(record.reason.endswith("its region of 2: 5.0 us, native 10.0 us") for record in result.nodes)
    assert "MaxPoolNhwc" in op_types(result)
    measured[1].add(8 * 5 * 9)
    model = model_of_a_pool()
    assert op_types(rewrite(model, measure=True, layout="nhwc")) == ["Conv", "MaxPool", "Conv"]


def test_a_region_too_large_for_a_model_of_its_own_is_swapped(measured, monkeypatch, caplog):
    monkeypatch.setattr("ort_cks.graph_rewrite.simplify._PROTOBUF_BYTES", 3500)  # of the first's 3800
    measured[1].add(8 * 8 * 9)  # were it timed, native would be faster
    result = rewrite(model_of_two_regions(), measure=True, layout="nhwc")
    assert len(measured[0]) == 1
    assert [record.decision for record in result.nodes] == ["swapped", "swapped", "kept", "kept"]
    assert "region from /conv0 is swapped without being timed: its weights exceed 2 GB" in caplog.text


def test_a_region_is_native_or_swapped_as_a_whole(measured):
    measured[1].add(8 * 8 * 9)  # in both; then only the first
    model = model_of_two_regions()
    kept = rewrite(model, measure=True, layout="nhwc")
    assert [record.decision for record in kept.nodes] == ["kept"] * 4
    measured[1].clear()
    measured[1].add(8 * 5 * 9)
    result = rewrite(model, measure=True, layout="nhwc")
    assert [record.decision for record in result.nodes] == ["kept", "kept", "swapped", "swapped"]
    assert result.nodes[0].reason.endswith("its region of 2: native is faster here: 10.0 us, swapped 20.0 us")
    assert result.nodes[2].reason.endswith("its region of 2: 5.0 us, native 10.0 us")
    assert op_types(result).count("Conv") == 2
    assert_same_answers(model, result.model, rtol=1e-4)


def test_open_shapes_are_not_measured(measured):
    b = Builder()
    result = rewrite(b.model(b.op("Conv", b.input("n", 2, 6, 5), b.normal(4, 2, 3, 3))), measure=True)
    assert measured[0] == []
    assert op_types(result) == ["ConvV2"]


def test_regions_of_an_unchanged_model():
    model = ir.from_proto(model_of_two())
    assert regions(model.graph, model.graph) == []


# --- Timing


def test_times_are_of_the_models(tmp_path):
    """On the CPU: 64 times the multiply-adds take longer, whichever side they are on."""

    def conv(size: int) -> onnx.ModelProto:
        b = Builder()
        return b.model(b.op("Conv", b.input(1, 32, size, size), b.normal(32, 32, 3, 3)))

    small, large = conv(16), conv(128)
    native, swapped = measure_us(large, small, "cpu")
    assert 0 < swapped < native < 1e6
    native, swapped = measure_us(small, large, "cpu")
    assert 0 < native < swapped < 1e6


def test_what_does_not_run_is_slower():
    """ONNX Runtime has no bfloat16 Conv on the CPU; ours does."""
    b = Builder(TensorProto.BFLOAT16)
    native = b.model(b.op("Conv", b.input(1, 4, 6, 6), b.normal(4, 4, 3, 3)))
    swapped = rewrite(native, fallback=False).model
    native_us, swapped_us = measure_us(native, swapped, "cpu")
    verdict = Verdict(native_us, swapped_us)
    assert not verdict.native_is_faster
    assert str(verdict).endswith("us, native does not run")
    with pytest.raises(RewriteError, match="runs neither way"):
        measure_us(native, native, "cpu")


# --- The estimate


def graphs_of(model: onnx.ModelProto) -> tuple[ir.Graph, ir.Graph]:
    """Of the one region, native and swapped."""
    swapped = ir.from_proto(rewrite(model, fallback=False).model)
    NhwcLayoutPass()(swapped)
    (region,) = regions(ir.from_proto(model).graph, swapped.graph)
    return region.native_graph, region.swapped_graph


def test_what_a_convolution_is_estimated_at():
    b = Builder()
    x = b.input(2, 64, 20, 20)
    model = b.model(b.op("Relu", b.op("Conv", x, b.normal(128, 64, 3, 3), b.normal(128), pads=[1] * 4)))
    native, swapped = graphs_of(model)
    x_bytes, w_bytes, y_bytes = 4 * 2 * 64 * 400, 4 * 128 * 64 * 9, 4 * 2 * 128 * 400
    dense, live = 2 * 128 * 64 * 400 * 9, 2 * 128 * 64 * (20 * 3 - 2) ** 2
    conv = x_bytes + w_bytes + 4 * 128 + y_bytes
    # Convolution, bias and Relu against a Transpose, ours, and a Transpose.
    want = 18.5 + 2 * 1.1 + (conv + 4 * y_bytes) / 4.3e6 + dense / (197.5e6 * 0.66)
    assert estimate_us(native, "tf32") == pytest.approx(want)
    transposes = 2 * 1.1 + 2 * (x_bytes + y_bytes) / 2.2e6
    want = 3.5 + conv / 4.3e6 + transposes + live / (197.5e6 * 0.86)
    assert estimate_us(swapped, "tf32") == pytest.approx(want)
    strict = estimate_us(native, "fp32") - estimate_us(native, "tf32")
    assert strict == pytest.approx(dense / (30e6 * 0.66) - dense / (197.5e6 * 0.66))


def test_a_native_transposed_convolution_has_no_zeros_of_its_stride_either():
    b = Builder()
    x = b.input(1, 64, 8, 8)
    model = b.model(b.op("ConvTranspose", x, b.normal(64, 64, 4, 4), strides=[2, 2], pads=[1] * 4))
    live = 64 * 64 * (8 * 4 - 2) ** 2
    for graph, share in zip(graphs_of(model), (0.66, 0.86), strict=True):
        strict = estimate_us(graph, "fp32") - estimate_us(graph, "tf32")
        assert strict == pytest.approx(live / share * (1 / 30e6 - 1 / 197.5e6))


def test_a_pool_is_estimated_at_its_bytes_in_either_layout():
    native, swapped = graphs_of(model_of_a_pool())
    bytes_moved = 4 * 8 * (12 * 10 + 6 * 5)
    for graph in (native, swapped):
        (pool,) = (node for node in graph if "MaxPool" in node.op_type)
        assert _node_us(pool, "tf32") == pytest.approx(1.1 + bytes_moved / 4.3e6)


def test_the_estimate_fits_what_was_measured():
    """Both sides' float16 layers on the H200: a third off in geomean, and the swap is never misjudged.

    A native layer was timed with a Transpose at either end.
    """
    measured = json.loads((ROOT / "benchmarks" / "results" / "layers-h200.json").read_text())["rows"]
    layers = {layer.name: layer for layer in LAYERS}
    off = {"ours_us": [], "ort_us": []}
    for row in (row for row in measured if row["dtype"] == "fp16"):
        layer = layers[row["name"]]
        b = Builder(TensorProto.FLOAT16)
        names = ("strides", "dilations")
        attributes = {name: [n] * 2 for name, n in zip(names, (layer.stride, layer.dilation), strict=True)}
        if layer.transposed:
            attributes["output_padding"] = [layer.output_padding] * 2
        w = b.constant(np.zeros(layer.w_shape, np.float16))
        y = b.op(layer.op, b.input(*layer.x_shape), w, pads=[layer.pad] * 4, **attributes)
        native, swapped = graphs_of(b.model(y))
        ours = sum(_node_us(node, "tf32") for node in swapped if node.domain == "ort_cks")
        border = estimate_us(swapped, "tf32") - ours
        off["ours_us"].append(ours / row["ours_us"])
        off["ort_us"].append((estimate_us(native, "tf32") + border) / row["ort_us"])
        assert estimate_us(swapped, "tf32") < estimate_us(native, "tf32") + border
    for name, ratios in off.items():
        spread = np.exp(np.abs(np.log(ratios)).mean())
        assert spread < (1.25 if name == "ours_us" else 1.5), (name, spread)


def test_without_a_gpu_what_adds_more_than_it_saves_stays_native(caplog, monkeypatch):
    """A 1x1 on a large map, between Transposes; and a 3x3 that has hardly anything but zeros."""
    monkeypatch.setattr(measure, "default_provider", lambda: "cpu")

    def one(size: int, kernel: int, **attributes) -> onnx.ModelProto:
        b = Builder()
        x = b.input(1, 16, size, size)
        return b.model(b.op("Conv", x, b.normal(16, 16, kernel, kernel), **attributes))

    result = rewrite(one(1024, 1), measure=True, layout="nhwc")
    assert op_types(result) == ["Conv"]
    assert "native is faster: " in result.nodes[0].reason
    assert result.nodes[0].reason.endswith(", by estimate")
    assert "No GPU to measure on" in caplog.text
    dilated = one(33, 3, pads=[24] * 4, dilations=[24, 24])
    result = rewrite(dilated, measure=True, layout="nhwc")
    assert op_types(result) == ["Transpose", "SkDilated", "Transpose"]
    assert result.nodes[0].reason.endswith(", by estimate")


def test_serialized_regions_stand_alone():
    native, swapped = graphs_of(model_of_two())
    for graph in (native, swapped):
        onnx.checker.check_model(serialize_inline(ir.Model(graph, ir_version=8)))
