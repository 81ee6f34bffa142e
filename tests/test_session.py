"""ort_cks.InferenceSession: when it captures a CUDA graph, and that its answers stay those of any session."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from nodes import DOMAIN
from onnx import TensorProto, helper, numpy_helper

import ort_cks
from ort_cks import capture_rules, captured_run, session
from ort_cks.capture_gate import CaptureGate

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def two_outputs(shape=(2, 3, 6, 6), output_shape=(2, 4, 6, 6), extra=(), dtype=TensorProto.FLOAT):
    """y = Conv(a) + Conv(b) and z = 2 y; 1x1 weights."""
    w = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [
        helper.make_node("ConvV2", ["a", "w"], ["ya"], name="first", domain=DOMAIN),
        helper.make_node("ConvV2", ["b", "w", "", "ya"], ["y"], name="second", domain=DOMAIN),
        helper.make_node("Add", ["y", "y"], ["z"], name="double"),
        *extra,
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "two_outputs",
        [value("a", dtype, shape), value("b", dtype, shape)],
        [value("y", dtype, output_shape), value("z", dtype, output_shape)],
        [numpy_helper.from_array(w, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def random_feeds(seed=0, shape=(2, 3, 6, 6), dtype=np.float32):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(dtype) for name in "ab"}


def expected(feeds):
    """y and z, in float64."""
    w = numpy_helper.to_array(two_outputs().graph.initializer[0]).astype(np.float64)[:, :, 0, 0]
    y = np.einsum("kc,nchw->nkhw", w, feeds["a"].astype(np.float64) + feeds["b"].astype(np.float64))
    return {"y": y, "z": 2 * y}


def check(got, feeds, names=("y", "z"), tolerance=1e-5):
    want = expected(feeds)
    assert len(got) == len(names)
    for array, name in zip(got, names, strict=True):
        np.testing.assert_allclose(array, want[name], rtol=tolerance, atol=tolerance)


# --- The rules


@pytest.mark.parametrize(
    ("providers", "options", "reason"),
    [
        ([CUDA], None, None),
        ([CUDA, CPU], None, None),
        ([(CUDA, {"device_id": 1, "use_tf32": 0}), CPU], None, None),
        ([CUDA, CPU], [{"prefer_nhwc": "1"}, {}], None),
        ([CPU], None, "does not come first"),
        ([CPU, CUDA], None, "does not come first"),
        ([], None, "does not come first"),
        (["TensorrtExecutionProvider", CUDA], None, "does not come first"),
        ([CUDA, "TensorrtExecutionProvider"], None, "TensorrtExecutionProvider may take nodes"),
        ([(CUDA, {"enable_cuda_graph": "0"})], None, "sets the provider option enable_cuda_graph"),
        ([CUDA], [{"user_compute_stream": "1"}], "sets the provider option user_compute_stream"),
        ([(CUDA, {"gpu_external_alloc": "7"})], None, "sets the provider option gpu_external_alloc"),
        ([CUDA], [{}, {}], "does not come first"),  # onnxruntime refuses such a call
        ([[CUDA, {}]], None, "does not come first"),
    ],
)
def test_which_providers_allow_a_graph(providers, options, reason):
    pairs = capture_rules.provider_pairs(providers, options)
    refusal = capture_rules.provider_refusal(pairs, [CUDA, CPU, "TensorrtExecutionProvider"])
    assert refusal is None if reason is None else reason in refusal


def test_without_cuda_in_onnxruntime_there_is_no_graph():
    assert "CUDA provider" in capture_rules.provider_refusal([(CUDA, {})], [CPU])


def test_which_session_options_allow_a_graph():
    def refusal(**settings):
        options = onnxruntime.SessionOptions()
        for key, value in settings.items():
            setattr(options, key, value)
        return capture_rules.session_options_refusal(options)

    assert refusal() is None
    assert "profile" in refusal(enable_profiling=True)
    assert "parallel" in refusal(execution_mode=onnxruntime.ExecutionMode.ORT_PARALLEL)
    for value, reason in (("1", "other sessions share its memory"), ("0", None)):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", value)
        assert capture_rules.session_options_refusal(options) == reason


def branch():
    body = helper.make_graph(
        [helper.make_node("Identity", ["z"], ["t"])],
        "body",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    return helper.make_node("If", ["c"], ["u"], name="branch", then_branch=body, else_branch=body)


def in_a_function(node):
    """The model with the node in the body of a function that it calls."""
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "f", ["x"], ["t"], [node], opsets)
    model = two_outputs(extra=[helper.make_node("f", ["z"], ["u"], domain="local")])
    model.functions.append(function)
    return model


def with_input(shape):
    model = two_outputs()
    model.graph.input.append(helper.make_tensor_value_info("bound", TensorProto.FLOAT, shape))
    return model


def answering_its_input():
    model = two_outputs()
    model.graph.output.append(model.graph.input[0])
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (two_outputs(), None),
        (two_outputs(("n", 3, 6, 6)), "'a' has no fixed shape: [n, 3, 6, 6]"),
        (two_outputs((None, 3, 6, 6)), "'a' has no fixed shape: [?, 3, 6, 6]"),
        (two_outputs((0, 3, 6, 6)), "'a' has no fixed shape"),
        (two_outputs(None), "'a' has no fixed shape"),
        (with_input([]), "the host may need the input 'bound', of rank 0"),
        (with_input([4]), "the host may need the input 'bound', of rank 1"),
        (with_input([4, 1]), None),
        (answering_its_input(), "'a' is an input and an output"),
        (two_outputs(extra=[branch()]), "node 'branch', If, chooses"),
        (two_outputs(extra=[helper.make_node("Bernoulli", ["z"], ["u"], name="dice")]), "node 'dice'"),
        (two_outputs(extra=[helper.make_node("Dropout", ["z", "r", "t"], ["u"], name="d")]), "node 'd'"),
        (two_outputs(extra=[helper.make_node("Dropout", ["z"], ["u"])]), None),
        (two_outputs(extra=[helper.make_node("Counter", ["z"], ["u"], domain="mine")]), "the domain mine"),
        (in_a_function(helper.make_node("Neg", ["x"], ["t"])), None),
        (in_a_function(helper.make_node("RandomNormalLike", ["x"], ["t"], name="noise")), "node 'noise'"),
    ],
)
def test_which_models_allow_a_graph(model, reason):
    refusal = capture_rules.model_refusal(model)
    assert refusal is None if reason is None else reason in refusal


def test_inputs_that_are_constants_do_not_matter():
    model = two_outputs()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, None))
    assert capture_rules.model_refusal(model) is None


# --- One capture at a time


def test_a_capture_is_alone():
    """Threads note what runs beside them: during a capture, nothing does."""
    gate, inside, seen, lock = CaptureGate(), [], [], threading.Lock()

    def work(kind):
        with gate.alone() if kind == "capture" else gate.shared():
            with lock:
                inside.append(kind)
                seen.append(sorted(inside))
            time.sleep(0.002)
            with lock:
                inside.remove(kind)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, ["run", "run", "run", "capture"] * 20))
    assert len(seen) == 80
    assert all(beside == ["capture"] for beside in seen if "capture" in beside)
    assert ["run", "run"] in seen


def test_an_error_leaves_the_gate_open():
    gate = CaptureGate()
    for enter in (gate.alone, gate.shared):
        with pytest.raises(ZeroDivisionError), enter():
            raise ZeroDivisionError
    with gate.alone():
        pass


# --- Everything but the graph itself, on the CPU


@pytest.fixture
def pretended(monkeypatch):
    """The CPU provider in CUDA's place. It captures nothing, so that every replay is a run."""
    for module in (session, capture_rules):
        monkeypatch.setattr(module, "CUDA", CPU)
    monkeypatch.setattr(session, "default_providers", lambda: [CPU])
    monkeypatch.setattr(captured_run, "DEVICE", "cpu")


