"""Transposes that the convolutions of few channels do without, and each reason to leave one."""

import numpy as np
import onnx
import pytest
from fallback_models import run as run_optimized
from onnx import TensorProto
from rewrite_models import Builder, assert_same_answers, op_types, random_feeds, rewrite
from test_rewrite_fuse_concat import conv

import ort_cks
from ort_cks.graph_rewrite import measure
from ort_cks.graph_rewrite.fuse_transpose import FuseTransposePass
from ort_cks.graph_rewrite.operators import layouts

EXTENTS = {1: (10,), 2: (8, 6), 3: (5, 4, 6)}


def filtered(b: Builder, x: str, channels: int, filters: int, rank: int = 2, op: str = "Conv", **attributes):
    """A convolution that keeps the extents."""
    shape = (filters, channels) if op == "Conv" else (channels, filters)
    w = b.constant(b.random.standard_normal((*shape, *(3,) * rank)) / 5 / channels**0.5)
    return b.op(op, x, w, b.normal(filters), **({"pads": [1] * (2 * rank)} | attributes))


def check(model: onnx.ModelProto, transposes: int, *expected: tuple[str, str], rtol: float = 2e-5, **options):
    """So many Transposes are left, the convolutions have these layouts, and the answers are as before: with
    the functions of standard operators, optimized or not, and with the library.
    """
    result = rewrite(model, **({"layout": "nhwc"} | options))
    rewritten = result.model
    assert op_types(result).count("Transpose") == transposes
    assert [layouts(node) for node in result.ir_model.graph if node.domain == "ort_cks"] == list(expected)
    assert [output.name for output in rewritten.graph.output] == [o.name for o in model.graph.output]
    assert_same_answers(model, rewritten, rtol=rtol)
    feeds = random_feeds(model)
    dtype = "float16" if feeds["x0"].dtype == np.float16 else "float"
    want = run_optimized(model, feeds, dtype)
    size = np.sqrt(np.mean(np.square(want.astype(np.float64))))
    for got in (
        run_optimized(rewritten, feeds, dtype),
        ort_cks.InferenceSession(rewritten).run(None, feeds)[0],
    ):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * size)
    return result


NCHW, NHWC, IN, OUT = ("NCHW", "NCHW"), ("NHWC", "NHWC"), ("NCHW", "NHWC"), ("NHWC", "NCHW")


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_an_image_and_what_is_made_of_it(channels, rank):
    b = Builder()
    y = b.op("Relu", filtered(b, b.input(2, channels, *EXTENTS[rank]), channels, 8, rank))
    z = b.op("Tanh", filtered(b, y, 8, channels, rank))
    result = check(b.model(z), 0, IN, OUT)
    assert [record.fused for record in result.nodes] == [["Transpose", "Relu"], ["Tanh", "Transpose"]]


def test_a_transposed_convolution_writes_the_image():
    b = Builder()
    y = filtered(b, b.input(2, 3, 8, 6), 3, 8)
    check(b.model(filtered(b, y, 8, 3, op="ConvTranspose", strides=[2, 2])), 0, IN, OUT)


def test_one_convolution_on_both_sides():
    b = Builder()
    check(b.model(filtered(b, b.input(2, 3, 8, 6), 3, 4)), 0, NCHW)


def test_one_channel_needs_no_transpose():
    b = Builder()
    check(b.model(filtered(b, filtered(b, b.input(2, 1, 8, 6), 1, 8), 8, 1)), 0, NHWC, NHWC)


def test_several_read_the_image():
    b = Builder()
    x = b.input(2, 3, 8, 6)
    dilated = filtered(b, x, 3, 8, dilations=[2, 1], pads=[2, 1, 2, 1])
    y = b.op("Concat", filtered(b, x, 3, 8), dilated, axis=1)
    check(b.model(filtered(b, b.op("Neg", y), 16, 3)), 0, IN, IN, OUT)


def test_open_extents():
    b = Builder()
    x = b.input("n", 3, "h", "w")
    model = b.model(filtered(b, filtered(b, x, 3, 8), 8, 2))
    result = rewrite(model, layout="nhwc")
    assert "Transpose" not in op_types(result)
    assert_same_answers(model, result.model, random_feeds(model, dims={"n": 2, "h": 7, "w": 5}))


# data type, output channels: what fills no whole chunks of 16 bytes is stored by elements in either layout
@pytest.mark.parametrize(
    ("dtype", "filters", "transposes"),
    [
        (TensorProto.FLOAT, 17, 0),
        (TensorProto.FLOAT16, 4, 0),
        (TensorProto.FLOAT16, 20, 0),
        (TensorProto.FLOAT16, 8, 1),
        (TensorProto.FLOAT, 8, 1),
        (TensorProto.FLOAT, 20, 1),
    ],
)
def test_channels_of_a_head(dtype, filters, transposes):
    b = Builder(dtype)
    model = b.model(filtered(b, filtered(b, b.input(1, 3, 6, 5), 3, 8), 8, filters))
    check(
        model, transposes, IN, NHWC if transposes else OUT, rtol=2e-5 if dtype == TensorProto.FLOAT else 2e-2
    )


