"""The library in sessions: registration, errors, threads, shapes and weights that change."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from nodes import DOMAIN, OPSETS, PROVIDERS, node_model, run_node, session, tensor
from onnx import TensorProto, helper
from reference import Geometry, assert_close

import ort_cks


def operands(seed=0, batch=2, C=6, K=5, extents=(7, 8), kernel=(3, 3)):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, C, *extents)).astype(np.float32)
    w = rng.standard_normal((K, C, *kernel)).astype(np.float32) / 8
    return x, w


def check(geometry, x, w, got):
    want = geometry.convolve(x, w)
    assert_close(
        got, want, geometry.convolve(abs(x), abs(w)), w[0].size, "float", geometry.borders(x.shape[2:])
    )


GEOMETRY = Geometry((3, 3), pads=(1, 1, 1, 1))
ATTRIBUTES = {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "precision": "fp32"}


# --- Loading and registration


def test_library_path_is_a_file():
    assert Path(ort_cks.get_library_path()).is_file()


def test_library_is_small():
    """With the kernels for every GPU, where there is nvcc."""
    assert Path(ort_cks.get_library_path()).stat().st_size < 40e6


def test_library_exports_one_symbol_and_needs_only_the_system():
    path = ort_cks.get_library_path()
    symbols = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in symbols.stdout.splitlines()] == ["RegisterCustomOps"]
    dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    system = ("libc.", "libm.", "libstdc++.", "libdl.", "librt.", "libpthread.", "ld-linux", "libgcc_s.")
    assert all(name.startswith(system) for name in needed), needed
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic


def test_registering_twice_is_harmless():
    x, w = operands()
    options = onnxruntime.SessionOptions()
    ort_cks.register(options)
    ort_cks.register(options)
    options.register_custom_ops_library(ort_cks.get_library_path())
    model = node_model("ConvV2", {"X": x, "W": w}, ATTRIBUTES, constants=("W",))
    for _ in range(2):  # two sessions may share their options
        check(
            GEOMETRY, x, w, ort_cks.InferenceSession(model, options, PROVIDERS["cpu"]).run(None, {"X": x})[0]
        )


@pytest.mark.parametrize("form", ["proto", "bytes", "str", "path"])
def test_session_takes_every_form_of_a_model(form, tmp_path):
    x, w = operands()
    model = node_model("ConvV2", {"X": x, "W": w}, ATTRIBUTES, constants=("W",))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    given = {"proto": model, "bytes": path.read_bytes(), "str": str(path), "path": path}[form]
    created = ort_cks.InferenceSession(given)
    assert isinstance(created, onnxruntime.InferenceSession)
    check(GEOMETRY, x, w, created.run(None, {"X": x})[0])


def in_a_new_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_missing_onnxruntime_is_named_with_its_cure():
    ran = in_a_new_python(
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import ort_cks\n"
        "try: ort_cks.InferenceSession(b'')\n"
        "except ImportError as error: print(error)\n"
    )
    assert ran.stdout.startswith("onnxruntime is not installed"), ran.stderr
    assert "pip install 'ort_cks[gpu]'" in ran.stdout


def test_import_is_quick():
    """Under 0.2 s, the best of three: the machine may be busy."""
    code = "import time; start = time.perf_counter(); import ort_cks; print(time.perf_counter() - start)"
    assert min(float(in_a_new_python(code).stdout) for _ in range(3)) < 0.2


@pytest.mark.parametrize("name", ["rewrite", "compare"])
def test_modules_of_the_command_line_do_not_hide_the_functions(name):
    ran = in_a_new_python(
        f"import importlib, ort_cks\n"
        f"function = ort_cks.{name}\n"
        f"module = importlib.import_module('ort_cks.{name}')\n"
        f"assert ort_cks.{name} is module is not function\n"
        f"try: function('no such file')\n"
        f"except Exception as error: expected = error\n"
        f"try: ort_cks.{name}('no such file')\n"
        f"except Exception as error: assert repr(error) == repr(expected); print('the same')\n"
    )
    assert ran.stdout == "the same\n", ran.stderr


# --- Errors name the node and say what is wrong


def refused(op, inputs, attributes, constants):
    """What the message says after the node's name, at session start or in the first run."""
    inputs = {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}
    with pytest.raises(Exception, match=f"{op} node 'the_node': ") as caught:
        run_node(op, inputs, attributes, constants=constants)
    return str(caught.value).split("node 'the_node': ")[1]


