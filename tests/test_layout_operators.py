"""The NHWC pass, one standard operator at a time: the same answers, and no Transpose beside the operator."""

import numpy as np
import pytest
from layout_models import check, conv
from onnx import TensorProto
from rewrite_models import Builder, rewrite

SHAPES = {"static": (2, 3, 8, 7), "open": ("n", 3, "h", "w")}
DIMS = {"n": 2, "h": 8, "w": 7, "d": 6}


def ints(net, *values):
    return net.constant(np.array(values, np.int64))


def over(net, op_type, y, axes, **attributes):
    """A reduction: its axes are an input since opset 18, ReduceSum's since 13."""
    if net.opset >= (13 if op_type == "ReduceSum" else 18):
        return net.op(op_type, y, ints(net, *axes), **attributes)
    return net.op(op_type, y, axes=axes, **attributes)


def between(make, opset=17, shape=(2, 3, 8, 7), channels=4, transposes=2, dtype=TensorProto.FLOAT):
    """in, a Conv of four channels, what is made, a Conv, out."""
    net = Builder(opset=opset, dtype=dtype)
    y = make(net, net.op("Relu", conv(net, net.input(*shape), 3, 4, len(shape) - 2)))
    y = conv(net, y, channels, 2, len(shape) - 2)
    return check(net, y, transposes=transposes, **DIMS)


def op_types(model):
    return [node.op_type for node in model.graph.node]


REDUCTIONS = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_that_keep_their_axes(name, opset):
    between(lambda net, y: net.op("Add", over(net, f"Reduce{name}", y, [-1, 1]), y), opset)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("axes", [[1], [2, 3], [0, 1], [1, 2, 3]])
def test_reductions_that_drop_their_axes(axes, shape):
    """What is left is N, C or the map: the same in either layout."""
    net = Builder()
    y = over(net, "ReduceMean", conv(net, net.input(*shape), 3, 4), axes, keepdims=0)
    check(net, net.op("Exp", y), transposes=1, **DIMS)


def test_a_reduction_of_everything():
    net = Builder()
    y = conv(net, net.input(2, 3, 8, 7), 3, 4)
    check(net, net.op("ReduceMean", y, keepdims=0), net.op("ReduceMax", y), transposes=1)


def test_a_reduction_that_would_reorder_what_it_keeps():
    net = Builder()
    y = over(net, "ReduceMean", conv(net, net.input(2, 3, 8, 7), 3, 4), [2], keepdims=0)
    check(net, net.op("Exp", y), transposes=2)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pools(rank, op_type, opset):
    shape = (2, 3, *(6, 5, 4)[:rank])
    between(lambda net, y: net.op("Mul", net.op(op_type, y), y), opset, shape)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_classifiers_head(shape):
    net = Builder()
    y = net.op("GlobalAveragePool", conv(net, net.input(*shape), 3, 4))
    y = net.op("Gemm", net.op("Flatten", y), net.normal(4, 5))
    model = check(net, y, transposes=1, **DIMS)
    assert op_types(model)[-3:] == ["ReduceMean", "Reshape", "Gemm"]


@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize(("axis", "keepdims", "transposes"), [(1, 0, 1), (1, 1, 1), (3, 1, 2), (2, 0, 2)])
def test_arg_reductions(op_type, axis, keepdims, transposes):
    """Of all channels: a label map. Its one channel is no axis to be moved."""
    net = Builder()
    y = net.op(op_type, conv(net, net.input(2, 3, 8, 7), 3, 4), axis=axis, keepdims=keepdims)
    check(net, net.op("Cast", y, to=TensorProto.FLOAT), transposes=transposes)


