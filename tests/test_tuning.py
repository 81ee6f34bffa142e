"""Tiles searched by measurement: what a session may ask for, and on a GPU what the search does to answers.

tests/cpp/tuning_test.cc tests the file that keeps what was found, tests/cpp/hopper_schedule_test.cc which
tiles are tried.
"""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
import pytest
from nodes import PROVIDERS, node_model, representable
from reference import Geometry, assert_close, to_nchw, to_nhwc

import ort_cks

FIRST_LINE = "ort_cks tiles, format 1\n"
SAME = Geometry((3, 3), pads=(1, 1, 1, 1))


@dataclass
class Case:
    """A node whose kernel has a choice of tiles on a Hopper GPU, with random operands, all in NHWC."""

    op: str = "ConvV2"
    geometry: Geometry = field(default_factory=lambda: SAME)
    dtype: str = "float16"
    names: str = "XWB"
    constants: str = "WB"
    precision: str = "tf32"
    activation: str = ""
    split: int = 0  # channels of X, the others being X2's; 0 where X has all

    def __post_init__(self):
        rng = np.random.default_rng(5)
        n, c, k, self.extents = 2, 128, 96, (14, 13)
        w_shape = (c, k) if self.geometry.transposed else (k, c)
        self.terms = c * math.prod(self.geometry.kernel)
        shapes = {
            "X": (n, c, *self.extents),
            "W": (*w_shape, *self.geometry.kernel),
            "B": (k,),
            "Z": (n, k, *self.geometry.output_extents(self.extents)),
        }
        draw = {name: rng.standard_normal(shapes[name]) for name in self.names}
        draw["W"] /= math.sqrt(self.terms)
        self.operands = {name: representable(array, self.dtype) for name, array in draw.items()}

    def inputs(self):
        inputs = {n: to_nhwc(v) if n in "XZ" else v for n, v in self.operands.items()}
        if self.split:
            x = inputs["X"]
            inputs |= {"X": x[..., : self.split].copy(), "X2": x[..., self.split :].copy()}
        return inputs

    def model(self):
        attributes = self.geometry.attributes() | {"layout": "NHWC", "precision": self.precision}
        attributes |= {"activation": self.activation} if self.activation else {}
        attributes |= {"concat": 1} if self.split else {}
        return node_model(self.op, self.inputs(), attributes, self.dtype, tuple(self.constants))

    def feeds(self):
        feed_type = np.float16 if self.dtype == "float16" else np.float32
        return {n: v.astype(feed_type) for n, v in self.inputs().items() if n not in self.constants}

    def check(self, y):
        def sums(operands):
            total = self.geometry.convolve(operands["X"], operands["W"])
            if "B" in operands:
                total += np.asarray(operands["B"], np.float64).reshape(-1, 1, 1)
            return total + operands["Z"] if "Z" in operands else total

        want, magnitude = sums(self.operands), sums({n: abs(v) for n, v in self.operands.items()})
        if self.activation == "Relu":
            want = np.maximum(want, 0)
        tf32 = self.dtype == "float" and self.precision == "tf32"
        assert_close(
            to_nchw(y.astype(np.float64)),
            want,
            magnitude,
            self.terms,
            self.dtype,
            self.geometry.borders(self.extents),
            2.0**-11 if tf32 else 0,
        )


