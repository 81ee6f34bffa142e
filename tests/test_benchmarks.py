"""What the benchmarks of layers share: models, sums, tables and pictures; and on a GPU, rows of times."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # last, so that the installed ort_cks is found before the checkout's

from benchmarks import (  # noqa: E402
    contenders,
    gpu,
    kernel_kinds,
    layer_models,
    paper,
    portable,
    random_layers,
    report,
    results_file,
    sweeps,
)
from benchmarks.suite import DTYPES, LAYERS, Layer  # noqa: E402
from benchmarks.torch_side import compute  # noqa: E402
from ort_cks.comparison.sessions import BoundSession, Way  # noqa: E402
from ort_cks.comparison.timing import Latency  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
# Both filters, both strides, a map that a stride of 2 does not divide, a dilation.
CONVOLUTIONS = (
    Layer("k3", "Conv", 2, 5, 6, 6, 7, 3, pad=1),
    Layer("k3s2", "Conv", 2, 5, 6, 6, 7, 3, stride=2, pad=1),
    Layer("k3s2_odd", "Conv", 2, 5, 7, 7, 7, 3, stride=2, pad=1),
    Layer("k5s2", "Conv", 3, 4, 2, 2, 3, 5, stride=2, pad=2),
    Layer("k3d2", "Conv", 1, 4, 9, 9, 3, 3, pad=2, dilation=2),
)


def operands(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    return layer_models.operands(layer, "fp32")


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=lambda layer: layer.name)
class TestTheThreeOperators:
    def gradients(self, convolution):
        """dy, w and x of a Conv in float64, and the gradients of x and w that PyTorch's autograd finds."""
        x, w = (torch.from_numpy(array).double().requires_grad_() for array in operands(convolution))
        dy = torch.from_numpy(operands(convolution.weight_gradient())[1]).double()
        y = torch.conv2d(x, w, None, convolution.stride, convolution.pad, convolution.dilation)
        y.backward(dy)
        return dy, w.detach(), x.detach(), x.grad, w.grad

    def test_input_gradient(self, convolution):
        dy, w, _, wanted, _ = self.gradients(convolution)
        torch.testing.assert_close(compute(convolution.input_gradient(), dy, w), wanted)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_weight_gradient(self, convolution, layout):
        dy, _, x, _, wanted = self.gradients(convolution)
        torch.testing.assert_close(compute(convolution.weight_gradient(), x, dy, layout), wanted)

    @pytest.mark.parametrize("operator", paper.OPERATORS)
    def test_ours_computes_the_same(self, convolution, operator, tmp_path):
        layer = paper.operator_of(convolution, operator)
        x, second = operands(layer)
        path = tmp_path / "ours.onnx"
        layer_models.write_ours(path, layer, "fp32", second, copies=2)
        way = Way("ours", path, "cpu", with_library=True)
        outputs = BoundSession(way, layer_models.feeds(layer, x, second)).outputs()
        wanted = compute(layer, *(torch.from_numpy(array).double() for array in (x, second))).numpy()
        if operator != "weight_gradient":
            wanted = wanted.transpose(0, 2, 3, 1)
        assert sorted(outputs) == ["y0", "y1"]
        for result in outputs.values():
            assert result.shape == layer_models.result_shape(layer)
            np.testing.assert_allclose(result, wanted, atol=1e-5)

    def test_all_have_the_work_of_the_forward_pass(self, convolution):
        for operator in paper.OPERATORS:
            layer = paper.operator_of(convolution, operator)
            assert layer.nonzero_macs == convolution.nonzero_macs
            assert layer.floor_us("fp16") == pytest.approx(convolution.floor_us("fp16"))


def test_native_models_hold_the_weights(tmp_path):
    import onnxruntime as ort

    layer = Layer("deconv", "ConvTranspose", 1, 3, 4, 4, 2, 4, stride=2, pad=1)
    x, w = operands(layer)
    layer_models.write_native(tmp_path / "native.onnx", layer, "fp32", w, copies=2)
    session = ort.InferenceSession(tmp_path / "native.onnx", providers=["CPUExecutionProvider"])
    wanted = torch.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(w), stride=2, padding=1).numpy()
    for result in session.run(None, {"x": np.ascontiguousarray(x)}):
        np.testing.assert_allclose(result, wanted, atol=1e-5)


def test_operands_keep_the_size_of_the_signal():
    for convolution in (LAYERS[21], LAYERS[3]):  # conv256_14_b32, and a transposed one
        single = replace(convolution, n=1)
        y = compute(single, *(torch.from_numpy(array) for array in operands(single)))
        assert 0.7 < float(y.std()) < 1.1


