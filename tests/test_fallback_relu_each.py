"""ReluEach's fallback function, in a session that knows nothing of the library."""

import numpy as np
import onnx
import onnxruntime as ort
import onnxsim
import onnxslim
import pytest
from fallback_models import with_fallback
from onnx import helper
from test_fallback_overloads import without_overloads
from test_relu_each import DTYPES, SHAPES, assert_relus, draw, feeds_of, model_of


def with_functions(inputs, dtype="float", opset=18, **how):
    model = model_of(inputs, dtype, **how)
    model.opset_import[0].version = opset
    return with_fallback(model)


def run(model, inputs, dtype="float", **options):
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(None, feeds_of(inputs, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [2, 7, 20])
def test_it_gives_what_the_operator_gives(count, dtype):
    inputs = draw(SHAPES[:count], dtype)
    assert_relus(run(with_functions(inputs, dtype, opset=22), inputs, dtype), inputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_stays_one(dtype):
    inputs = {"X0": np.float32([np.nan, -np.inf, np.inf, 1]), "X1": np.float32([-1, np.nan])}
    assert_relus(run(with_functions(inputs, dtype, opset=22), inputs, dtype), inputs)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 18, 22, 24])
def test_every_opset(opset):
    inputs = draw(SHAPES[:3], "float")
    assert_relus(run(with_functions(inputs, opset=opset), inputs), inputs)


@pytest.mark.parametrize("opset", [13, 14])
def test_relu_has_bfloat16_from_opset_14_on_only(opset):
    inputs = draw(SHAPES[:3], "bfloat16")
    assert_relus(run(with_functions(inputs, "bfloat16", opset=opset), inputs, "bfloat16"), inputs)


TOOLS = {"onnxsim": lambda model: onnxsim.simplify(model)[0], "onnxslim": onnxslim.slim}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("shapes", [None, {"X0": ("n", 3), "X1": ("m",)}], ids=["static", "dynamic"])
def test_other_tools_leave_it_equal(shapes, tool):
    inputs = draw([(4, 3), (5,)], "float")
    changed = TOOLS[tool](with_functions(inputs, shapes=shapes))
    onnx.checker.check_model(changed, full_check=True)
    assert [node.op_type for node in changed.graph.node] == ["ReluEach"]
    assert_relus(run(changed, inputs), inputs)


def test_onnx_runtime_leaves_nothing_but_relus(tmp_path):
    """Of what other nodes make, so that without the library it is as fast as the model was."""
    inputs, path = draw(SHAPES[:3], "float"), str(tmp_path / "optimized.onnx")
    model = model_of(inputs)
    for i, name in enumerate(inputs):
        model.graph.node.insert(0, helper.make_node("Neg", [name], [f"minus{i}"]))
        model.graph.node[-1].input[i] = f"minus{i}"
    run(with_fallback(model), inputs, optimized_model_filepath=path)
    assert sorted(node.op_type for node in onnx.load(path).graph.node) == ["Neg"] * 3 + ["Relu"] * 3


def two_nodes(counts, dtypes=("float", "float")):
    """One model with two nodes, and its inputs."""
    parts, inputs = [], {}
    for i, (count, dtype) in enumerate(zip(counts, dtypes, strict=True)):
        drawn = draw(SHAPES[:count], dtype, seed=i)
        part = model_of(drawn, dtype, name=f"node{i}")
        parts.append(onnx.compose.add_prefix(part, f"p{i}_", rename_nodes=False))
        inputs |= {f"p{i}_{name}": x for name, x in drawn.items()}
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node],
        "two",
        [value for part in parts for value in part.graph.input],
        [value for part in parts for value in part.graph.output],
    )
    return helper.make_model(graph, opset_imports=parts[0].opset_import, ir_version=9), inputs


def test_nodes_of_one_number_share_a_function():
    model, inputs = two_nodes((3, 3))
    model = with_fallback(model)
    assert [function.overload for function in model.functions] == ["3"]
    assert_relus(run(model, inputs), inputs)


@pytest.mark.parametrize("keep", [0, -1])
@pytest.mark.parametrize("counts", [(2, 5), (5, 2)])
def test_nodes_of_other_numbers_have_functions_of_their_own(counts, keep):
    """A tool that takes one for the other makes a model that is refused, not wrong."""
    model, inputs = two_nodes(counts)
    model = with_fallback(model)
    assert sorted(function.overload for function in model.functions) == ["2", "5"]
    assert_relus(run(model, inputs), inputs)
    with pytest.raises(Exception, match=r"Number of actual parameters|Input 0 expected to have type"):
        run(without_overloads(model, keep), inputs)