ALONG_AN_AXIS = {
    "Softmax": (13, lambda net, y: net.op("Softmax", y, axis=1)),
    "Softmax by default": (13, lambda net, y: net.op("Softmax", y)),
    "LogSoftmax": (17, lambda net, y: net.op("LogSoftmax", y, axis=2)),
    "LpNormalization": (17, lambda net, y: net.op("LpNormalization", y, axis=1)),
    "CumSum": (17, lambda net, y: net.op("CumSum", y, net.constant(np.array(1)), reverse=1)),
    "CumSum along W": (17, lambda net, y: net.op("CumSum", y, net.constant(np.array([-1], np.int32)))),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("case", ALONG_AN_AXIS)
def test_operators_along_one_axis(case, shape):
    opset, make = ALONG_AN_AXIS[case]
    between(make, opset, shape)


def test_a_softmax_of_old_flattens_axes_and_stays():
    between(lambda net, y: net.op("Softmax", y, axis=1), opset=11, transposes=4)


SLICES = {
    "channels": (17, lambda net, y: net.op("Slice", y, ints(net, 0), ints(net, 2), ints(net, 1)), 2),
    "steps": (
        17,
        lambda net, y: net.op(
            "Slice", y, ints(net, 1, -1), ints(net, 9, -99), ints(net, 2, -1), ints(net, 2, -1)
        ),
        4,
    ),
    "the first axes": (17, lambda net, y: net.op("Slice", y, ints(net, 0, 1), ints(net, 9, 3)), 2),
    "int32": (
        17,
        lambda net, y: net.op("Slice", y, *(net.constant(np.array(v, np.int32)) for v in ([0, 1], [9, 3]))),
        2,
    ),
    "attributes": (9, lambda net, y: net.op("Slice", y, starts=[1, 0], ends=[3, 5], axes=[1, 3]), 2),
    "attributes, the first axes": (9, lambda net, y: net.op("Slice", y, starts=[0, 1], ends=[9, 3]), 2),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("case", SLICES)
def test_slices(case, shape):
    opset, make, channels = SLICES[case]
    between(make, opset, shape, channels)


PADS = [0, 1, 2, 0, 0, 0, 1, 3]  # one more channel in front; rows and columns


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads(mode, shape):
    value = [0.5] if mode == "constant" else []
    between(
        lambda net, y: net.op("Pad", y, ints(net, *PADS), *map(net.constant, value), mode=mode), 19, shape, 5
    )


def test_pads_of_some_axes():
    between(
        lambda net, y: net.op("Pad", y, ints(net, 1, 2, 0, 1), net.constant(0.5), ints(net, -1, 1)),
        18,
        channels=7,
    )


def test_pads_as_attributes():
    between(lambda net, y: net.op("Pad", y, pads=PADS, value=0.5), 9, channels=5)


def test_pads_made_at_run_time():
    """As exporters pad to a multiple: what is measured is not transposed for it."""

    def make(net, y):
        height = net.op("Gather", net.op("Shape", y), net.constant(np.array([2])), axis=0)
        more = net.op("Mod", net.op("Neg", height), ints(net, 5))
        return net.op("Pad", y, net.op("Concat", ints(net, *[0] * 6), more, ints(net, 0), axis=0))

    between(make, shape=SHAPES["open"])


@pytest.mark.parametrize("shape", [(2, 3, 8, 7), ("n", 3, 8, 7)])
def test_expand(shape):
    net = Builder()
    y = over(net, "ReduceMean", conv(net, net.input(*shape), 3, 4), [2, 3])
    check(net, conv(net, net.op("Expand", y, ints(net, 4, 6, 5)), 4, 2), transposes=2, n=2)


@pytest.mark.parametrize(("opset", "limits"), [(13, {}), (17, {"start": 1}), (17, {"start": -3, "end": -1})])
def test_a_shape_is_told_in_its_own_order(opset, limits):
    net = Builder(opset=opset)
    y = conv(net, net.input(*SHAPES["open"]), 3, 4)
    check(net, conv(net, y, 4, 2), net.op("Shape", y, **limits), transposes=2, **DIMS)


POOLS = {
    "2x2": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "overlapping": {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "ceil and pads": {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    "SAME_UPPER": {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "SAME_LOWER": {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER"},
    "VALID": {"kernel_shape": [2, 3], "auto_pad": "VALID"},
    "dilated": {"kernel_shape": [2, 3], "dilations": [3, 2]},
}


# Input shape, and whether what is reduced over all of the map of four channels is a pool.
WHOLE_MAPS = {
    (2048, 3, 3, 2): True,
    (2048, 3, 5): True,
    (2048, 3, 1, 3, 2): True,
    (2047, 3, 3, 2): False,  # too few results to fill a GPU with windows
    ("n", 3, 3, 2): False,
    (2048, 3, "h", 2): False,
}


def means_of(net, y, spelled, rank):
    """The mean over the map in each of its spellings, with N and C alone for "dropped"."""
    axes = list(range(2, rank + 2))
    if spelled == "GlobalAveragePool":
        return net.op("GlobalAveragePool", y)
    return over(net, "ReduceMean", y, [a - rank - 2 for a in axes], keepdims=int(spelled == "kept"))


@pytest.mark.parametrize("opset", [12, 18])
@pytest.mark.parametrize("spelled", ["GlobalAveragePool", "kept", "dropped"])
@pytest.mark.parametrize("shape", WHOLE_MAPS, ids=str)
def test_means_of_maps(shape, spelled, opset):
    net, rank = Builder(opset=opset), len(shape) - 2
    y = means_of(net, conv(net, net.input(*shape), 3, 4, rank), spelled, rank)
    y = net.op("Exp", y) if spelled == "dropped" else net.op("Conv", y, net.normal(2, 4, *[1] * rank))
    types = op_types(check(net, y, transposes=1, **DIMS))
    assert ("AveragePool" in types) is WHOLE_MAPS[shape]
    assert ("ReduceMean" in types) is not WHOLE_MAPS[shape]


@pytest.mark.parametrize("shape", WHOLE_MAPS, ids=str)
def test_maxima_of_maps(shape):
    net, rank = Builder(), len(shape) - 2
    y = net.op("GlobalMaxPool", conv(net, net.input(*shape), 3, 4, rank))
    y = net.op("Conv", y, net.normal(2, 4, *[1] * rank))
    types = op_types(check(net, y, transposes=1, **DIMS))
    assert ("MaxPoolNhwc" in types) is WHOLE_MAPS[shape]
    assert ("ReduceMax" in types) is not WHOLE_MAPS[shape]


def test_a_mean_of_one_image_stays_a_reduction():
    """ONNX Runtime has a kernel for it."""
    net = Builder()
    y = conv(net, net.input(1, 3, 2, 2), 3, 8192)
    types = op_types(check(net, net.op("GlobalAveragePool", y), transposes=1))
    assert "ReduceMean" in types


@pytest.mark.parametrize("axes", [[1, 2, 3], [2], [0, 2, 3]])
def test_means_of_other_axes_stay_reductions(axes):
    model = between(lambda net, y: net.op("Add", over(net, "ReduceMean", y, axes), y))
    assert "ReduceMean" in op_types(model)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool", "AveragePool with pads"])
def test_pools(pool, case, shape):
    op_type, *_, padded = (*pool.split(), "")
    attributes = POOLS[case] | ({"count_include_pad": 1} if padded else {})
    model = between(lambda net, y: net.op(op_type, y, **attributes), 19, shape)
    if op_type == "AveragePool":
        assert op_types(model)[3:6] == ["Unsqueeze", op_type, "Squeeze"]
    else:
        assert op_types(model)[3] == "MaxPoolNhwc"


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_pools_of_signals(op_type):
    attributes = {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}
    between(lambda net, y: net.op(op_type, y, **attributes), 17, ("n", 3, "w"))


VOLUME_POOLS = {
    "2x2x2": {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]},
    "uneven": {"kernel_shape": [3, 2, 1], "strides": [2, 1, 3], "pads": [1, 0, 0, 1, 1, 0]},
    "ceil": {"kernel_shape": [3, 3, 3], "strides": [2, 2, 2], "ceil_mode": 1},
    "SAME_UPPER": {"kernel_shape": [3, 2, 2], "strides": [2, 2, 1], "auto_pad": "SAME_UPPER"},
}


@pytest.mark.parametrize("batch", [2, "n"])
@pytest.mark.parametrize("case", VOLUME_POOLS)
@pytest.mark.parametrize("padded", [0, 1])
def test_average_pools_of_volumes_are_two_pools(padded, case, batch):
    attributes = VOLUME_POOLS[case] | {"count_include_pad": padded}
    model = between(lambda net, y: net.op("AveragePool", y, **attributes), 19, (batch, 3, 6, 8, 7))
    assert op_types(model).count("AveragePool") == 2


def test_average_pools_of_volumes_of_any_size_stay():
    attributes = {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}
    between(lambda net, y: net.op("AveragePool", y, **attributes), 17, (2, 3, "d", 8, 7), transposes=4)


@pytest.mark.parametrize("shape", [(2, 3, 6, 8, 7), ("n", 3, "d", "h", "w")], ids=["static", "open"])
@pytest.mark.parametrize("case", VOLUME_POOLS)
def test_max_pools_of_volumes(case, shape):
    model = between(lambda net, y: net.op("MaxPool", y, **VOLUME_POOLS[case]), 19, shape)
    assert op_types(model).count("MaxPoolNhwc") == 1


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 12])
def test_max_pools_of_old(opset):
    model = between(lambda net, y: net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 1]), opset)
    assert op_types(model)[3] == "MaxPoolNhwc"


def test_a_max_pool_of_doubles_stays():
    """Which the operator does not know."""

    def make(net, y):
        wide = net.op("Cast", y, to=TensorProto.DOUBLE)
        pooled = net.op("MaxPool", wide, kernel_shape=[2, 2])
        return net.op("Cast", pooled, to=TensorProto.FLOAT)

    between(make, transposes=4)


def test_a_max_pool_may_name_the_order_of_indices_it_has_not():
    def make(net, y):
        return net.op("MaxPool", y, kernel_shape=[2, 2], storage_order=1)

    model = between(make)
    pool = next(node for node in model.graph.node if node.op_type == "MaxPoolNhwc")
    assert "storage_order" not in {attribute.name for attribute in pool.attribute}


def test_a_pool_that_says_where_its_maxima_were_stays():
    net = Builder()
    y = conv(net, net.input(2, 3, 8, 8), 3, 4)
    pooled = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    net.nodes[-1].output.append("where")
    unpooled = net.op("MaxUnpool", pooled, "where", kernel_shape=[2, 2], strides=[2, 2])
    check(net, conv(net, unpooled, 4, 2), transposes=4)


COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]