class TestRandomLayers:
    def test_a_seed_means_the_same_layers_everywhere(self):
        drawn = [layer.description for layer in random_layers.draw(60, 0)]
        assert drawn == [layer.description for layer in random_layers.draw(60, 0)]
        assert drawn[:8] == [layer.description for layer in random_layers.draw(8, 0)]
        assert drawn[:4] == [
            "64x320x16x16 to 64, k4 s2 p1",
            "1x512x4x4 to 512, k4 s2 p1",
            "16x384x8x6 to 192, k4 s2 p1",
            "16x512x16x16 to 128, k2 s2",
        ]
        assert drawn != [layer.description for layer in random_layers.draw(60, 1)]

    @pytest.mark.parametrize("seed", range(3))
    def test_layers_are_within_their_family(self, seed):
        for layer in random_layers.draw(60, seed):
            family = random_layers.FAMILIES[layer.name.rpartition("_")[0]]
            assert layer.op == family.op
            for value, allowed in ((layer.n, family.n), (layer.c, family.c), (layer.k, family.k)):
                assert value in allowed
            assert layer.h in family.size
            assert layer.w == int(layer.h * family.aspect)
            defaults = {"stride": 1, "pad": 0, "dilation": 1, "output_padding": 0}
            names = ("kernel", *defaults)
            geometry = {name: getattr(layer, name) for name in names}
            assert geometry in [defaults | dict(allowed) for allowed in family.geometry]
            assert layer.floor_us("fp16") <= random_layers.LONGEST_FLOOR_US

    def test_none_is_of_the_suite_and_none_comes_twice(self):
        drawn = {replace(layer, name="") for layer in random_layers.draw(60, 0)}
        assert len(drawn) == 60
        assert not drawn & {replace(layer, name="") for layer in LAYERS}


class TestContenders:
    """Each action's time is what the fake clock says."""

    @pytest.fixture
    def times(self, monkeypatch):
        rounds = []

        def interleaved(actions, warmup, runs):
            rounds.append((len(actions), runs))
            return [Latency((action(),)) for action in actions]

        monkeypatch.setattr(contenders, "interleaved", interleaved)
        return rounds

    def test_the_fastest_of_a_column_counts_by_the_copy(self, times):
        timed = contenders.Contenders()
        timed.add("torch_us", lambda: [lambda: 2.2, lambda: 2.0], copies=10, overhead_ms=0.5)
        timed.add("ours_us", lambda: [lambda: 1.0])
        assert timed.times_us() == {"torch_us": 150.0, "ours_us": 1000.0}
        assert times == [(3, contenders.WARMUP), (3, contenders.MOST_RUNS)]

    def test_the_hopeless_are_not_timed_twice(self, times):
        timed = contenders.Contenders()
        timed.add("torch_us", lambda: [lambda: 30.0, lambda: 10.0])
        assert timed.times_us() == {"torch_us": 10000.0}
        assert times == [(2, contenders.WARMUP), (1, 30)]  # as many as fit in 300 ms

    def test_a_slow_one_still_has_a_median(self, times):
        timed = contenders.Contenders()
        timed.add("torch_us", lambda: [lambda: 1000.0])
        timed.times_us()
        assert times[-1] == (1, contenders.FEWEST_RUNS)

    def test_alone(self, times):
        timed = contenders.Contenders()
        timed.add("torch_us", lambda: [lambda: 30.0, lambda: 10.0])
        timed.add("ours_us", lambda: [lambda: 1.0])
        assert timed.times_alone_us() == {"torch_us": 10000.0, "ours_us": 1000.0}
        assert {count for count, _ in times} == {1}

    def test_a_side_that_fails_costs_only_its_column(self, times):
        def fails():
            raise RuntimeError("no\nkernel")

        timed = contenders.Contenders()
        timed.add("ort_us", fails)
        timed.add("ours_us", lambda: [lambda: 1.0])
        assert timed.times_us() == {"ours_us": 1000.0}
        assert timed.failures == {"ort_us": "no kernel"}
        assert contenders.Contenders().times_us() == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies(dtype):
    for layer in (*LAYERS, *random_layers.draw(60, 0)):
        copies = gpu.copies_of(layer, dtype)
        assert gpu.FEWEST_COPIES <= copies <= gpu.MOST_COPIES
        weights = copies * layer.c * layer.k * layer.kernel**2 * (2 if dtype == "fp16" else 4)
        assert copies == gpu.FEWEST_COPIES or weights <= gpu.WEIGHTS_LIMIT