def many_inputs(b: Builder) -> str:
    return filtered(b, b.input(2, 5, 8, 6), 5, 3)


def groups_in(b: Builder) -> str:
    return filtered(b, filtered(b, b.input(2, 4, 8, 6), 2, 8, group=2), 8, 3)


def groups_out(b: Builder) -> str:
    return filtered(b, filtered(b, b.input(2, 3, 8, 6), 3, 8), 4, 2, group=2)


def transposed_convolution(b: Builder) -> str:
    return filtered(b, filtered(b, b.input(2, 3, 8, 6), 3, 8, op="ConvTranspose"), 8, 3)


def with_another_reader(b: Builder) -> str:
    """The Concat is of values in NHWC, so that the Transpose is needed all the same."""
    x = b.input(2, 3, 8, 6)
    y = b.op("Concat", filtered(b, x, 3, 8), x, axis=1)
    return filtered(b, b.op("Neg", y), 11, 3)


def with_a_residual(b: Builder) -> str:
    x = filtered(b, b.input(2, 3, 8, 6), 3, 3)
    return b.op("Add", filtered(b, x, 3, 3), x)


@pytest.mark.parametrize(
    ("make", "transposes", "expected"),
    [
        (many_inputs, 1, [OUT]),
        (groups_in, 1, [NHWC, OUT]),
        (groups_out, 1, [IN, NHWC]),
        (transposed_convolution, 1, [NHWC, OUT]),
        (with_another_reader, 1, [NHWC, OUT]),
        (with_a_residual, 1, [IN, NHWC]),
    ],
)
def test_left(make, transposes, expected):
    b = Builder()
    model = b.model(make(b))
    if make is groups_out:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    check(model, transposes, *expected)


def test_left_where_the_output_is_read_in_both_layouts():
    b = Builder()
    y = filtered(b, filtered(b, b.input(2, 3, 8, 6), 3, 8), 8, 3)
    check(b.model(y, filtered(b, y, 3, 8)), 2, IN, NHWC, NHWC)


@pytest.mark.parametrize("options", [{"fuse": False}, {"layout": "nchw"}])
def test_left_by_options(options):
    b = Builder()
    model = b.model(filtered(b, filtered(b, b.input(2, 3, 8, 6), 3, 8), 8, 3))
    check(model, 0 if "layout" in options else 2, *[NCHW if "layout" in options else NHWC] * 2, **options)


def test_a_transpose_of_the_models_own_is_left_beside_nchw():
    """In 1-D the permutations to and from NHWC are the same."""
    b = Builder()
    y = filtered(b, b.op("Transpose", b.input(2, 10, 3), perm=[0, 2, 1]), 3, 3, rank=1)
    model = b.model(b.op("Transpose", y, perm=[0, 2, 1]))
    result = rewrite(model, layout="nchw", fallback=False)
    graph = result.ir_model.graph
    records = {node: result.nodes[0] for node in graph if node.domain == "ort_cks"}
    FuseTransposePass(records)(result.ir_model)
    assert [node.op_type for node in graph] == ["Transpose", "ConvV2", "Transpose"]
    check(model, 0, NHWC)


def test_what_is_excluded_keeps_its_transpose():
    b = Builder()
    x = b.input(2, 3, 8, 6)
    model = b.model(b.op("Add", conv(b, x, 3, 8), conv(b, x, 3, 8)))
    result = rewrite(model, layout="nhwc", exclude="/conv0")
    assert [layouts(node) for node in result.ir_model.graph if node.domain == "ort_cks"] == [IN]
    assert_same_answers(model, result.model)


def test_measured_with_the_layouts_it_has(monkeypatch):
    """A region begins at the image and ends at what is made of it, on both sides."""
    seen = []

    def measure_us(native, swapped, provider, strict):
        seen.append((native, swapped))
        return 2.0, 1.0

    monkeypatch.setattr(measure, "measure_us", measure_us)
    monkeypatch.setattr(measure, "default_provider", lambda: "cuda")
    b = Builder()
    model = b.model(filtered(b, b.op("Relu", filtered(b, b.input(2, 3, 8, 6), 3, 8)), 8, 3))
    check(model, 0, IN, OUT, measure=True)
    ((native, swapped),) = seen
    assert [node.op_type for node in swapped.graph.node] == ["ConvV2", "ConvV2"]
    for part in (native, swapped):
        assert [value.name for value in part.graph.input] == ["x0"]
        assert [value.name for value in part.graph.output] == [model.graph.output[0].name]