BAD_ATTRIBUTES = [
    ({"activation": "Swish"}, 'attribute activation is "Swish"; known are Relu '),
    ({"activation": "Clip", "activation_params": [1.0]}, 'has 1 values; activation "Clip" takes 2'),
    ({"activation": "Elu"}, 'attribute activation_params has 0 values; activation "Elu" takes 1'),
    ({"activation": "PRelu", "activation_params": [0.1, 0.2]}, "takes one for each output channel, 5"),
    ({"residual_alpha": 0.0}, "attribute residual_alpha is 0.000000; it must be positive"),
    ({"residual_alpha": 1}, "attribute residual_alpha must be a float"),
    ({"layout": "NCWH"}, 'attribute layout is "NCWH"; it must be "NCHW" or "NHWC"'),
    ({"y_layout": "NWHC"}, 'attribute y_layout is "NWHC"; it must be "NCHW" or "NHWC"'),
    ({"y_layout": 1}, "attribute y_layout must be a string"),
    ({"precision": "fp16"}, 'attribute precision is "fp16"; it must be "tf32" or "fp32"'),
    ({"strides": 2}, "attribute strides must be a list of integers"),
    ({"group": "one"}, "attribute group must be an integer"),
    ({"auto_pad": 1}, "attribute auto_pad must be a string"),
    ({"activation_params": [1]}, "attribute activation_params must be a list of floats"),
    ({"strides": [1]}, "strides"),
    ({"strides": [0, 1]}, "strides"),
    ({"group": 4}, "group"),
    ({"kernel_shape": [5, 5]}, "kernel_shape"),
    ({"auto_pad": "SAME"}, "auto_pad"),
]


@pytest.mark.parametrize(("attributes", "expected"), BAD_ATTRIBUTES)
def test_bad_attributes(attributes, expected):
    assert expected in refused("ConvV2", {"X": (2, 6, 7, 8), "W": (5, 6, 3, 3)}, attributes, "W")


def test_bad_output_padding():
    attributes = {"output_padding": [2, 0], "strides": [2, 2]}
    assert "output_padding" in refused("KSDeconv", {"X": (2, 6, 7, 8), "W": (6, 5, 3, 3)}, attributes, "W")


BAD_SHAPES = [
    ({"X": (2, 4, 7, 8), "W": (5, 6, 3, 3)}, "channels"),
    ({"X": (2, 6, 2, 8), "W": (5, 6, 3, 3)}, "output"),
    ({"X": (2, 6, 7), "W": (5, 6, 1, 3)}, "X has rank 3 and W rank 4; they must be the same"),
    ({"X": (1,) * 6, "W": (1,) * 6}, "rank"),
    ({"X": (1,) * 9, "W": (1,) * 9}, "rank 9"),
    ({"X": (2, 6, 7, 8), "W": (5, 6)}, "rank"),
    ({"X": (2, 6, 7, 8), "W": (5, 6, 3, 3), "B": (4,)}, "B has shape [4]; with these weights it must be [5]"),
    (
        {"X": (2, 6, 7, 8), "W": (5, 6, 3, 3), "B": (5,), "Z": (2, 5, 5, 5)},
        "Z has shape [2, 5, 5, 5]; it must have the output's, [2, 5, 5, 6]",
    ),
]


@pytest.mark.parametrize("constants", ["", "W", "WB"])
@pytest.mark.parametrize(("inputs", "expected"), BAD_SHAPES)
def test_bad_shapes(inputs, expected, constants):
    assert expected in refused("ConvV2", inputs, {}, [name for name in constants if name in inputs])


NHWC_2 = {"layout": "NHWC", "concat": 1}
BAD_CONCATS = [
    ({"X": (2, 7, 8, 4), "W": (5, 6, 3, 3), "X2": (2, 7, 8, 2)}, NHWC_2 | {"concat": 2}, "concat is 2"),
    ({"X": (2, 7, 8, 4), "W": (5, 6, 3, 3), "X2": (2, 7, 8, 2)}, {"concat": 1}, 'in "NHWC" only'),
    ({"X": (2, 7, 8, 4), "W": (5, 6, 3, 3)}, NHWC_2, "attribute concat is 1, but it has no X2"),
    (
        {"X": (2, 7, 8, 4), "W": (5, 6, 3, 3), "X2": (2, 7, 7, 2)},
        NHWC_2,
        "X2 has shape [2, 7, 7, 2]; but for its channels, the last axis, it must be X's, [2, 7, 8, 4]",
    ),
    ({"X": (2, 7, 8, 4), "W": (5, 6, 3, 3), "X2": (7, 8, 2)}, NHWC_2, "X2 has shape [7, 8, 2]; but for"),
    (
        {"X": (2, 7, 8, 4), "W": (5, 6, 3, 3), "X2": (2, 7, 8, 3)},
        NHWC_2,
        "X and X2 have shapes [2, 7, 8, 4] and [2, 7, 8, 3], 7 channels together, but W takes 6 input",
    ),
    (
        {"X": (2, 7, 8, 6), "W": (5, 6, 3, 3), "B": (5,), "Z": (2, 5, 6, 5), "X2": (2, 7, 8, 2)},
        {"layout": "NHWC"},
        "it has five inputs, of which the last is X2, but attribute concat is 0",
    ),
]


