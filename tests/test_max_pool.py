"""MaxPoolNhwc on each provider, against ONNX Runtime's own MaxPool of NCHW and against the definition."""

import itertools
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from nodes import node_model, representable, run_node, session
from onnx import TensorProto, helper
from reference import NUMPY_TYPES, to_nchw, to_nhwc

DTYPES = ("float", "float16", "bfloat16")


@dataclass
class Pool:
    """A window, all of its attributes written out, over an input of these extents."""

    extents: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...] = ()
    ceil_mode: int = 0

    def __post_init__(self):
        self.dilations = self.dilations or (1,) * len(self.kernel)

    def attributes(self):
        names = ("strides", "pads", "dilations", "ceil_mode")
        return {"kernel_shape": self.kernel} | {name: getattr(self, name) for name in names}

    def taps(self):
        """For each axis and output, the positions in the input, as the definition has them."""
        rank = len(self.kernel)
        for axis, (n, k, s, d) in enumerate(
            zip(self.extents, self.kernel, self.strides, self.dilations, strict=True)
        ):
            begin, end = self.pads[axis], self.pads[axis + rank]
            starts = range(-begin, n + end - (k - 1) * d, s)
            if self.ceil_mode and (n + begin + end - (k - 1) * d - 1) % s and starts[-1] + s < n:
                starts = [*starts, starts[-1] + s]  # it reaches beyond the padding, and begins inside
            yield [[t for j in range(k) if 0 <= (t := start + j * d) < n] for start in starts]

    def of(self, x, dtype="float"):
        """Y[N, spatial, C] from X, and where the window has taps in the padding."""
        axes = list(self.taps())
        extents = tuple(map(len, axes))
        y = np.full((x.shape[0], *extents, x.shape[-1]), lowest(dtype), np.float64)
        borders = np.zeros(extents, bool)
        for output in itertools.product(*map(range, extents)):
            live = [axis[i] for axis, i in zip(axes, output, strict=True)]
            borders[output] = tuple(map(len, live)) != self.kernel
            if all(live):
                seen = x[(slice(None), *np.ix_(*live))]
                y[(slice(None), *output)] = seen.max(axis=tuple(range(1, x.ndim - 1)))
        return y, borders


def lowest(dtype):
    return float(ml_dtypes.finfo(NUMPY_TYPES[dtype]).min)


def native(pool, x):
    """ONNX Runtime's CPU provider, on the transposed tensor."""
    info = helper.make_tensor_value_info("X", TensorProto.FLOAT, x.shape[:1] + x.shape[-1:] + x.shape[1:-1])
    y = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    node = helper.make_node("MaxPool", ["X"], ["Y"], **pool.attributes())
    graph = helper.make_graph([node], "native", [info], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    run = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return to_nhwc(run.run(None, {"X": to_nchw(x)})[0]).astype(np.float64)


def draw(shape, dtype, seed=0):
    return representable(np.random.default_rng(seed).standard_normal(shape), dtype)


def assert_same(got, want, borders):
    assert got.shape == want.shape
    wrong = ~((got == want) | (np.isnan(got) & np.isnan(want))).all(axis=(0, -1))
    assert not wrong[borders].any(), f"border: {wrong[borders].sum()} of {borders.sum()} pixels are off"
    assert not wrong[~borders].any(), f"middle: {wrong[~borders].sum()} of {(~borders).sum()} pixels are off"


def check(pool, provider, dtype="float", C=8, batch=2):
    x = draw((batch, *pool.extents, C), dtype)
    got = run_node("MaxPoolNhwc", {"X": x}, pool.attributes(), dtype, provider=provider)
    want, borders = pool.of(x, dtype)
    assert_same(got, want, borders)
    # It computes in float, so its lowest number is another one.
    assert_same(got, np.maximum(native(pool, x), lowest(dtype)), borders)


POOLS = {
    "1d": Pool((11,), (3,), (2,), (1, 1)),
    "2x2": Pool((8, 10), (2, 2), (2, 2), (0, 0, 0, 0)),
    "2x2, odd": Pool((7, 9), (2, 2), (2, 2), (0, 0, 0, 0)),
    "3x3": Pool((9, 7), (3, 3), (2, 2), (1, 1, 1, 1)),
    "5x5": Pool((8, 9), (5, 5), (1, 1), (2, 2, 2, 2)),
    "uneven": Pool((9, 8), (3, 4), (2, 3), (1, 0, 2, 3)),
    "dilated": Pool((9, 11), (2, 3), (1, 2), (1, 2, 0, 1), (3, 2)),
    "ceil": Pool((8, 7), (3, 3), (2, 2), (0, 0, 0, 0), ceil_mode=1),
    "ceil, pads": Pool((8, 10), (3, 3), (2, 3), (1, 1, 1, 1), ceil_mode=1),
    "ceil, a window of nothing is left out": Pool((4, 4), (2, 2), (3, 3), (1, 1, 1, 1), ceil_mode=1),
    "ceil, dilated": Pool((10, 9), (3, 2), (2, 3), (2, 0, 1, 1), (2, 3), ceil_mode=1),
    "3d": Pool((6, 5, 7), (2, 2, 2), (2, 2, 2), (0, 0, 0, 0, 0, 0)),
    "3d, uneven": Pool((5, 6, 4), (3, 2, 3), (2, 1, 2), (1, 0, 2, 1, 1, 0), (1, 2, 1), ceil_mode=1),
    "the whole map": Pool((4, 5), (4, 5), (1, 1), (0, 0, 0, 0)),
    "wider than a thread block": Pool((3, 600), (2, 3), (1, 1), (1, 1, 0, 1)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOLS)
def test_every_window_and_type(provider, case, dtype):
    check(POOLS[case], provider, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [1, 3, 4, 12, 24, 300, 520])
@pytest.mark.parametrize("case", ["2x2, odd", "3x3", "3d, uneven"])
def test_channels(provider, case, C, dtype):
    check(POOLS[case], provider, dtype, C)


def random_pool(seed):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))

    def ints(low, high, n=rank):
        return tuple(int(v) for v in rng.integers(low, high + 1, n))

    while True:
        kernel = ints(1, 5 if rank < 3 else 3)
        pads = tuple(int(rng.integers(0, k)) for k in kernel * 2)  # ONNX Runtime allows no more
        pool = Pool(ints(1, 14 if rank < 3 else 7), kernel, ints(1, 4), pads, ints(1, 3), seed % 2)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, pool.dilations, strict=True)]
        if all(
            n + pads[i] + pads[i + rank] >= r
            for i, (n, r) in enumerate(zip(pool.extents, reach, strict=True))
        ):
            return pool


