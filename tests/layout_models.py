"""What the tests of the NHWC pass share: a convolution to stand beside, and the check of a whole rewrite."""

import onnx
import onnx_ir as ir
from onnx import helper
from rewrite_models import assert_same_answers, random_feeds, rewrite, run

from ort_cks.graph_rewrite.operators import is_swapped, layouts


def conv(net, x, channels, filters, rank=2):
    w, b = net.normal(filters, channels, *(3, 3, 3)[:rank]), net.normal(filters)
    return net.op("Conv", x, w, b, pads=[1] * (2 * rank))


def check(net, *outputs, transposes, fuse=False, **dims):
    """Rewrites to NHWC and compares answers; `transposes` is the number that has to be left."""
    original = net.model(*outputs)
    result = rewrite(original, layout="nhwc", fuse=fuse)
    assert [record.decision for record in result.nodes] == ["swapped"] * len(result.nodes)
    rewritten = result.model
    graph = rewritten.graph
    assert all(value.uses() for each in result.ir_model.graphs() for value in each.initializers.values())
    assert [output.name for output in graph.output] == list(outputs)
    for node in graph.node:
        if is_swapped(converted := ir.from_proto(node)):
            assert "NHWC" in layouts(converted)
    feeds = random_feeds(original, dims=dims)
    # As it is saved, without ONNX Runtime's optimiser: what that would tidy up does not count.
    assert_same_answers(original, rewritten, feeds)
    check_shapes(rewritten, feeds)
    assert [node.op_type for node in graph.node].count("Transpose") == transposes
    return rewritten


def check_shapes(model, feeds):
    """Every shape that the model states is the one that the value has in a run."""
    stated = {value.name: value.type.tensor_type for value in (*model.graph.value_info, *model.graph.output)}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    exposed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    checked = 0
    for name, array in zip(names, run(exposed, feeds), strict=True):
        if name in stated and stated[name].HasField("shape"):
            dims = stated[name].shape.dim
            assert len(dims) == array.ndim, name
            for dim, extent in zip(dims, array.shape, strict=True):
                assert not dim.HasField("dim_value") or dim.dim_value == extent, name
            checked += 1
    assert checked == len(names)