def session(model, provider="cuda", provider_options=None, **options):
    """A session that logs what it searches; without a CUDA graph, unless provider_options are given."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 1
    if provider == "cuda":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider_options = [{"enable_cuda_graph": "0"} if provider_options is None else provider_options]
    return ort_cks.InferenceSession(model, settings, PROVIDERS[provider], provider_options, **options)


# --- What may be asked for, with or without a GPU


def registered(**entries):
    options = onnxruntime.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(f"ort_cks.{key}", value)
    ort_cks.register(options)
    return options


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder, "the tune cache '{}' is a folder; name a file"),
        (
            lambda folder: folder / "none" / "cache",
            "the tune cache '{}' cannot be written: No such file or directory",
        ),
        (
            lambda folder: folder / "thesis",
            "the tune cache '{}' does not begin with 'ort_cks tiles, format 1', so it is no file of this "
            "version's; name another one, or delete it",
        ),
    ],
)
def test_a_cache_that_cannot_be_is_refused_when_the_session_starts(tmp_path, make, expected):
    (tmp_path / "thesis").write_text("Chapter 1\n")
    path = make(tmp_path)
    with pytest.raises(Exception, match="tune cache") as caught:
        session(Case().model(), "cpu", tune_cache=path)
    assert str(caught.value).endswith(expected.format(path))
    assert (tmp_path / "thesis").read_text() == "Chapter 1\n"
    assert os.listdir(tmp_path) == ["thesis"]


def test_entries_of_a_session_are_read_by_every_api(tmp_path):
    registered(tune="0")
    registered(tune="1")
    registered(tune_cache=str(tmp_path / "cache"))
    with pytest.raises(Exception, match=r"entry ort_cks\.tune is 'yes'; it must be 0 or 1"):
        registered(tune="yes")
    with pytest.raises(Exception, match=r"the tune cache '.*' is a folder"):
        registered(tune_cache=str(tmp_path))


def test_pythons_arguments_set_the_entries(tmp_path):
    options = onnxruntime.SessionOptions()
    ort_cks.InferenceSession(Case().model(), options, PROVIDERS["cpu"], tune_cache=tmp_path / "cache")
    assert options.get_session_config_entry("ort_cks.tune_cache") == str(tmp_path / "cache")
    assert options.get_session_config_entry("ort_cks.tune") == "1"
    options = onnxruntime.SessionOptions()
    ort_cks.InferenceSession(Case().model(), options, PROVIDERS["cpu"])
    with pytest.raises(RuntimeError, match=r"ort_cks\.tune"):
        options.get_session_config_entry("ort_cks.tune")


def test_a_library_that_is_registered_does_not_change_its_mind(tmp_path):
    options = onnxruntime.SessionOptions()
    ort_cks.register(options, tune_cache=tmp_path / "cache")
    ort_cks.register(options)
    ort_cks.register(options, tune=True)
    with pytest.raises(Exception, match="have changed since the library was registered"):
        ort_cks.register(options, tune_cache=tmp_path / "another")
    options = onnxruntime.SessionOptions()
    ort_cks.register(options)
    with pytest.raises(Exception, match="set them before, or take new options"):
        ort_cks.register(options, tune=True)


def test_a_relative_cache_stays_where_it_was_named(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    options = registered(tune_cache="../b/cache")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="have changed"):
        ort_cks.register(options)


def test_on_the_cpu_there_is_nothing_to_search(tmp_path, capfd):
    case = Case(dtype="float", precision="fp32")
    case.check(session(case.model(), "cpu", tune_cache=tmp_path / "cache").run(None, case.feeds())[0])
    assert os.listdir(tmp_path) == []
    assert "searched" not in capfd.readouterr().err


# --- On a GPU


@pytest.fixture
def hopper():
    """Only the kernel of such GPUs has a choice of tiles that is worth a measurement."""
    torch = pytest.importorskip("torch")
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a GPU of compute capability 9.0")


DILATED = Geometry((3, 3), dilations=(3, 2), pads=(3, 2, 3, 2))
TRANSPOSED = Geometry((4, 4), strides=(2, 2), pads=(1, 1, 1, 1), transposed=True)
CASES = {
    "float16": Case(activation="Relu"),
    "bfloat16": Case(dtype="bfloat16"),
    "tf32": Case(dtype="float"),
    "strict": Case(dtype="float", precision="fp32"),
    "residual": Case(names="XWBZ", activation="Relu"),
    "no bias": Case(names="XW", constants="W"),
    "variable filter": Case(constants="B"),
    "variable filter of floats": Case(dtype="float", precision="fp32", constants="B"),
    "dilated": Case("SkDilated", DILATED),
    "transposed": Case("KSDeconv", TRANSPOSED),
    "strict transposed with a residual": Case(
        "KSDeconv", TRANSPOSED, dtype="float", precision="fp32", names="XWBZ"
    ),
    "two inputs": Case(split=64),
    "two inputs that are copied into one": Case(split=40),
}


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_problem_is_searched_once_and_answers_stay_right(case, capfd, tmp_path):
    """In the run that searches, in those that follow, and in another session, which searches nothing."""
    cache = tmp_path / "cache"
    first, second = (session(case.model(), tune_cache=cache) for _ in range(2))
    for each in (first, first, second, second):
        case.check(each.run(None, case.feeds())[0])
    log = capfd.readouterr().err
    assert log.count("node 'the_node': searched ") == 1
    [line] = cache.read_text().removeprefix(FIRST_LINE).splitlines()
    tile, version, problem = line.split("\t")
    assert f"'{tile}' takes" in log
    assert version == ort_cks.__version__
    assert "N 2 C " in problem


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_of_runs_at_once_one_searches(capfd):
    case = Case(names="XWB", activation="Relu", dtype="float", precision="fp32")
    shared = session(case.model(), tune=True)
    with ThreadPoolExecutor(4) as threads:
        for answer in threads.map(lambda _: shared.run(None, case.feeds()), range(8)):
            case.check(answer[0])
    assert capfd.readouterr().err.count("searched ") == 1


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_without_being_asked_nothing_is_searched(capfd):
    case = Case(names="XW", constants="W", activation="Relu")
    case.check(session(case.model()).run(None, case.feeds())[0])
    assert "searched" not in capfd.readouterr().err


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_another_process_takes_what_the_file_says(tmp_path):
    """And what it cannot take, it searches again."""
    case, cache, model = Case(), tmp_path / "cache", tmp_path / "model.onnx"
    model.write_bytes(case.model().SerializeToString())
    np.savez(tmp_path / "feeds.npz", **case.feeds())

    def searches():
        code = (
            "import sys, torch, numpy, onnxruntime, ort_cks\n"
            "model, cache, feeds, answer = sys.argv[1:]\n"
            "options = onnxruntime.SessionOptions()\n"
            "options.log_severity_level = 1\n"
            "cuda = [('CUDAExecutionProvider', {'enable_cuda_graph': '0'})]\n"
            "session = ort_cks.InferenceSession(model, options, cuda, tune_cache=cache)\n"
            "numpy.save(answer, session.run(None, dict(numpy.load(feeds)))[0])\n"
        )
        process = [sys.executable, "-c", code, model, cache, tmp_path / "feeds.npz", tmp_path / "answer.npy"]
        ran = subprocess.run(process, capture_output=True, text=True, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        case.check(np.load(tmp_path / "answer.npy"))
        return ran.stderr.count("searched ")

    assert searches() == 1
    found = cache.read_text()
    assert searches() == 0
    assert cache.read_text() == found
    tile = found.splitlines()[1].split("\t")[0]
    cache.write_text(found.replace(tile, "no such tile"))
    assert searches() == 1
    assert "no such tile" not in cache.read_text()


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_a_session_that_captures_searches_first(tmp_path):
    case, cache = Case(names="XWBZ"), tmp_path / "cache"
    capturing = session(case.model(), provider_options={}, tune_cache=cache)
    assert capturing.cuda_graph
    for seed in range(3):
        case.operands["X"] = representable(
            np.random.default_rng(seed).standard_normal(case.operands["X"].shape), case.dtype
        )
        case.check(capturing.run(None, case.feeds())[0])
        assert len(cache.read_text().splitlines()) == 2
    assert capturing.cuda_graph


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_a_residual_that_is_overwritten_is_added_once(tmp_path):
    """Y bound to where Z lies: each launch of a search would add the sum once more."""
    case = Case(names="XWBZ", dtype="float")
    writing = session(case.model(), tune_cache=tmp_path / "cache")
    binding = writing.io_binding()
    values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(v, "cuda", 0) for n, v in case.feeds().items()}
    z = values["Z"]
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("Y", "cuda", 0, np.float32, z.shape(), z.data_ptr())
    writing.run_with_iobinding(binding)
    case.check(z.numpy())
    assert not (tmp_path / "cache").exists()