def resized(scales=None, sizes=None, **attributes):
    def make(net, y):
        scale = "" if scales is None else net.constant(np.array(scales, np.float32))
        size = [] if sizes is None else [ints(net, *sizes)]
        return net.op("Resize", y, "", scale, *size, **attributes)

    return make


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.7, 0.6), (3.0, 1.0)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_resize_by_scales(shape, mode, scales, coordinates):
    make = resized([1, 1, *scales], mode=mode, coordinate_transformation_mode=coordinates)
    between(make, 17, shape)


@pytest.mark.parametrize("opset", [11, 17, 19])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_to_sizes(mode, opset):
    def make(net, y):
        absent = net.constant(np.empty(0, np.float32)) if opset == 11 else ""
        return net.op("Resize", y, absent, absent, ints(net, 2, 4, 11, 5), mode=mode)

    between(make, opset)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_to_the_size_of_another(mode):
    """As a decoder upsamples to its skip: sizes that only a run knows are reordered too."""
    net = Builder()
    skip = conv(net, net.input(*SHAPES["open"]), 3, 4)
    w = net.normal(4, 4, 3, 3)
    y = net.op("Conv", skip, w, strides=[2, 2], pads=[1] * 4)
    y = net.op("Resize", y, "", "", net.op("Shape", skip), mode=mode)
    check(net, conv(net, net.op("Concat", y, skip, axis=1), 8, 2), transposes=2, **DIMS)