def test_answers_are_those_of_an_ordinary_session(pretended):
    running = ort_cks.InferenceSession(two_outputs())
    assert isinstance(running, onnxruntime.InferenceSession)
    assert isinstance(running, ort_cks.InferenceSession)
    assert running.cuda_graph
    kept = []
    for seed in range(3):
        feeds = random_feeds(seed)
        kept.append((running.run(None, feeds), feeds))
    for got, feeds in kept:  # what was answered before is the caller's, and stays
        check(got, feeds)
    check(running.run(["z"], feeds), feeds, ["z"])
    check(running.run(["z", "y", "z"], feeds), feeds, ["z", "y", "z"])
    check(running.run([], feeds), feeds)
    assert running.cuda_graph


def test_the_callers_arrays_stay_as_they_are(pretended):
    running, first, second = ort_cks.InferenceSession(two_outputs()), random_feeds(1), random_feeds(2)
    copies = {name: array.copy() for name, array in first.items()}
    running.run(None, first)
    running.run(None, second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, copies[name])


def test_arrays_of_any_strides(pretended):
    running = ort_cks.InferenceSession(two_outputs())
    wide = random_feeds(3, (2, 6, 6, 6))
    feeds = {"a": wide["a"][:, ::2], "b": wide["b"].transpose(0, 1, 3, 2)[:, :3]}
    check(running.run(None, feeds), feeds)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"a": np.zeros((2, 3, 6, 6))}, None),
        ({"a": np.zeros((2, 3, 6, 5), np.float32)}, None),
        ({"q": np.zeros(1, np.float32)}, None),
        ({"a": None}, None),
        ({}, ["q"]),
    ],
)
def test_bad_calls_end_as_in_onnxruntime(pretended, change, names):
    model = two_outputs()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    ort_cks.register(options)
    plain = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    running = ort_cks.InferenceSession(model, options)
    feeds = {name: array for name, array in (random_feeds() | change).items() if array is not None}
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - whatever it is, ours is to be the same
        plain.run(names, feeds)
    with pytest.raises(type(theirs.value)) as ours:
        running.run(names, feeds)
    assert str(ours.value) == str(theirs.value)
    check(running.run(None, random_feeds()), random_feeds())
    assert running.cuda_graph