@pytest.mark.parametrize("constants", ["", "W"])
@pytest.mark.parametrize(("inputs", "attributes", "expected"), BAD_CONCATS)
def test_bad_second_inputs(inputs, attributes, expected, constants):
    assert expected in refused("ConvV2", inputs, attributes, constants)


def test_an_x2_that_does_not_fit_is_refused_after_one_that_did(provider):
    rng = np.random.default_rng(0)
    x, x2 = (rng.standard_normal((1, 6, 7, c)).astype(np.float32) for c in (4, 2))
    w = rng.standard_normal((5, 6, 3, 3)).astype(np.float32)
    inputs, shapes = {"X": x, "W": w, "X2": x2}, {"X": ("n", "h", "w", 4), "X2": ("n", "h2", "w2", 2)}
    attributes = ATTRIBUTES | NHWC_2
    running = session(node_model("ConvV2", inputs, attributes, constants=("W",), shapes=shapes), provider)
    joined = np.moveaxis(np.concatenate([x, x2], -1), -1, 1)
    for _ in range(2):
        (y,) = running.run(None, {"X": x, "X2": x2})
        check(GEOMETRY, joined, w, np.moveaxis(y, -1, 1))
        with pytest.raises(Exception, match="X2 has shape"):
            running.run(None, {"X": x, "X2": x2[:, :5]})


BAD_GRADIENTS = [
    ((2, 5, 5, 6), {}, "attribute kernel_shape is required"),
    ((2, 5, 5, 5), {"kernel_shape": [3, 3]}, "the output of this convolution has [2, 5, 5, 6]"),
    ((2, 5, 5), {"kernel_shape": [3, 3]}, "ranks 4 and 3"),
    ((2, 5, 5, 6), {"kernel_shape": [3, 3], "group": 4}, "group is 4; it must divide the 6 channels of X"),
]


@pytest.mark.parametrize(("dy", "attributes", "expected"), BAD_GRADIENTS)
def test_bad_gradients(dy, attributes, expected):
    assert expected in refused("SkDilatedWeightGrad", {"X": (2, 6, 7, 8), "dY": dy}, attributes, "")


def test_a_session_survives_a_refused_input(provider):
    x, w = operands()
    model = node_model(
        "ConvV2", {"X": x, "W": w}, ATTRIBUTES, constants=("W",), shapes={"X": ("n", "c", "h", "w")}
    )
    running = session(model, provider)
    with pytest.raises(Exception, match="ConvV2 node 'the_node': "):
        running.run(None, {"X": x[:, :4]})
    check(GEOMETRY, x, w, running.run(None, {"X": x})[0])


# --- Shapes and weights that change


def test_dynamic_shapes(provider):
    """More shapes than a node keeps plans for, each twice."""
    _, w = operands()
    model = node_model(
        "ConvV2", {"X": operands()[0], "W": w}, ATTRIBUTES, constants=("W",), shapes={"X": ("n", 6, "h", "w")}
    )
    running = session(model, provider)
    for _ in range(2):
        for size in range(1, 41):
            x, _ = operands(size, batch=1 + size % 3, extents=(1 + size % 7, size))
            check(GEOMETRY, x, w, running.run(None, {"X": x})[0])


def test_open_extents_are_not_taken_for_equal_ones(provider):
    """ONNX Runtime plans buffers by what it hears of extents, and infers the Concat's shape from it."""
    rng = np.random.default_rng(0)
    w, v = (rng.standard_normal((4, 4, 3, 3)).astype(np.float32) for _ in range(2))
    up = Geometry((3, 3), (2, 2), pads=(1, 1, 1, 1), output_padding=(1, 1), transposed=True)
    strict = {"domain": DOMAIN, "precision": "fp32"}
    nodes = [
        helper.make_node("ConvV2", ["X", "W"], ["a"], **strict, **GEOMETRY.attributes()),
        helper.make_node("Softplus", ["a"], ["b"]),
        helper.make_node("KSDeconv", ["b", "V"], ["c"], **strict, **up.attributes()),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=(2, 2), strides=(2, 2)),
        helper.make_node("ConvV2", ["X", "V"], ["e"], **strict, **GEOMETRY.attributes()),
        helper.make_node("Concat", ["e", "d"], ["Y"], axis=1),
    ]
    x_info = helper.make_tensor_value_info("X", TensorProto.FLOAT, ("n", 4, "h", "w"))
    y_info = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    weights = [tensor("W", w, "float"), tensor("V", v, "float")]
    graph = helper.make_graph(nodes, "open_extents", [x_info], [y_info], weights)
    running = session(helper.make_model(graph, opset_imports=OPSETS, ir_version=9), provider)
    for extents in ((4, 6), (6, 3)):
        x = rng.standard_normal((2, 4, *extents)).astype(np.float32)
        large = up.convolve(np.logaddexp(GEOMETRY.convolve(x, w), 0), v)
        pooled = large.reshape(2, 4, extents[0], 2, extents[1], 2).max((3, 5))
        want = np.concatenate([GEOMETRY.convolve(x, v), pooled], axis=1)
        np.testing.assert_allclose(running.run(None, {"X": x})[0], want, rtol=1e-4, atol=1e-4)