def test_resize_of_named_axes():
    def make(net, y):
        return net.op("Resize", y, "", net.constant(np.array([2.0, 3.0], np.float32)), axes=[3, 2])

    between(make, 18)


@pytest.mark.parametrize("opset", [9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode, opset):
    op_type = "Upsample" if opset == 9 else "Resize"
    scales = np.array([1, 1, 2, 3], np.float32)
    between(lambda net, y: net.op(op_type, y, net.constant(scales), mode=mode), opset)


@pytest.mark.parametrize(
    ("rank", "mode", "transposes"), [(1, "nearest", 2), (1, "linear", 2), (3, "nearest", 2), (3, "linear", 4)]
)
def test_resize_of_signals_and_volumes(rank, mode, transposes):
    shape = (2, 3, *(4, 5, 6)[:rank])
    between(resized([1, 1, *(2, 3, 2)[:rank]], mode=mode), 17, shape, transposes=transposes)


STAYING_RESIZES = {
    "cubic": resized([1, 1, 2, 2], mode="cubic"),
    "antialias": resized([1, 1, 0.5, 0.5], mode="linear", antialias=1),
    "aspect ratio": lambda net, y: net.op(
        "Resize",
        y,
        "",
        "",
        ints(net, 9, 9),
        axes=[2, 3],
        keep_aspect_ratio_policy="not_larger",
        mode="linear",
    ),
    "crop": lambda net, y: net.op(
        "Resize",
        y,
        net.constant(np.array([0, 0, 0.1, 0.2, 1, 1, 0.9, 0.8], np.float32)),
        net.constant(np.array([1, 1, 2, 2], np.float32)),
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
}


@pytest.mark.parametrize("case", STAYING_RESIZES)
def test_resizes_that_stay(case):
    between(STAYING_RESIZES[case], 18, transposes=4)


def one_pixel(net, shape):
    y = net.op("GlobalAveragePool", conv(net, net.input(*shape), 3, 4))
    return net.op("Relu", net.op("Conv", y, net.normal(4, 4, 1, 1)))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("by", ["scales", "sizes"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 7), ("n", 3, 8, 7)])
def test_a_resize_of_one_pixel_repeats_it(shape, by, mode, coordinates):
    net = Builder()
    how = {"scales": [1, 1, 5, 4]} if by == "scales" else {"sizes": [2, 4, 5, 4]}
    y = resized(**how, mode=mode, coordinate_transformation_mode=coordinates)(net, one_pixel(net, shape))
    model = check(net, conv(net, y, 4, 2), transposes=2, n=2)
    certain = mode != "nearest" or by == "scales" or shape[0] == 2
    assert ("Expand" in op_types(model)) is certain


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_one_pixel_repeated_to_the_size_of_another(mode):
    """The pooled branch of an ASPP, where the map may be of any size."""
    net = Builder()
    x = conv(net, net.input(*SHAPES["open"]), 3, 4)
    pooled = net.op("Conv", net.op("GlobalAveragePool", x), net.normal(4, 4, 1, 1))
    y = net.op("Resize", pooled, "", "", net.op("Shape", x), mode=mode)
    model = check(net, conv(net, net.op("Concat", x, y, axis=1), 8, 2), transposes=2, **DIMS)
    assert "Expand" in op_types(model)


def test_a_shape_of_the_models_input_is_read_there():
    net = Builder()
    x = net.input(*SHAPES["open"])
    y = net.op("Resize", conv(net, x, 3, 3), "", "", net.op("Shape", x), mode="nearest")
    model = check(net, conv(net, y, 3, 3), transposes=2, **DIMS)
    assert next(node for node in model.graph.node if node.op_type == "Shape").input[0] == x


BLOCKS = {
    "DCR": ("DepthToSpace", {"blocksize": 2}, 8, 2),
    "CRD": ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, 8, 2),
    "to depth": ("SpaceToDepth", {"blocksize": 2}, 4, 16),
}


