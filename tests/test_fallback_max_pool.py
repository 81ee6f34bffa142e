"""MaxPoolNhwc's fallback function, in a session that knows nothing of the library."""

import numpy as np
import onnx
import onnxsim
import onnxslim
import pytest
from fallback_models import run, with_fallback
from nodes import node_model
from onnx import helper
from test_max_pool import DTYPES, POOLS, draw


def with_functions(pool, x, dtype="float", opset=18, **how):
    attributes = pool.attributes() if opset >= 10 else {"kernel_shape": pool.kernel, "strides": pool.strides}
    model = node_model("MaxPoolNhwc", {"X": x}, attributes, dtype, **how)
    model.opset_import[0].version = opset
    return with_fallback(model)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOLS)
def test_it_gives_what_the_operator_gives(case, dtype):
    pool = POOLS[case]
    x = draw((2, *pool.extents, 5), dtype)
    want, _ = pool.of(x, dtype)
    np.testing.assert_array_equal(run(with_functions(pool, x, dtype, opset=22), {"X": x}, dtype), want)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 18, 22, 24])
def test_every_opset(opset):
    pool = POOLS["2x2, odd"]
    x = draw((2, *pool.extents, 5), "float")
    np.testing.assert_array_equal(run(with_functions(pool, x, opset=opset), {"X": x}), pool.of(x)[0])


TOOLS = {"onnxsim": lambda model: onnxsim.simplify(model)[0], "onnxslim": onnxslim.slim}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("shape", [None, {"X": ("n", "h", "w", "c")}], ids=["static", "dynamic"])
def test_other_tools_leave_it_equal(shape, tool):
    pool = POOLS["ceil, pads"]
    x = draw((2, *pool.extents, 5), "float")
    changed = TOOLS[tool](with_functions(pool, x, shapes=shape))
    onnx.checker.check_model(changed, full_check=True)
    assert [node.op_type for node in changed.graph.node] == ["MaxPoolNhwc"]
    np.testing.assert_array_equal(run(changed, {"X": x}), pool.of(x)[0])


@pytest.mark.parametrize("second", ["3x3", "ceil", "3d"])
@pytest.mark.parametrize("answered", [0, 1])
def test_nodes_of_other_ranks_and_windows_share_a_function(second, answered):
    pools = [POOLS["1d"], POOLS[second]]
    feeds = {f"X{i}": draw((1, *pool.extents, 3), "float", i) for i, pool in enumerate(pools)}
    graph = helper.make_graph(
        [
            helper.make_node("MaxPoolNhwc", [f"X{i}"], [f"Y{i}"], domain="ort_cks", **pool.attributes())
            for i, pool in enumerate(pools)
        ],
        "two",
        [helper.make_tensor_value_info(name, 1, x.shape) for name, x in feeds.items()],
        [helper.make_tensor_value_info(f"Y{i}", 1, None) for i in (answered, 1 - answered)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ort_cks", 1)]
    model = with_fallback(helper.make_model(graph, opset_imports=opsets, ir_version=9))
    assert len(model.functions) == 1
    want, _ = pools[answered].of(feeds[f"X{answered}"])
    np.testing.assert_array_equal(run(model, feeds), want)