def test_without_a_gpu_programs_say_so(monkeypatch):
    monkeypatch.setattr(gpu, "default_provider", lambda: "cpu")
    with pytest.raises(SystemExit, match="no GPU that ONNX Runtime can reach"):
        gpu.require_gpu()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="PyTorch is needed"):
        gpu.require_gpu()


def test_the_paper_covers_what_it_compares():
    convolutions = list(paper.convolutions())
    assert len({layer.name for layer in convolutions}) == len(convolutions)
    assert {layer.h for layer in convolutions} == {2, 4, 8, 16, 32, 64, 128}
    assert {layer.n for layer in convolutions} == {1, 32, 128, 256}
    for size in (2, 4, 8, 16, 32, 64, 128):
        geometries = {(layer.kernel, layer.stride) for layer in convolutions if layer.h == size}
        assert geometries == {(3, 1), (3, 2), (5, 1), (5, 2)}
    for layer in convolutions:
        assert layer.n * layer.c * layer.h * layer.w <= paper.MOST_ELEMENTS
        assert layer.y_shape[2] == layer.h // layer.stride
        assert layer.input_gradient().y_shape == layer.x_shape


def test_sweeps_change_one_size():
    points = list(sweeps.points())
    reach = {
        size: sorted({p.value for p in points if p.size == size}) for size in ("batch", "map", "channels")
    }
    assert {size: (values[0], values[-1]) for size, values in reach.items()} == {
        "batch": (1, 256),
        "map": (2, 128),
        "channels": (32, 2048),
    }
    assert {p.layer.dilation for p in points if p.size == "dilation"} >= {1, 36}
    for point in points:
        field = {"batch": "n", "map": "h", "channels": "c", "dilation": "dilation"}[point.size]
        assert getattr(point.layer, field) == point.value
        assert point.layer.y_shape[2] == point.layer.h * point.layer.stride


def timed_rows(jobs) -> list[dict]:
    """Rows as the programs write them, with made-up times; one has failed."""
    rng = np.random.default_rng(0)
    rows = []
    for layer, dtype, facts in jobs:
        floor = layer.floor_us(dtype)
        ours, theirs = floor * rng.uniform(1.2, 3), floor * rng.uniform(1, 9)
        row = {"name": layer.name, "dtype": dtype, **facts, "ours_us": ours, "torch_us": theirs}
        rows.append(row | {"floor_us": floor, "max_error": 1e-3})
    del rows[1]["torch_us"]
    return rows


@pytest.fixture
def results(tmp_path):
    """A folder with results of every program; those of the suite are the committed ones."""
    header, layers = results_file.read(RESULTS / "layers-h200.json")
    random = [
        (layer, dtype, {"shape": layer.description, "seed": 0})
        for dtype in DTYPES
        for layer in random_layers.draw(60, 0)
    ]
    swept = [(p.layer, "fp16", {"size": p.size, "value": p.value}) for p in sweeps.points()]
    compared = [
        (layer, dtype, {"operator": operator, **paper.facts(layer)})
        for layer in paper.convolutions()
        for operator in paper.OPERATORS
        for dtype in DTYPES
    ]
    rows = {"random": timed_rows(random), "sweeps": timed_rows(swept), "paper": timed_rows(compared)}
    for name, of_name in {"layers": layers, **rows}.items():
        results_file.write(tmp_path / f"{name}-h200.json", header, of_name)
    for name in ("models", "portable"):
        shutil.copy(RESULTS / f"{name}-h200.json", tmp_path)
    return tmp_path