def by_binding(running, feeds):
    binding = running.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name in ("y", "z"):
        binding.bind_output(name)
    running.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


def by_values(running, feeds):
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    return [value.numpy() for value in running.run_with_ort_values(None, values)]


def by_options(running, feeds):
    return running.run(None, feeds, onnxruntime.RunOptions())


def in_the_background(running, feeds):
    answer, done = [], threading.Event()

    def callback(results, data, error):
        answer.extend(results)
        assert data == "data"
        assert not error
        done.set()

    running.run_async(None, feeds, callback, "data")
    assert done.wait(20)
    return answer


OTHER_WAYS = [by_binding, by_values, by_options, in_the_background]


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_every_other_way_to_run_ends_the_replays(pretended, way):
    running = ort_cks.InferenceSession(two_outputs())
    check(running.run(None, random_feeds(1)), random_feeds(1))
    assert running.cuda_graph
    check(way(running, random_feeds(2)), random_feeds(2))
    assert not running.cuda_graph
    check(running.run(None, random_feeds(3)), random_feeds(3))
    check(way(running, random_feeds(4)), random_feeds(4))


def test_run_options_are_put_back(pretended):
    running, options = ort_cks.InferenceSession(two_outputs()), onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "7")
    running.run(None, random_feeds(), options)
    assert options.get_run_config_entry("gpu_graph_id") == "7"


