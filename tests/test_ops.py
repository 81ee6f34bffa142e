"""ConvV2, SkDilated and KSDeconv in ONNX Runtime, on each provider, against the definition in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
from nodes import OPSETS, representable, run_node, session
from onnx import TensorProto, helper
from reference import ACTIVATIONS, Geometry, activation_attributes, assert_close, to_nchw, to_nhwc

DTYPES = ("float", "float16", "bfloat16")
LAYOUTS = ("NCHW", "NHWC")
MIXED = (("NCHW", "NHWC"), ("NHWC", "NCHW"))  # of X, of Y

# name: (operator, input extents, geometry), one for each rank
CASES = {
    "ConvV2-1d": ("ConvV2", (11,), Geometry((4,), (2,), (1,), (1, 3))),
    "ConvV2-2d": ("ConvV2", (7, 9), Geometry((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))),
    "ConvV2-3d": ("ConvV2", (5, 4, 6), Geometry((3, 2, 3), (2, 1, 1), (1, 1, 1), (1, 0, 1, 1, 1, 2))),
    "SkDilated-1d": ("SkDilated", (9,), Geometry((3,), (1,), (4,), (4, 4))),
    "SkDilated-2d": ("SkDilated", (8, 7), Geometry((3, 3), (1, 2), (3, 2), (3, 2, 3, 2))),
    "SkDilated-3d": ("SkDilated", (5, 6, 4), Geometry((2, 3, 3), (1, 1, 1), (2, 2, 3), (1, 2, 3, 1, 2, 3))),
    "KSDeconv-1d": ("KSDeconv", (6,), Geometry((4,), (2,), (1,), (1, 1), transposed=True)),
    "KSDeconv-2d": ("KSDeconv", (4, 5), Geometry((4, 3), (2, 3), (1, 2), (1, 0, 2, 1), 1, (1, 2), True)),
    "KSDeconv-3d": (
        "KSDeconv",
        (3, 2, 4),
        Geometry((3, 3, 2), (2, 2, 2), (1, 1, 1), (1, 1, 0, 1, 0, 0), 1, (0, 1, 0), True),
    ),
}


class Node:
    """A node with random operands that its type can hold, and what it should give."""

    def __init__(self, op, extents, geometry, dtype="float", C=8, K=12, batch=2, seed=0):
        rng = np.random.default_rng(seed)
        self.op, self.geometry, self.dtype = op, geometry, dtype
        w_channels = (C, K // geometry.group) if geometry.transposed else (K, C // geometry.group)
        terms = math.prod(geometry.kernel) * C // geometry.group

        def draw(shape, scale=1.0):
            return representable(scale * rng.standard_normal(shape), dtype)

        self.extents, self.terms = extents, terms
        self.inputs = {
            "X": draw((batch, C, *extents)),
            "W": draw((*w_channels, *geometry.kernel), 1 / math.sqrt(terms)),
            "B": draw((K,)),
            "Z": draw((batch, K, *geometry.output_extents(extents))),
        }

    def check(
        self,
        provider,
        names="XWBZ",
        activation="",
        layout="NCHW",
        y_layout="",
        constants="WB",
        precision="fp32",
        residual_alpha=1.0,
        split=0,
    ):
        """y_layout: "" for layout's. split: the channels of X, the others of the input being X2's; 0 where X
        is all of it.
        """
        _, apply = ACTIVATIONS[activation]
        want, magnitude = self._sums(names, residual_alpha)
        attributes = self.geometry.attributes() | {"layout": layout, "precision": precision}
        attributes |= {"y_layout": y_layout} if y_layout else {}
        attributes |= {"residual_alpha": residual_alpha} if residual_alpha != 1 else {}
        attributes |= activation_attributes(activation, len(self.inputs["B"]))
        inputs = {name: self.inputs[name] for name in names}
        layouts = {"X": layout, "Z": y_layout or layout}
        inputs = {n: to_nhwc(v) if layouts.get(n) == "NHWC" else v for n, v in inputs.items()}
        constants = tuple(c for c in constants if c in names)
        if split:
            attributes["concat"] = 1
            x = inputs["X"]
            inputs |= {"X": x[..., :split].copy(), "X2": x[..., split:].copy()}
        got = run_node(self.op, inputs, attributes, self.dtype, constants, provider)
        if layouts["Z"] == "NHWC":
            got = to_nchw(got)
        tf32 = provider == "cuda" and self.dtype == "float" and precision == "tf32"
        borders = self.geometry.borders(self.extents)
        assert_close(got, apply(want), magnitude, self.terms, self.dtype, borders, 2.0**-11 if tf32 else 0)

    def _sums(self, names, residual_alpha):
        """What the activation sees, and what it comes to with absolute values."""

        def total(operands):
            y = self.geometry.convolve(operands["X"], operands["W"])
            if "B" in names:
                y += np.asarray(operands["B"], np.float64).reshape(-1, *(1,) * len(self.extents))
            return y + operands["Z"] if "Z" in names else y

        z = np.asarray(self.inputs["Z"], np.float64)
        inputs = self.inputs | {"Z": np.where(z < 0, z / residual_alpha, z)}
        return total(inputs), total({name: abs(value) for name, value in inputs.items()})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_every_rank_type_and_layout(provider, case, dtype, layout):
    Node(*CASES[case], dtype).check(provider, layout=layout, activation="Relu")


@pytest.mark.parametrize("layouts", MIXED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_a_layout_of_x_and_one_of_y(provider, case, dtype, layouts):
    layout, y_layout = layouts
    Node(*CASES[case], dtype, seed=9).check(provider, layout=layout, y_layout=y_layout, activation="Relu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", ["ConvV2-2d", "KSDeconv-2d"])
def test_every_activation(provider, case, activation, dtype):
    Node(*CASES[case], dtype, seed=1).check(provider, activation=activation)


# (C, K, group, layout): on a GPU each has a kernel of its own
FAMILIES = {
    "many channels": (64, 72, 1, "NHWC"),
    "many channels first": (64, 72, 1, "NCHW"),
    "groups of many": (64, 144, 2, "NHWC"),
    "few inputs": (8, 56, 1, "NHWC"),
    "few inputs first": (3, 12, 1, "NCHW"),
    "few outputs": (64, 3, 1, "NHWC"),
    "depthwise": (24, 24, 24, "NHWC"),
    "depthwise first": (10, 10, 10, "NCHW"),
    "two outputs of each input": (9, 18, 9, "NHWC"),
}


def check_family(provider, family, dtype, **options):
    C, K, group, layout = FAMILIES[family]
    geometry = Geometry((3, 3), pads=(1, 1, 1, 1), group=group)
    Node("ConvV2", (9, 20), geometry, dtype, C, K, seed=8).check(provider, layout=layout, **options)


@pytest.mark.parametrize("names", ["XWB", "XWBZ"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_slope_a_channel(provider, family, dtype, names):
    check_family(provider, family, dtype, names=names, activation="PRelu")


@pytest.mark.parametrize("alpha", [0.01, 0.25])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_residual_that_went_through_a_leaky_relu(provider, family, dtype, alpha):
    check_family(provider, family, dtype, activation="LeakyRelu", residual_alpha=alpha)


@pytest.mark.parametrize("names", ["XW", "XWB", "XWBZ"])
@pytest.mark.parametrize("case", CASES)
def test_optional_inputs(provider, case, names):
    Node(*CASES[case], seed=2).check(provider, names)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_as_run_time_inputs(provider, case, dtype):
    Node(*CASES[case], dtype, seed=3).check(provider, constants="")


@pytest.mark.parametrize("case", CASES)
def test_tf32(provider, case):
    """Where there is a GPU, within what rounding the factors to TF32 costs; elsewhere as exact as fp32."""
    Node(*CASES[case], seed=4, C=24, K=40).check(provider, precision="tf32")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("C", "K", "group"), [(6, 9, 3), (8, 8, 8), (6, 12, 6), (3, 5, 1), (1, 1, 1), (64, 32, 2)]
)
@pytest.mark.parametrize("case", ["ConvV2-2d", "SkDilated-2d", "KSDeconv-2d"])
def test_groups_and_channels(provider, case, C, K, group, dtype, layout):
    op, extents, geometry = CASES[case]
    Node(op, extents, replace(geometry, group=group), dtype, C, K, seed=5).check(
        provider, layout=layout, activation="Silu"
    )


@pytest.mark.parametrize("names", ["XWB", "XWBZ"])
@pytest.mark.parametrize("layouts", MIXED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layout_of_x_and_one_of_y_in_each_family(provider, family, dtype, layouts, names):
    C, K, group, _ = FAMILIES[family]
    layout, y_layout = layouts
    geometry = Geometry((3, 3), pads=(1, 1, 1, 1), group=group)
    node = Node("ConvV2", (9, 20), geometry, dtype, C, K, seed=10)
    node.check(provider, names, layout=layout, y_layout=y_layout, activation="PRelu")


# (channels, those of X, output channels, groups): what the kernels of a GPU read in place, by blocks or by
# chunks of channels, and what they copy first
SPLITS = [
    (128, 64, 64, 1),
    (104, 64, 72, 1),
    (192, 128, 16, 1),
    (64, 32, 32, 1),
    (32, 16, 24, 1),
    (24, 16, 40, 1),
    (11, 8, 12, 1),
    (64, 61, 32, 1),
    (40, 16, 3, 1),
    (12, 5, 8, 4),
    (16, 8, 16, 16),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("case", ["ConvV2-2d", "SkDilated-2d", "KSDeconv-2d"])
def test_an_input_in_two_tensors(provider, case, split, dtype):
    op, extents, geometry = CASES[case]
    C, of_x, K, group = split
    node = Node(op, extents, replace(geometry, group=group), dtype, C, K, seed=6)
    node.check(provider, layout="NHWC", activation="Relu", split=of_x)


@pytest.mark.parametrize("of_x", [64, 11])
def test_an_input_in_two_tensors_and_an_output_of_planes(provider, of_x):
    op, extents, geometry = CASES["KSDeconv-2d"]
    node = Node(op, extents, geometry, "float16", 2 * of_x, 3, seed=11)
    node.check(provider, layout="NHWC", y_layout="NCHW", split=of_x)


@pytest.mark.parametrize("names", ["XW", "XWB", "XWBZ"])
@pytest.mark.parametrize("constants", ["WB", ""])
@pytest.mark.parametrize("case", CASES)
def test_x2_is_the_last_input(provider, case, constants, names):
    node = Node(*CASES[case], seed=7, C=40)
    node.check(provider, names, layout="NHWC", constants=constants, split=32)


def random_node(seed):
    """Any geometry with a positive output: the corners that a table forgets."""
    rng = np.random.default_rng(seed)
    op = str(rng.choice(["ConvV2", "SkDilated", "KSDeconv"]))
    rank = int(rng.integers(1, 4))

    def draw(low, high, n=rank):
        return tuple(int(v) for v in rng.integers(low, high + 1, n))

    while True:
        kernel, strides = draw(1, 5 if rank < 3 else 3), draw(1, 3)
        dilations = (1,) * rank if op == "ConvV2" else draw(1, 4)
        extra = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(strides, dilations, strict=True))
        pads, group, transposed = draw(0, 4, 2 * rank), int(rng.integers(1, 4)), op == "KSDeconv"
        geometry = Geometry(kernel, strides, dilations, pads, group, extra if transposed else (), transposed)
        extents = draw(1, 10 if rank < 3 else 5)
        if min(geometry.output_extents(extents)) > 0:
            break
    C, K = (geometry.group * int(n) for n in rng.integers(1, 20, 2))
    return Node(op, extents, geometry, str(rng.choice(DTYPES)), C, K, int(rng.integers(1, 4)), seed)


@pytest.mark.parametrize("seed", range(100))
def test_random_problems(provider, seed):
    names = ("XW", "XWB", "XWBZ")[seed % 3]
    activation = list(ACTIVATIONS)[seed % len(ACTIVATIONS)]
    constants = "WB" if seed % 4 else ""
    layout, y_layout = LAYOUTS[seed // 3 % 2], ("", "NCHW", "NHWC")[seed // 6 % 3]
    random_node(seed).check(provider, names, activation, layout, y_layout, constants)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", ["ConvV2", "KSDeconv"])
def test_empty_batch(provider, op, layout):
    node = Node(*CASES[f"{op}-2d"], batch=0)
    node.check(provider, layout=layout)


# (operator, the native one, attributes): where ONNX Runtime decides about padding
SHAPED = [
    ("ConvV2", "Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ("ConvV2", "Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("ConvV2", "Conv", {"auto_pad": "VALID"}),
    ("SkDilated", "Conv", {"auto_pad": "VALID", "dilations": [2, 1]}),
    ("KSDeconv", "ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ("KSDeconv", "ConvTranspose", {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ("KSDeconv", "ConvTranspose", {"auto_pad": "VALID", "strides": [2, 2]}),
    ("KSDeconv", "ConvTranspose", {"output_shape": [13, 15], "strides": [2, 2]}),
    ("KSDeconv", "ConvTranspose", {"output_shape": [12, 14], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("KSDeconv", "ConvTranspose", {"output_padding": [1, 0], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("KSDeconv", "ConvTranspose", {"output_padding": [1, 1], "strides": [2, 3], "pads": [1, 0, 0, 2]}),
]


@pytest.mark.parametrize(("op", "native", "attributes"), SHAPED)
def test_padding_as_onnx_runtime_decides_it(provider, op, native, attributes):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2, 5, 6, 7)).astype(np.float32)
    w = (rng.standard_normal((5, 4, 3, 4) if op == "KSDeconv" else (4, 5, 3, 4)) / 8).astype(np.float32)
    want = run_native(native, x, w, attributes)
    magnitude = run_native(native, abs(x), abs(w), attributes)
    got = run_node(
        op, {"X": x, "W": w}, attributes | {"precision": "fp32"}, constants=("W",), provider=provider
    )
    assert_close(got, np.asarray(want, np.float64), 2 * magnitude, 5 * 12, "float")


def run_native(op, x, w, attributes):
    """ONNX Runtime's own operator on the CPU: the oracle for what it alone decides."""
    graph = helper.make_graph(
        [helper.make_node(op, ["X", "W"], ["Y"], **attributes)],
        "native",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in (("X", x), ("W", w))],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
    )
    return session(helper.make_model(graph, opset_imports=OPSETS, ir_version=9)).run(None, {"X": x, "W": w})[
        0
    ]
