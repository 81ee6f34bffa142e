"""The suite's geometry against ONNX Runtime convolving ones, its floors against numbers worked by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # last, so that the installed ort_cks is found before the checkout's

from benchmarks import random_layers, results_file  # noqa: E402
from benchmarks.suite import BANDWIDTH, LAYERS, MODELS, PEAK_FLOPS, Layer, live_pairs  # noqa: E402

BY_NAME = {layer.name: layer for layer in LAYERS}


def convolve_ones(layer: Layer) -> np.ndarray:
    """Each output is the number of taps that read a pixel, since every product is 1."""
    attributes = {
        "strides": [layer.stride] * 2,
        "pads": [layer.pad] * 4,
        "dilations": [layer.dilation] * 2,
        **({"output_padding": [layer.output_padding] * 2} if layer.transposed else {}),
    }
    graph = helper.make_graph(
        [helper.make_node(layer.op, ["x", "w"], ["y"], **attributes)],
        "ones",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in "xw"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": np.ones(layer.x_shape, np.float32), "w": np.ones(layer.w_shape, np.float32)}
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("layer", [*LAYERS, *random_layers.draw(60, 0)], ids=lambda layer: layer.name)
def test_shapes_and_nonzero_macs(layer):
    single = replace(layer, n=1, c=1, k=1)
    counts = convolve_ones(single)
    assert single.y_shape == counts.shape
    assert single.nonzero_macs == counts.sum()
    assert layer.nonzero_macs == single.nonzero_macs * layer.n * layer.c * layer.k
    assert layer.zero_fraction == pytest.approx(1 - counts.mean() / layer.kernel**2)
    elements = sum(np.prod(shape) for shape in (layer.x_shape, layer.w_shape, layer.y_shape))
    for dtype, size in {"fp16": 2, "tf32": 4, "fp32": 4}.items():
        arithmetic = 2.0 * counts.sum() * layer.n * layer.c * layer.k / PEAK_FLOPS[dtype]
        assert layer.floor_us(dtype) == pytest.approx(max(arithmetic, elements * size / BANDWIDTH) * 1e6)


def test_the_suite_is_whole():
    assert len(LAYERS) == len(BY_NAME) == 28
    assert sum(layer.transposed for layer in LAYERS) == 16
    assert sum(layer.dilation > 1 for layer in LAYERS) == 6
    assert len(MODELS) == 11


def test_live_pairs_of_one_axis():
    assert live_pairs(outputs=4, inputs=4, kernel=3, stride=1, pad=1, dilation=1) == 10
    assert live_pairs(outputs=33, inputs=33, kernel=3, stride=1, pad=36, dilation=36) == 33
    assert live_pairs(outputs=1, inputs=1, kernel=4, stride=2, pad=1, dilation=1) == 1


@pytest.mark.parametrize(
    ("name", "dtype", "floor_us"),
    [
        # 128 images, 512 to 512 channels, 100 of 144 taps alive; at 790, 395 and 60 TFLOP/s.
        ("conv512_4_b128", "fp16", 2 * 128 * 512 * 512 * 100 / 790e6),
        ("conv512_4_b128", "tf32", 2 * 128 * 512 * 512 * 100 / 395e6),
        ("conv512_4_b128", "fp32", 2 * 128 * 512 * 512 * 100 / 60e6),
        # One pixel in, four out, 512 by 512 channels by 16 taps of weights, which bound it at 4.3 TB/s.
        ("pix2pix_u1_b1", "fp16", 2 * (512 + 512 * 512 * 16 + 4 * 512) / 4.3e6),
        ("pix2pix_u1_b1", "fp32", 4 * (512 + 512 * 512 * 16 + 4 * 512) / 4.3e6),
    ],
)
def test_floors(name, dtype, floor_us):
    assert BY_NAME[name].floor_us(dtype) == pytest.approx(floor_us)


def test_batches_are_cut_not_grown():
    assert BY_NAME["pose_d3_b32"].with_batch_at_most(4).n == 4
    assert BY_NAME["pose_d3_b1"].with_batch_at_most(4).n == 1


def test_results_are_json_after_every_row(tmp_path):
    import json

    path = tmp_path / "rows.json"
    rows = [
        {"name": "a", "ours_us": 1.0, "ort_us": 4.0},
        {"name": "b", "ours_us": 1.0, "ort_us": 1.0},
        {"name": "c"},
    ]
    results_file.write(path, {"machine": "m"}, rows)
    assert json.loads(path.read_text()) == {"header": {"machine": "m"}, "rows": rows}
    assert results_file.ratios(rows, "ort_us", "ours_us") == [4.0, 1.0]
    assert results_file.geomean([4.0, 1.0]) == pytest.approx(2.0)


def test_the_cpu_benchmark_times_both_sides(tmp_path):
    import json
    import subprocess

    path = tmp_path / "layers.json"
    command = [
        "-m",
        "benchmarks.layers",
        "--provider",
        "cpu",
        "--batch",
        "1",
        "--only",
        "dcgan_g4",
        "--json",
        str(path),
    ]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())["rows"]
    assert row["ours_us"] > 0
    assert row["ort_us"] > 0
    assert row["max_error"] < 1e-4
    assert "x ort as geomean of 1 layers" in done.stdout