@pytest.mark.parametrize("batch", [2, "n"])
@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_move_in_one_transpose(case, batch):
    op_type, attributes, before, after = BLOCKS[case]
    net = Builder()
    y = net.op(op_type, conv(net, net.input(batch, 3, 4, 6), 3, before), **attributes)
    model = check(net, conv(net, y, after, 2), transposes=3, n=2)
    assert op_type not in op_types(model)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_of_any_size(mode):
    net = Builder()
    y = net.op("DepthToSpace", conv(net, net.input(*SHAPES["open"]), 3, 8), blocksize=2, mode=mode)
    check(net, conv(net, y, 2, 2), transposes=3, **DIMS)


@pytest.mark.parametrize("opset", [8, 15])
def test_a_batch_normalization_before_an_activation(opset):
    """As in a DenseNet: what it reads is read by others too."""
    net = Builder(opset=opset)
    y = conv(net, net.input(2, 3, 6, 5), 3, 4)
    y = net.op("Concat", y, conv(net, y, 4, 4), axis=1)
    normalized = net.op("Relu", net.batch_norm(y, 8, epsilon=0.1))
    model = check(net, net.op("Add", conv(net, normalized, 8, 8), y), transposes=2)
    assert op_types(model).count("BatchNormalization") == 0


def test_a_batch_normalization_that_float16_has_no_factor_for_stays():
    net = Builder(dtype=TensorProto.FLOAT16)
    y = net.op("Concat", *[conv(net, net.input(1, 3, 4, 4), 3, 4)] * 2, axis=1)
    vectors = [net.constant(np.full(8, value)) for value in (1.0, 0.0, 0.0, 60000.0)]
    y = net.op("BatchNormalization", net.op("Abs", y), *vectors, epsilon=3e10)
    rewritten = rewrite(net.model(conv(net, y, 8, 2)), layout="nhwc").model
    assert "BatchNormalization" in op_types(rewritten)


def test_a_batch_normalization_of_the_models_input_stays_one_kernel():
    net = Builder()
    y = net.op("Relu", net.batch_norm(net.input(2, 3, 6, 5), 3))
    model = check(net, conv(net, y, 3, 4), transposes=2)
    assert op_types(model)[0] == "BatchNormalization"
