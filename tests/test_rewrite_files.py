"""Models on disk: what is wrong with one is one sentence, and a written one is whole or not there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rewrite_models import Builder, assert_same_answers

from ort_cks.graph_rewrite import RewriteError, rewrite_model
from ort_cks.graph_rewrite.cli import main
from ort_cks.graph_rewrite.swap_convolution import SwapConvolutionPass


def small_model(opset: int = 17) -> onnx.ModelProto:
    b = Builder(opset=opset)
    return b.model(b.op("Relu", b.op("Conv", b.input("n", 2, 6, 6), b.normal(3, 2, 3, 3), pads=[1] * 4)))


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(small_model(), path)
    return path


def save_external(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(small_model(), path, save_as_external_data=True, location="model.bin", size_threshold=0)
    return path


def command(*arguments, capsys) -> tuple[int, str, str]:
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def truncated(folder: Path) -> Path:
    path = folder / "truncated.onnx"
    whole = small_model().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def without_data(folder: Path) -> Path:
    path = save_external(folder)
    (folder / "model.bin").unlink()
    return path


def with_short_data(folder: Path) -> Path:
    path = save_external(folder)
    os.truncate(folder / "model.bin", 10)
    return path


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def from_the_future(folder: Path) -> Path:
    model = small_model()
    model.opset_import[0].version = 999
    return saved(folder, model)


def optimized(folder: Path) -> Path:
    model = small_model()
    model.graph.node[0].op_type, model.graph.node[0].domain = "FusedConv", "com.microsoft"
    return saved(folder, model)


def with_attributes(folder: Path, **attributes) -> Path:
    model = small_model()
    node = model.graph.node[0]
    del node.attribute[:]
    node.attribute.extend(onnx.helper.make_attribute(*item) for item in attributes.items())
    return saved(folder, model)


def with_inputs(folder: Path, *names: str) -> Path:
    model = small_model()
    model.graph.node[0].input[:] = names
    return saved(folder, model)


BAD_FILES = {
    "missing": (lambda folder: folder / "missing.onnx", "does not exist"),
    "directory": (lambda folder: folder, "is a directory"),
    "empty": (lambda folder: written(folder, "empty.onnx", b""), "is empty"),
    "random bytes": (
        lambda folder: written(folder, "random.onnx", np.random.default_rng(0).bytes(1000)),
        "not an ONNX model",
    ),
    "text": (lambda folder: written(folder, "notes.onnx", b"# Notes\nto be written\n"), "not an ONNX model"),
    "text by its name": (
        lambda folder: written(folder, "notes.txt", b"to be written\n"),
        "not an ONNX model",
    ),
    "truncated": (truncated, "not an ONNX model, or a truncated one"),
    "external data missing": (without_data, "model.bin, which is not beside it"),
    "external data short": (with_short_data, "too short"),
    "unknown opset": (from_the_future, "opset 999"),
    "optimized": (optimized, "rewrite the original export"),
    "pads of another rank": (
        lambda folder: with_attributes(folder, pads=[1] * 3),
        "/conv0.* pads, .* 4 numb",
    ),
    "a stride of zero": (
        lambda folder: with_attributes(folder, strides=[0, 1]),
        "/conv0.* strides, .* least 1",
    ),
    "negative pads": (
        lambda folder: with_attributes(folder, pads=[-1, 0, 0, 0]),
        "/conv0.* pads, .* least 0",
    ),
    "no weights": (lambda folder: with_inputs(folder, "x0"), "/conv0.* has no weights"),
    "an input from nowhere": (
        lambda folder: with_inputs(folder, "x0", "v"),
        "/conv0' reads 'v', which nothing",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(case, tmp_path, capsys):
    make, words = BAD_FILES[case]
    path = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    status, out, err = command(path, "-o", tmp_path / "out.onnx", capsys=capsys)
    assert (status, out) == (2, "")
    assert re.search(words, err)
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(RewriteError, match=words):
        rewrite_model(path)


BAD_CALLS = {
    "no model": ([], "required: model"),
    "unknown option": (["MODEL", "--fast"], "--fast"),
    "bad layout": (["MODEL", "--layout", "nchwc"], "nchwc"),
    "bad report": (["MODEL", "--report", "r.txt"], ".json or .html"),
    "bad check": (["MODEL", "--check", "0"], "not a number of runs"),
    "output is the input": (["MODEL", "-o", "MODEL"], "is the input itself"),
    "output is a directory": (["MODEL", "-o", "FOLDER"], "is a directory"),
    "output in no folder": (["MODEL", "-o", "FOLDER/none/out.onnx"], "is not a folder"),
    "report in no folder": (["MODEL", "--report", "FOLDER/none/out.json"], "is not a folder"),
    "shape without a name": (["MODEL", "--input-shape", "1,2,6,6"], "NAME:1,3,224,224"),
    "shape that is none": (["MODEL", "--input-shape", "x0:1,b,6,6"], "NAME:1,3,224,224"),
    "shape of another input": (["MODEL", "--input-shape", "image:1,2,6,6"], "no such input; it has x0"),
    "shape that contradicts": (["MODEL", "--input-shape", "x0:1,2,6,7"], "does not fit"),
    "shape of another rank": (["MODEL", "--input-shape", "x0:1,2,6"], "does not fit"),
    "shape with a zero": (["MODEL", "--input-shape", "x0:0,2,6,6"], "at least 1"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_is_one_sentence_and_leaves_nothing(case, model_path, capsys):
    arguments, words = BAD_CALLS[case]
    folder = str(model_path.parent)
    arguments = [a.replace("MODEL", str(model_path)).replace("FOLDER", folder) for a in arguments]
    status, out, err = command(*arguments, capsys=capsys)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(model_path.parent.iterdir()) == [model_path]


def test_an_unwritable_folder(model_path, capsys):
    folder = model_path.parent / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere but where the kernel says no
        folder = Path("/proc")
    status, _, err = command(model_path, "-o", folder / "out.onnx", capsys=capsys)
    assert status == 2
    assert "cannot be written" in err
    assert err.count("\n") == 1


def test_the_default_output_the_table_and_the_check(model_path, capsys):
    status, out, err = command(model_path, "--check", "2", capsys=capsys)
    output = model_path.with_name("model.cks.onnx")
    assert (status, err) == (0, "")
    assert "1 of 1 convolutions swapped." in out
    assert "/conv0" in out
    assert "ConvV2" in out
    assert out.count("agrees") == 2
    assert f"Written to {output}" in out
    assert max(map(len, out.split("\n"))) <= 120 or str(model_path) in out
    feeds = {"x0": np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32)}
    assert_same_answers(small_model(), onnx.load(output), feeds)
    assert sorted(p.name for p in model_path.parent.iterdir()) == ["model.cks.onnx", "model.onnx"]


def test_a_dry_run_writes_reports_only(model_path, capsys):
    for suffix in ("json", "html"):
        report = model_path.with_name(f"report.{suffix}")
        status, out, _ = command(model_path, "--dry-run", "-q", "--report", report, capsys=capsys)
        assert (status, out) == (0, "")
    assert sorted(p.name for p in model_path.parent.iterdir()) == ["model.onnx", "report.html", "report.json"]
    report = json.loads(model_path.with_name("report.json").read_text())
    assert (report["convolutions"], report["swapped"], report["output"]) == (1, 1, None)
    (node,) = report["nodes"]
    assert node["name"] == "/conv0"
    assert node["decision"] == "swapped"
    assert node["fused"] == ["Transpose", "Relu", "Transpose"]
    assert node["input_shape"] == ["n", 2, 6, 6]
    assert node["zero_fraction"] is None
    page = model_path.with_name("report.html").read_text()
    assert "/conv0" in page
    assert "<script" not in page
    assert "http" not in page


def test_nothing_to_swap(model_path, capsys):
    status, out, _ = command(model_path, "--exclude", "Conv", capsys=capsys)
    assert status == 3
    assert "an --exclude pattern matches it" in out
    assert sorted(model_path.parent.iterdir()) == [model_path]


def test_a_model_without_convolutions(tmp_path, capsys):
    b = Builder()
    path = saved(tmp_path, b.model(b.op("Relu", b.input(1, 2))))
    status, out, _ = command(path, capsys=capsys)
    assert status == 3
    assert "no Conv or ConvTranspose" in out


def test_a_failed_check_writes_nothing(model_path, capsys, monkeypatch):
    original = SwapConvolutionPass.call

    def shift_and_swap(self, model):
        for node in self._records:
            node.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 2, 2])
        return original(self, model)

    monkeypatch.setattr(SwapConvolutionPass, "call", shift_and_swap)
    status, _, err = command(model_path, "--check", capsys=capsys)
    assert status == 1
    assert "differs" in err
    assert sorted(model_path.parent.iterdir()) == [model_path]


def test_external_data_stays_external_and_is_not_shared(tmp_path):
    path = save_external(tmp_path)
    out = tmp_path / "out.onnx"
    rewrite_model(path, simplify=False).save(out)
    assert (tmp_path / "out.onnx.data").exists()
    (tmp_path / "model.bin").unlink()
    feeds = {"x0": np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32)}
    assert_same_answers(small_model(), onnx.load(out), feeds)


def test_the_originals_weights_are_not_overwritten(tmp_path):
    path = save_external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for initializer in model.graph.initializer:
        next(e for e in initializer.external_data if e.key == "location").value = "out.onnx.data"
    onnx.save(model, path)
    (tmp_path / "model.bin").rename(tmp_path / "out.onnx.data")
    result = rewrite_model(path, simplify=False)
    with pytest.raises(RewriteError, match="holds the original's weights"):
        result.save(tmp_path / "out.onnx")


def test_a_model_of_more_than_2_gb_is_not_read(tmp_path):
    """The weights are a sparse file; folding into them describes new ones."""
    path, channels = tmp_path / "large.onnx", 300_000_000
    b = Builder()
    y = b.op("Conv", b.input(1, channels, 2, 2), "w")
    model = b.model(b.op("Mul", y, b.constant(np.array(2.0))), shape=[1, 2, 2, 2])
    w = model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2, channels, 1, 1])
    w.data_location = onnx.TensorProto.EXTERNAL
    w.external_data.add(key="location", value="large.bin")
    path.write_bytes(model.SerializeToString())
    with open(tmp_path / "large.bin", "wb") as data:
        data.truncate(4 * 2 * channels)
    code = (
        "import resource, sys\n"
        "from ort_cks.graph_rewrite import rewrite_model\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "result = rewrite_model(sys.argv[1], fallback=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, result.nodes[0].fused)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    grown_kib, fused = done.stdout.split(maxsplit=1)
    assert fused.strip() == "['Mul', 'Transpose']"
    assert int(grown_kib) < 100_000


@pytest.mark.parametrize("delay", [0.3, 1.2])
def test_ctrl_c_leaves_no_partial_file(model_path, delay):
    arguments = [sys.executable, "-m", "ort_cks.rewrite", model_path, "--check", "1000000"]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=model_path.parent,
        # What was started in the background, as these tests may be, ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err or process.returncode == -signal.SIGINT
    assert sorted(model_path.parent.iterdir()) == [model_path]


def test_the_model_is_written_though_nobody_reads_the_table(model_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    arguments = [sys.executable, "-m", "ort_cks.rewrite", model_path]
    done = subprocess.run(
        arguments, stdout=write_end, stderr=subprocess.PIPE, text=True, cwd=model_path.parent
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_answers(small_model(), onnx.load(model_path.with_suffix(".cks.onnx")))


def test_help_names_every_option(capsys):
    status, out, _ = command("--help", capsys=capsys)
    assert status == 0
    options = "-o --dry-run --include --exclude --input-shape --layout --precision --measure --no-simplify"
    for option in f"{options} --no-fuse --no-fallback --check --report -q -v".split():
        assert option in out