@pytest.mark.parametrize("seed", range(200))
def test_random_windows(provider, seed):
    check(random_pool(seed), provider, DTYPES[seed % 3], (8, 5, 16, 33)[seed % 4], batch=1 + seed % 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "pool",
    [
        Pool((1,), (2,), (1,), (1, 1), (2,)),
        Pool((2, 3), (2, 2), (1, 1), (1, 1, 1, 1), (3, 1)),
        Pool((1, 2, 3), (2, 1, 1), (1, 1, 1), (1, 0, 0, 1, 0, 0), (2, 1, 1)),
    ],
    ids=["w", "h", "d"],
)
def test_a_window_of_padding_alone_is_the_lowest_number(provider, pool, dtype):
    want, borders = pool.of(draw((2, *pool.extents, 8), dtype), dtype)
    assert want.min() < -60000
    assert borders.any()
    check(pool, provider, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [8, 5])
def test_a_nan_wins_and_infinities_are_numbers(provider, C, dtype):
    """At each place of a window in turn; ONNX Runtime's CPU provider keeps some and drops others."""
    pool = POOLS["3x3"]
    x = draw((9, *pool.extents, C), dtype)
    for image, (h, w) in enumerate(itertools.product(range(3, 6), range(2, 5))):
        x[image, h, w, image % C] = np.nan
        x[image, h - 1, w, (image + 1) % C] = np.inf
    x[0, :, :, 2] = -np.inf
    want, borders = pool.of(x, dtype)
    assert np.isnan(want).sum() >= 9
    got = run_node("MaxPoolNhwc", {"X": x}, pool.attributes(), dtype, provider=provider)
    assert_same(got, want, borders)


@pytest.mark.parametrize("extents", [(6, 7), (5, 4)])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(provider, auto_pad, extents):
    pads = []
    for n in extents:
        total = max((-(-n // 2) - 1) * 2 + 3 - n, 0) if auto_pad != "VALID" else 0
        pads.append((total // 2, total - total // 2)[:: 1 if auto_pad == "SAME_UPPER" else -1])
    pool = Pool(extents, (3, 3), (2, 2), tuple(p[0] for p in pads) + tuple(p[1] for p in pads))
    x = draw((2, *extents, 8), "float")
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "auto_pad": auto_pad}
    got = run_node("MaxPoolNhwc", {"X": x}, attributes, provider=provider)
    assert_same(got, *pool.of(x))


def test_defaults(provider):
    x = draw((2, 5, 6, 8), "float")
    got = run_node("MaxPoolNhwc", {"X": x}, {"kernel_shape": (2, 3)}, provider=provider)
    assert_same(got, *Pool((5, 6), (2, 3), (1, 1), (0, 0, 0, 0)).of(x))


def test_open_extents_and_other_shapes_in_one_session(provider):
    pool = POOLS["3x3"]
    shape = {"X": ("n", "h", "w", "c")}
    model = node_model("MaxPoolNhwc", {"X": draw((1, 1, 1, 1), "float")}, pool.attributes(), shapes=shape)
    opened = session(model, provider)
    for batch, extents, C in ((1, (4, 5), 8), (3, (9, 7), 3), (1, (4, 5), 8), (0, (4, 5), 8)):
        x = draw((batch, *extents, C), "float", batch)
        got = opened.run(None, {"X": x})[0].astype(np.float64)
        assert_same(got, *Pool(extents, pool.kernel, pool.strides, pool.pads).of(x))


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "attribute kernel_shape is required"),
        ({"kernel_shape": (2, 2, 2)}, "kernel_shape has 3 entries, but the input has 2 spatial axes"),
        ({"kernel_shape": (0, 2)}, "must not be under 1"),
        ({"kernel_shape": (9, 2)}, "leaves no output"),
        ({"kernel_shape": (2, 2), "strides": (1, 0)}, "strides"),
        ({"kernel_shape": (2, 2), "ceil_mode": 1.5}, "attribute ceil_mode must be an integer"),
    ],
)
def test_errors_are_sentences_with_the_nodes_name(provider, attributes, words):
    with pytest.raises(Exception, match="(?s)MaxPoolNhwc node 'the_node': .*" + words):
        run_node("MaxPoolNhwc", {"X": draw((1, 5, 6, 8), "float")}, attributes, provider=provider)


def test_the_shape_is_inferred():
    """So that ONNX Runtime's own passes know the tensors behind it; an extent that is open stays so."""
    x = draw((2, 5, 6, 8), "float")
    attributes = POOLS["ceil"].attributes()
    model = node_model("MaxPoolNhwc", {"X": x}, attributes, shapes={"X": ("n", 5, "w", 8)})
    (y,) = session(model).get_outputs()
    assert y.shape[0] == "n"
    assert y.shape[1] == 2
    assert y.shape[3] == 8
    assert isinstance(y.shape[2], str)