def test_where_capturing_fails_the_session_is_an_ordinary_one(pretended, monkeypatch):
    def fail(*args):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(captured_run.CapturedRun, "run", fail)
    running = ort_cks.InferenceSession(two_outputs())
    assert running.cuda_graph
    check(running.run(None, random_feeds()), random_feeds())
    assert not running.cuda_graph
    check(by_binding(running, random_feeds(1)), random_feeds(1))


def test_an_output_of_unknown_shape_leaves_an_ordinary_session(pretended):
    nonzero = helper.make_node("NonZero", ["z"], ["where"])
    model = two_outputs(extra=[nonzero])
    model.graph.output.append(helper.make_tensor_value_info("where", TensorProto.INT64, [4, None]))
    running = ort_cks.InferenceSession(model)
    assert not running.cuda_graph
    check(running.run(["y", "z"], random_feeds()), random_feeds())


def test_a_refused_start_is_an_ordinary_one(pretended, monkeypatch):
    """As where a node is not on CUDA, or the model is wrong: onnxruntime's own words, and no print."""
    starts = []
    original = onnxruntime.InferenceSession.__init__

    def start(self, model, options, providers, *args, **kwargs):
        starts.append(providers)
        if "enable_cuda_graph" in str(providers):
            raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("not all nodes are on CUDA")
        original(self, model, options, providers, *args, **kwargs)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", start)
    running = ort_cks.InferenceSession(two_outputs())
    assert len(starts) == 2
    assert not running.cuda_graph
    check(running.run(None, random_feeds()), random_feeds())


def test_providers_can_be_set_anew(pretended):
    running = ort_cks.InferenceSession(two_outputs())
    running.set_providers([CPU])
    assert not running.cuda_graph
    check(running.run(None, random_feeds()), random_feeds())


def test_a_session_goes_when_nobody_needs_it(pretended):
    """Nothing in it refers to itself: memory on the device is not to wait for the garbage collector."""
    import gc
    import weakref

    running = ort_cks.InferenceSession(two_outputs())
    running.run(None, random_feeds())
    watched = weakref.ref(running)
    gc.disable()
    try:
        del running
        assert watched() is None
    finally:
        gc.enable()


def from_many_threads(running, runs=40, threads=4):
    def work(seed):
        feeds = random_feeds(seed)
        return running.run(["y"], feeds), feeds

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(runs)))


def test_threads_get_their_own_answers(pretended):
    running = ort_cks.InferenceSession(two_outputs())
    for got, feeds in from_many_threads(running):
        check(got, feeds, ["y"])
    assert running.cuda_graph


# --- On a GPU

STRICT = [(CUDA, {"use_tf32": "0"}), CPU]


@pytest.mark.gpu
def test_a_graph_answers_as_an_ordinary_session():
    running = ort_cks.InferenceSession(two_outputs(), providers=STRICT)
    kept = []
    for seed in (1, 2, 1, 3):
        feeds = random_feeds(seed)
        kept.append((running.run(None, feeds), feeds))
    for got, feeds in kept:
        check(got, feeds)
    assert running.cuda_graph
    check(running.run(["z"], feeds), feeds, ["z"])
    check(running.run(["z", "y"], feeds), feeds, ["z", "y"])
    plain = ort_cks.InferenceSession(
        two_outputs(), providers=[(CUDA, {"use_tf32": "0", "enable_cuda_graph": "0"}), CPU]
    )
    assert not plain.cuda_graph
    for got, want in zip(running.run(None, feeds), plain.run(None, feeds), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.gpu
def test_a_replay_runs_no_kernel_by_itself():
    """That it is a graph: replays of 300 nodes take a fraction of the time that launching them takes."""
    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(300)]
    nodes += [helper.make_node("Identity", ["z"], ["t0"])]
    model = two_outputs(extra=[nodes[-1], *nodes[:-1]])
    model.graph.output.append(helper.make_tensor_value_info("t300", TensorProto.FLOAT, (2, 4, 6, 6)))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    feeds, times = random_feeds(), {}
    for graph in (True, False):
        providers = STRICT if graph else [(CUDA, {"use_tf32": "0", "enable_cuda_graph": "0"}), CPU]
        running = ort_cks.InferenceSession(model, options, providers)
        assert running.cuda_graph == graph
        taken = []
        for _ in range(30):
            start = time.perf_counter()
            *answer, last = running.run(None, feeds)
            taken.append(time.perf_counter() - start)
        check(answer, feeds)
        np.testing.assert_array_equal(last, answer[1])  # negated 300 times
        times[graph] = min(taken)
    assert times[True] < 0.6 * times[False], times