def cells(table: str, begins: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {begins} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void cks::cuda::hopper::hopper_conv<...>", "ort_cks"),
        ("void cks::cuda::<unnamed>::max_pool<__half, 8, 2>", "pooling"),
        ("void cks::cuda::<unnamed>::relu_each_kernel<__half>", "activation, arithmetic"),
        ("void cudnn::pooling_fw_4d_kernel<__half, float>", "pooling"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__half>", "layout"),
        ("void op_tensor_kernel_alpha2_zero<4, __half, float>", "bias"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32", "convolution"),
        ("void onnxruntime::cuda::_UnaryElementWise<__half>", "activation, arithmetic"),
        ("something_else", "other"),
    ],
)
def test_kinds_of_kernels(kernel, kind):
    assert kernel_kinds.kind_of(kernel) == kind


def test_time_while_kernels_are_at_work():
    found = [("a", 0.0, 10.0), ("b", 8.0, 12.0), ("c", 9.0, 11.0), ("a", 20.0, 25.0)]
    assert portable.time_at_work(found) == 17.0


class TestReport:
    def test_the_page_is_what_the_results_say(self):
        page = ROOT / "docs" / "results.md"
        assert report.fill(page.read_text(), RESULTS) == page.read_text(), "run python -m benchmarks.report"

    def test_every_row_of_the_suite(self):
        _, rows = results_file.read(RESULTS / "layers-h200.json")
        for (_,), of_type in results_file.grouped(rows, "dtype").items():
            table = report.times(of_type)
            headings = cells(table, "name")
            for row in of_type:
                line = dict(zip(headings, cells(table, row["name"]), strict=True))
                for column, heading in report.HEADINGS.items():
                    if column in row:
                        assert float(line[heading]) == pytest.approx(row[column], abs=0.00501)
                assert float(line["over PyTorch"]) == pytest.approx(
                    row["torch_us"] / row["ours_us"], abs=0.00501
                )
                assert float(line["floors"]) == pytest.approx(row["ours_us"] / row["floor_us"], abs=0.00501)

    def test_every_model(self):
        _, rows = results_file.read(RESULTS / "models-h200.json")
        for (_,), of_type in results_file.grouped(rows, "dtype").items():
            table = report.models(of_type)
            times, kinds = (table.split("µs")[at] for at in (-2, -1))
            for row in of_type:
                line = dict(zip(cells(times, "name"), cells(times, row["name"]), strict=True))
                assert float(line["ort_cks"]) == pytest.approx(row["ours_us"], abs=0.0501)
                if "ort_us" in row:
                    assert float(line["over ONNX Runtime"]) == pytest.approx(
                        row["ort_us"] / row["ours_us"], abs=0.00501
                    )
                line = dict(zip(cells(kinds, "name"), cells(kinds, row["name"]), strict=True))
                for kind, us in row.get("kernels_us", {}).items():
                    assert float(line[kind].split(" / ")[0]) == pytest.approx(us, abs=0.501)

    def test_a_model_that_ours_does_not_run_or_that_a_side_was_not_asked_to(self):
        rows = [
            {"name": "runs", "dtype": "fp16", "ours_us": 10.0, "ort_us": 20.0, "compile_us": 15.0},
            {"name": "fails", "dtype": "fp16", "ort_us": 20.0, "failures": {"ours_us": "no such kernel"}},
        ]
        times = report.models(rows).split("µs")[-2]
        line = dict(zip(cells(times, "name"), cells(times, "fails"), strict=True))
        assert (line["ort_cks"], line["ONNX Runtime"], line["over ONNX Runtime"]) == ("failed", "20.0", "")
        assert line["torch.compile"] == "not timed"

    def test_kernels_that_cudnn_does_not_have_are_left_out(self):
        rows = [
            {"name": "both", "dtype": "fp16", "ours_us": 10.0, "sm80_us": 20.0, "max_error": 2e-3},
            {"name": "ours", "dtype": "fp16", "ours_us": 30.0},
            {"name": "both", "dtype": "tf32", "ours_us": 20.0, "sm80_us": 90.0},
            {"name": "ours", "dtype": "tf32", "ours_us": 20.0, "sm80_us": 10.0},
        ]
        table = report.portable(rows)
        assert cells(table, "fp16") == ["fp16", "1", "2.00 / 2.00", "2.0e-03"]
        assert cells(table, "TF32") == ["TF32", "2", "1.50 / 0.50", "not measured"]
        assert cells(table, "both") == ["both", "10.0", "20.0", "2.00", "20.0", "90.0", "4.50"]
        assert cells(table, "ours") == ["ours", "30.0", "", "", "20.0", "10.0", "0.50"]

    def test_a_summary(self):
        rows = [
            {"dtype": "tf32", "ours_us": 10.0, "torch_us": 20.0, "floor_us": 5.0, "max_error": 1e-3},
            {"dtype": "tf32", "ours_us": 30.0, "torch_us": 240.0, "floor_us": 20.0, "max_error": 3e-3},
            {"dtype": "tf32", "floor_us": 20.0},
        ]
        assert cells(report.summary(rows, "dtype"), "TF32") == [
            "TF32",
            "3",
            "4.00 / 2.00",
            "5.58",  # the root of 20 / 7 times 240 / 22
            "1.50 / 1.50",
            "3.0e-03",
        ]

    def test_sums_of_strict_floats_can_beat_their_floor(self):
        row = {"dtype": "fp32", "ours_us": 2.0, "torch_us": 20.0, "floor_us": 5.0, "max_error": 1e-6}
        assert cells(report.summary([row], "dtype"), "strict fp32")[3] == ""

    def test_every_place_is_filled_and_filled_again_the_same(self, results):
        page = (ROOT / "docs" / "results.md").read_text()
        filled = report.fill(page, results)
        assert "Not measured yet" not in filled
        assert "failed" in filled
        for name, (_, picture) in report.SUMMARIES.items():
            assert (f"({name}.svg)" in filled) == bool(picture)
        assert report.fill(filled, results) == filled

    def test_what_is_not_measured_is_said(self, tmp_path):
        page = (ROOT / "docs" / "results.md").read_text()
        assert report.fill(page, tmp_path).count("Not measured yet.") == len(report.SUMMARIES)

    def test_a_page_without_the_place_is_refused(self, results):
        with pytest.raises(ValueError, match="no <!-- layers --> followed by <!-- end layers -->"):
            report.fill("# Results\n", results)


class TestPlots:
    @pytest.fixture(autouse=True)
    def plots(self):
        pytest.importorskip("matplotlib")
        from benchmarks import plots

        return plots

    def lines(self, panel) -> dict[str, list[tuple[float, float]]]:
        return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in panel.get_lines()}

    def test_the_suite(self, plots):
        _, rows = results_file.read(RESULTS / "layers-h200.json")
        panels = plots.layers(rows).axes
        names = [label.get_text() for label in panels[0].get_yticklabels()]  # the others share them
        for panel, ((dtype,), of_type) in zip(
            panels, results_file.grouped(rows, "dtype").items(), strict=True
        ):
            assert report.TYPE_NAMES[dtype] in panel.get_title()
            for column, label in (("ours_us", "ort_cks"), ("torch_us", "PyTorch + cuDNN")):
                drawn = {names[y]: x for x, y in self.lines(panel)[label]}
                assert drawn == {
                    row["name"]: row[column] / row["floor_us"] for row in of_type if column in row
                }

    def test_the_models(self, plots):
        _, rows = results_file.read(RESULTS / "models-h200.json")
        panels = plots.models(rows).axes
        names = [label.get_text() for label in panels[0].get_yticklabels()]  # the others share them
        for panel, of_type in zip(panels, results_file.grouped(rows, "dtype").values(), strict=True):
            drawn = {names[y]: x for x, y in self.lines(panel)["over ONNX Runtime"]}
            assert drawn == {
                row["name"]: row["ort_us"] / row["ours_us"] for row in of_type if "ort_us" in row
            }

    def test_the_paper(self, plots, results):
        _, rows = results_file.read(results / "paper-h200.json")
        for panel, operator in zip(plots.paper(rows).axes, paper.OPERATORS, strict=True):
            assert panel.get_title() == operator.replace("_", " ")
            assert panel.get_xlim()[0] < 2 < 128 < panel.get_xlim()[1]
            drawn = dict(self.lines(panel)["TF32, geomean"])
            of_map = [
                row
                for row in rows
                if (row["operator"], row["dtype"], row["map"]) == (operator, "tf32", 8) and "torch_us" in row
            ]
            logarithms = [np.log(row["torch_us"] / row["ours_us"]) for row in of_map]
            assert drawn[8] == pytest.approx(np.exp(np.mean(logarithms)))

    def test_sweeps(self, plots, results):
        _, rows = results_file.read(results / "sweeps-h200.json")
        panels = {panel.get_title(): panel for panel in plots.sweeps(rows).axes}
        assert len(panels) == 7
        of_map = [row for row in rows if (row["name"], row["size"]) == ("deconv4x4_s2", "map")]
        lines = self.lines(panels["deconv4x4_s2: map"])
        assert lines["floor, fp16"] == [(row["value"], row["floor_us"]) for row in of_map]
        assert lines["ort_cks, fp16"] == [(row["value"], row["ours_us"]) for row in of_map]

    def test_every_picture_is_drawn_the_same_twice(self, plots, results, tmp_path):
        for name in plots.PICTURES:
            for target in (tmp_path / "a.svg", tmp_path / "b.svg"):
                plots.save(name, results / f"{name}-h200.json", target)
            assert "NVIDIA H200, driver" in (tmp_path / "a.svg").read_text()
            assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", paper.OPERATORS)
def test_rows_of_times(operator, dtype):
    convolution = Layer("conv", "Conv", 4, 64, 8, 8, 64, 3, stride=2, pad=1)
    wanted = gpu.COLUMNS if operator == "forward" else [c for c in gpu.COLUMNS if c != "ort_us"]
    row = gpu.GpuBenchmark(tuple(wanted)).row(paper.operator_of(convolution, operator), dtype)
    assert "failures" not in row
    assert all(row[column] > 0 for column in wanted)
    assert 0 < row["max_error"] < (1e-4 if dtype == "fp32" else 1e-2)
