"""The comparer, through its command line and its function."""

import json
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ort_cks
from ort_cks.comparison import BadInput
from ort_cks.comparison.cli import main
from ort_cks.comparison.errors import Tolerance, output_error, tolerance_for
from ort_cks.comparison.inputs import make_inputs
from ort_cks.comparison.reference import upcast
from ort_cks.comparison.timing import interleaved
from ort_cks.graph_rewrite.load import load

FAST = ["--provider", "cpu", "--warmup", "1", "--runs", "3"]


def two_layers(dtype=TensorProto.FLOAT, batch=2, scale=1.0, size=6):
    """Conv, Relu and a ConvTranspose that is `scale` times as strong; x [batch, 3, size, size]."""
    numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
    random = np.random.default_rng(1)
    w = (random.standard_normal((8, 3, 3, 3)) / 5).astype(numpy_type)
    v = (random.standard_normal((8, 4, 4, 4)) / 8 * scale).astype(numpy_type)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("ConvTranspose", ["b", "v"], ["y"], name="second", strides=[2, 2], pads=[1] * 4),
    ]
    size_out = 2 * size if isinstance(size, int) else None
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info("x", dtype, [batch, 3, size, size])],
        [helper.make_tensor_value_info("y", dtype, [batch, 4, size_out, size_out])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(two_layers(), path)
    return path


def saved(tmp_path, proto, name="other.onnx"):
    path = tmp_path / name
    onnx.save(proto, path)
    return str(path)


def test_a_rewritten_model_is_equal_and_runs_in_our_ops(model, tmp_path, capsys):
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    assert main([str(model), *FAST, "--json", str(report), "--html", str(page)]) == 0
    found = json.loads(report.read_text())
    assert found["ok"]
    assert found["precision"] == "fp32"
    assert found["nodes_in_our_ops"] == found["convolutions"] == 2
    assert {node["ran_as"] for node in found["nodes"]} == {"ConvV2", "KSDeconv"}
    assert {node["provider"] for node in found["nodes"]} == {"CPUExecutionProvider"}
    assert next(node for node in found["nodes"] if node["name"] == "first")["fused"] == ["Transpose", "Relu"]
    assert 0 < found["ours"]["max_error"] < 1e-5
    assert found["baseline"]["max_error"] == 0  # on the CPU the baseline is the reference
    for side in (found["ours"], found["baseline"]):
        assert len(side["runs_ms"]) == 3
        assert 0 < side["min_ms"] <= side["p50_ms"] <= side["p90_ms"] <= side["p99_ms"]
    assert found["speedup"] == pytest.approx(found["baseline"]["p50_ms"] / found["ours"]["p50_ms"])

    text = capsys.readouterr().out
    assert "2 of 2 convolutions ran in ort_cks operators on CPUExecutionProvider" in text
    assert "outputs are equal within" in text
    html = page.read_text()
    assert "second" in html
    assert "<svg" in html
    assert not re.search(r"(src|href)\s*=|https?:|@import|url\(", html), (
        "the page needs something from elsewhere"
    )


def test_a_pool_of_ours_is_no_convolution(tmp_path, capsys):
    proto = two_layers()
    pool = helper.make_node("MaxPool", ["b"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2])
    proto.graph.node.insert(2, pool)
    proto.graph.node[3].input[0] = "p"
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 6, 6]))
    report = tmp_path / "report.json"
    original, rewritten = saved(tmp_path, proto), tmp_path / "rewritten.onnx"
    ort_cks.rewrite(original).save(rewritten)
    assert "MaxPoolNhwc" in {node.op_type for node in onnx.load(rewritten).graph.node}
    assert main([original, str(rewritten), *FAST, "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert [node["name"] for node in found["nodes"]] == ["first", "second"]
    assert found["nodes_in_our_ops"] == found["convolutions"] == 2
    assert found["ours"]["max_error"] < 1e-5


def test_zeros_are_counted_in_a_rewritten_file_as_in_memory(model, tmp_path):
    rewritten = tmp_path / "model.cks.onnx"
    ort_cks.rewrite(model).save(rewritten)
    given = ort_cks.compare(model, rewritten, provider="cpu", warmup=0, runs=1)
    made = ort_cks.compare(model, provider="cpu", warmup=0, runs=1)
    assert given.ok
    zeros = {node.name: node.zero_fraction for node in given.nodes}
    assert zeros == pytest.approx({node.name: node.zero_fraction for node in made.nodes})
    # 3x3 pad 1 on 6x6: each axis reads 16 of 18 taps. 4x4 stride 2 pad 1 to 12x12: 22 of 48.
    assert zeros == pytest.approx({"first": 1 - (16 / 18) ** 2, "second": 1 - (22 / 48) ** 2})


def test_a_wrong_rewritten_model_is_found(model, tmp_path, capsys):
    other = saved(tmp_path, two_layers(scale=1.01))
    assert main([str(model), other, *FAST]) == 1
    text = capsys.readouterr().out
    assert "OUTPUTS DIFFER: y: " in text
    assert "none of 2 convolutions ran in an ort_cks operator" in text
    assert main([str(model), other, *FAST, "--rtol", "0.02"]) == 0


def test_float16_is_compared_with_a_float32_run(tmp_path):
    result = ort_cks.compare(two_layers(TensorProto.FLOAT16), provider="cpu", warmup=0, runs=1)
    assert result.precision == "fp16"
    assert result.reference == "the original in float32"
    assert result.ok
    assert 1e-5 < result.ours.max_error < 5e-3
    assert 1e-5 < result.baseline.max_error < 5e-3


def test_the_reference_is_float32_inside_too(tmp_path):
    proto = two_layers(TensorProto.FLOAT16)
    constant = numpy_helper.from_array(np.array(2, np.float16), "two")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["two"], value=constant))
    proto.graph.node.insert(1, helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE))
    proto.graph.node.insert(2, helper.make_node("Cast", ["wide"], ["narrow"], to=TensorProto.FLOAT16))
    proto.graph.node.insert(3, helper.make_node("Mul", ["narrow", "two"], ["x2"]))
    proto.graph.node[4].input[0] = "x2"
    model = onnx.load(upcast(load(proto), tmp_path / "float.onnx"))
    onnx.checker.check_model(model, full_check=True)
    types = [tensor.data_type for tensor in model.graph.initializer]
    types += [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    types += [node.attribute[0].t.data_type for node in model.graph.node if node.op_type == "Constant"]
    assert set(types) == {TensorProto.FLOAT}
    casts = [node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"]
    assert casts == [TensorProto.DOUBLE, TensorProto.FLOAT]
    (w, *_) = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(w, numpy_helper.to_array(proto.graph.initializer[0]))


def test_a_baseline_that_cannot_run_is_reported(capsys, tmp_path):
    # ONNX Runtime has no bfloat16 Conv on the CPU; ours does, and the reference runs in float32.
    path = saved(tmp_path, two_layers(TensorProto.BFLOAT16))
    assert main([path, *FAST]) == 0
    text = capsys.readouterr().out
    assert "baseline failed: " in text
    assert "speed-up: none" in text
    assert "2 of 2 convolutions" in text


def test_an_open_batch_is_taken_as_one_and_said(tmp_path, capsys):
    path = saved(tmp_path, two_layers(batch="N"))
    assert main([path, *FAST]) == 0
    assert "input 'x': batch N taken as 1" in capsys.readouterr().out
    result = ort_cks.compare(path, provider="cpu", input_shapes={"x": (5, 3, 6, 6)}, warmup=0, runs=1)
    assert result.inputs == {"x": "float32 [5, 3, 6, 6]"}


def test_inputs_can_be_given_as_files(model, tmp_path, capsys):
    x = tmp_path / "x.npy"
    np.save(x, np.full((2, 3, 6, 6), np.nan))  # float64, cast to the model's float32
    report = tmp_path / "report.json"
    assert main([str(model), *FAST, "--input", f"x={x}", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["ours"]["nonfinite"] == 2 * 4 * 12 * 12


def test_integer_inputs_are_valid_indices():
    table = numpy_helper.from_array(np.random.default_rng(0).random((7, 3, 5, 5), np.float32), "table")
    w = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Gather", ["table", "i"], ["x"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "gather",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [50])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [50, 2, 3, 3])],
        [table, w],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds, _ = make_inputs(load(proto), {}, {}, seed=0)
    assert set(feeds["i"]) == set(range(7))
    assert ort_cks.compare(proto, provider="cpu", warmup=0, runs=1).ok


def bad_calls(tmp_path):
    good = str(tmp_path / "model.onnx")
    for name, content in (("empty.onnx", b""), ("noise.onnx", b"\x93" * 99), ("x.npy", b"no array")):
        (tmp_path / name).write_bytes(content)
    open_size = saved(tmp_path, two_layers(size="S"), "open.onnx")
    stranger = two_layers()
    stranger.graph.node[-1].output[0] = stranger.graph.output[0].name = "z"
    yield "missing", [str(tmp_path / "missing.onnx")], "does not exist"
    yield "folder", [str(tmp_path)], "is a directory"
    yield "empty", [str(tmp_path / "empty.onnx")], "is empty"
    yield "noise", [str(tmp_path / "noise.onnx")], "not an ONNX model"
    yield "stranger", [good, saved(tmp_path, stranger, "stranger.onnx")], "different outputs: y against z"
    yield "open size", [open_size], "--input-shape x:2,3,S,S"
    yield "shape syntax", [good, "--input-shape", "x=1,3"], "--input-shape takes"
    yield "shape rank", [good, "--input-shape", "x:2,3,6"], "is [2, 3, 6, 6] in the model, not [2, 3, 6]"
    yield "shape name", [good, "--input-shape", "q:1"], "no input 'q'; its inputs are: x"
    yield "no array", [good, "--input", f"x={tmp_path / 'x.npy'}"], "as a .npy array"
    yield "no file", [good, "--input", f"x={tmp_path / 'none.npy'}"], "none.npy"
    yield "runs", [good, "--runs", "0"], "runs at least 1"
    yield "tolerance", [good, "--rtol", "-1"], "rtol and atol must be at least 0"
    yield "option", [good, "--nonsense"], "--nonsense"
    yield "graph on the CPU", [good, "--cuda-graph"], "CUDA graph needs the cuda provider"
    yield "over a model", [good, "--json", good], "model.onnx is one of the models"
    yield "unwritable", [good, "--json", str(tmp_path / "none" / "report.json")], "is not a folder"


def test_bad_calls_are_one_line_and_exit_2(model, tmp_path, capsys):
    for what, arguments, message in bad_calls(tmp_path):
        try:
            status = main([*arguments, *([] if "--runs" in arguments else FAST)])
        except SystemExit as exit_:  # argparse's way
            status = exit_.code
        captured = capsys.readouterr()
        assert status == 2, what
        assert captured.out == "", what
        assert captured.err.count("\n") == 1, captured.err
        assert message in captured.err, what
        assert not list(tmp_path.glob("*.part")), what


def test_the_plot_is_a_png(model, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "latencies.png"
    assert main([str(model), *FAST, "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_is_refused(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main([str(model), *FAST, "--plot", str(tmp_path / "latencies.png")]) == 2
    assert "needs matplotlib" in capsys.readouterr().err


def test_the_function_refuses_what_it_cannot_do(model):
    with pytest.raises(BadInput, match="provider is cpu or cuda"):
        ort_cks.compare(model, provider="tpu")


@pytest.mark.parametrize(
    ("got", "reference", "beyond"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.3], [1.0, 2.0], 1),
        ([np.nan, 2.0], [1.0, 2.0], 1),
        ([np.nan, np.inf], [np.nan, np.inf], 0),
        ([np.inf, 1.0], [-np.inf, 1.0], 1),
        ([3, 4], [3, 5], 1),
        ([True, False], [True, False], 0),
    ],
)
def test_elements_beyond_the_tolerance(got, reference, beyond):
    error = output_error("y", np.array(got), np.array(reference), Tolerance(rtol=0.1, atol=0.01))
    assert error.beyond == beyond
    assert error.ok == (beyond == 0)


def test_atol_scales_with_the_output_unless_the_user_sets_it():
    reference = np.array([1000.0, -1000.0, 0.0])
    got = reference + 0.5
    assert output_error("y", got, reference, Tolerance(rtol=0, atol=1e-3)).ok  # rms 816
    assert not output_error("y", got, reference, tolerance_for("fp32", rtol=0, atol=0.1)).ok
    assert output_error("y", got[:2], reference, Tolerance(1, 1)).problem == "shape (2,), not (3,)"


def test_runs_are_interleaved():
    order = []
    latencies = interleaved([lambda: order.append("a"), lambda: order.append("b")], warmup=2, runs=3)
    assert order == ["a", "b"] * 5
    assert [len(latency.runs_ms) for latency in latencies] == [3, 3]