@pytest.mark.gpu
@pytest.mark.parametrize("way", OTHER_WAYS)
def test_other_ways_to_run_never_see_the_graph(way):
    running = ort_cks.InferenceSession(two_outputs(), providers=STRICT)
    for seed in range(3):
        check(running.run(None, random_feeds(seed)), random_feeds(seed))
    for seed in range(3, 7):
        check(way(running, random_feeds(seed)), random_feeds(seed))
        check(running.run(None, random_feeds(-seed + 20)), random_feeds(-seed + 20))


@pytest.mark.gpu
def test_values_that_stay_on_the_gpu_are_not_overwritten():
    """What a binding answered lies in the memory that a captured run used; later runs leave it alone."""
    running = ort_cks.InferenceSession(two_outputs(), providers=STRICT)
    for seed in range(3):
        running.run(None, random_feeds(seed))
    held = []
    for seed in range(8):
        binding, feeds = running.io_binding(), random_feeds(seed)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in ("y", "z"):
            binding.bind_output(name, "cuda")
        running.run_with_iobinding(binding)
        held.append((binding.get_outputs(), feeds))
        check(running.run(None, random_feeds(seed + 50)), random_feeds(seed + 50))
    for values, feeds in held:
        check([value.numpy() for value in values], feeds)


@pytest.mark.gpu
def test_threads_on_a_gpu():
    running = ort_cks.InferenceSession(two_outputs(), providers=STRICT)
    for got, feeds in from_many_threads(running):
        check(got, feeds, ["y"])
    assert running.cuda_graph


@pytest.mark.gpu
def test_sessions_that_start_and_capture_at_the_same_time():
    def work(seed):
        running = ort_cks.InferenceSession(two_outputs(), providers=STRICT)
        feeds = random_feeds(seed)
        return [running.run(None, feeds) for _ in range(5)], feeds, running.cuda_graph

    with ThreadPoolExecutor(4) as pool:
        for answers, feeds, replayed in pool.map(work, range(12)):
            assert replayed
            for got in answers:
                check(got, feeds)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("extra", "kind", "shape"),
    [
        (helper.make_node("NonZero", ["z"], ["u"], name="n"), TensorProto.INT64, [4, None]),
        (helper.make_node("Unique", ["z"], ["u"], name="on_the_cpu"), TensorProto.FLOAT, [288]),
        (branch(), TensorProto.FLOAT, (2, 4, 6, 6)),
    ],
)
def test_what_cannot_be_captured_runs_all_the_same(extra, kind, shape, capfd):
    extras = [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))), extra]
    model = two_outputs(extra=extras)
    model.graph.output.append(helper.make_tensor_value_info("u", kind, shape))
    running = ort_cks.InferenceSession(model, providers=STRICT)
    assert not running.cuda_graph
    assert "[E:onnxruntime" not in capfd.readouterr().err
    for seed in range(3):
        check(running.run(["y", "z"], random_feeds(seed)), random_feeds(seed))


@pytest.mark.gpu
def test_float16_in_and_out(tmp_path):
    path = tmp_path / "half.onnx"
    onnx.save(two_outputs(dtype=TensorProto.FLOAT16), path)
    running = ort_cks.InferenceSession(path)
    for seed in range(3):
        feeds = random_feeds(seed, dtype=np.float16)
        check(running.run(None, feeds), feeds, tolerance=1e-2)
    assert running.cuda_graph