def test_run_time_weights_may_change_shape(provider):
    x, w = operands()
    model = node_model("ConvV2", {"X": x, "W": w}, {"precision": "fp32"}, shapes={"W": ("k", 6, "r", "s")})
    running = session(model, provider)
    for seed, kernel in enumerate([(3, 3), (1, 1), (3, 3), (2, 5)]):
        _, w = operands(seed, K=3 + seed, kernel=kernel)
        check(Geometry(kernel), x, w, running.run(None, {"X": x, "W": w})[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_concurrent_runs_share_a_kernel(provider, threads):
    """Each thread with shapes of its own and those of others, in one session."""
    _, w = operands()
    model = node_model(
        "ConvV2", {"X": operands()[0], "W": w}, ATTRIBUTES, constants=("W",), shapes={"X": ("n", 6, "h", "w")}
    )
    running = session(model, provider, intra_op_num_threads=threads)
    cases = [operands(i, batch=1 + i % 2, extents=(5 + i, 20))[0] for i in range(24)]
    with ThreadPoolExecutor(6) as pool:
        for x, got in pool.map(lambda x: (x, running.run(None, {"X": x})[0]), cases * 4):
            check(GEOMETRY, x, w, got)


def test_weights_of_the_outer_graph_in_a_subgraph(provider):
    """An If whose branches use weights of the graph around it: ONNX Runtime calls them constant there too."""
    x, w = operands()
    y = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)

    def branch(name, activation):
        convolution = helper.make_node(
            "ConvV2",
            ["X", "W"],
            [f"{name}_out"],
            name=name,
            domain=DOMAIN,
            activation=activation,
            **ATTRIBUTES,
        )
        return helper.make_graph(
            [convolution], name, [], [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)]
        )

    choice = helper.make_node(
        "If", ["positive"], ["Y"], then_branch=branch("then", "Relu"), else_branch=branch("else", "")
    )
    graph = helper.make_graph(
        [choice],
        "choice",
        [
            helper.make_tensor_value_info("X", TensorProto.FLOAT, x.shape),
            helper.make_tensor_value_info("positive", TensorProto.BOOL, []),
        ],
        [y],
        [tensor("W", w, "float")],
    )
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=9)
    running = session(model, provider)
    plain = running.run(None, {"X": x, "positive": np.array(False)})[0]
    check(GEOMETRY, x, w, plain)
    assert np.array_equal(running.run(None, {"X": x, "positive": np.array(True)})[0], np.maximum(plain, 0))


def test_shape_inference_reaches_the_model_outputs():
    """ONNX Runtime knows the output's shape before it runs, names of dynamic axes included."""
    x, w = operands()
    attributes = {"pads": (1, 1, 1, 1), "strides": (2, 2), "kernel_shape": (3, 3)}
    model = node_model(
        "ConvV2", {"X": x, "W": w}, attributes, constants=("W",), shapes={"X": ("batch", 6, 7, "w")}
    )
    assert session(model).get_outputs()[0].shape[:3] == ["batch", 5, 4]


def test_shape_inference_knows_the_layout_of_y():
    x, w = operands()
    attributes = {"pads": (1, 1, 1, 1), "strides": (2, 2), "kernel_shape": (3, 3)}
    for of_x, of_y, shape, inferred in (
        ("NCHW", "NHWC", ("batch", 6, 7, 9), ["batch", 4, 5, 5]),
        ("NHWC", "NCHW", ("batch", 7, 9, 6), ["batch", 5, 4, 5]),
    ):
        layouts = {"layout": of_x, "y_layout": of_y}
        model = node_model(
            "ConvV2", {"X": x, "W": w}, attributes | layouts, constants=("W",), shapes={"X": shape}
        )
        assert session(model).get_outputs()[0].shape == inferred
    model = node_model("ConvV2", {"X": x, "W": w}, attributes, constants=("W",), shapes={"X": None})
    check(Geometry((3, 3), (2, 2), pads=(1, 1, 1, 1)), x, w, session(model).run(None, {"X": x})[0])
