"""What the operators must compute, by the definition of a convolution, in float64, and how far off it may be.

Nothing here knows of the plan or the kernels: padding is made of real zeros, and every tap is multiplied.
"""

import itertools
import math
from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np

NUMPY_TYPES = {"float": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Half a unit in the last place, relative to the value, and the spacing of subnormal numbers.
ROUNDING = {"float": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TINIEST = {"float": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slopes(channels):
    """Of a PRelu: some negative, some above 1, exact in every type."""
    return (np.arange(channels) * 5 % 29 - 8) / 16


def _prelu(x):
    return np.where(x < 0, x * slopes(x.shape[1]).reshape(-1, *[1] * (x.ndim - 2)), x)


# name: (parameters used in the tests, or what gives them for so many channels; definition, of x[N, C, ...])
ACTIVATIONS = {
    "": ((), lambda x: x),
    "Relu": ((), lambda x: np.maximum(x, 0)),
    "LeakyRelu": ((0.25,), lambda x: np.where(x < 0, 0.25 * x, x)),
    "Clip": ((-0.5, 0.75), lambda x: np.clip(x, -0.5, 0.75)),
    "Sigmoid": ((), _sigmoid),
    "Tanh": ((), np.tanh),
    "HardSigmoid": ((0.25, 0.375), lambda x: np.clip(0.25 * x + 0.375, 0, 1)),
    "HardSwish": ((), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Silu": ((), lambda x: x * _sigmoid(x)),
    "Gelu": ((), lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2),
    "GeluTanh": ((), lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "Elu": ((0.5,), lambda x: np.where(x < 0, 0.5 * np.expm1(np.minimum(x, 0)), x)),
    "PRelu": (slopes, _prelu),
}
STEEPEST = 1.5  # no activation above changes faster than its input times this


def activation_attributes(activation, channels):
    parameters, _ = ACTIVATIONS[activation]
    if callable(parameters):
        parameters = parameters(channels).tolist()
    named = {"activation": activation, "activation_params": parameters}
    return {name: value for name, value in named.items() if value}


@dataclass
class Geometry:
    """A convolution's attributes, all given. `pads` are as ONNX has them: all begins, then all ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    group: int = 1
    output_padding: tuple[int, ...] = ()
    transposed: bool = False
    rank: int = field(init=False)

    def __post_init__(self):
        self.rank = len(self.kernel)
        self.strides = self.strides or (1,) * self.rank
        self.dilations = self.dilations or (1,) * self.rank
        self.pads = self.pads or (0,) * (2 * self.rank)
        self.output_padding = self.output_padding or (0,) * self.rank

    def attributes(self):
        """As ONNX attributes."""
        names = ("strides", "dilations", "pads", "group")
        attributes = {"kernel_shape": self.kernel} | {name: getattr(self, name) for name in names}
        return attributes | ({"output_padding": self.output_padding} if self.transposed else {})

    def _axes(self):
        begins, ends = self.pads[: self.rank], self.pads[self.rank :]
        return zip(self.kernel, self.strides, self.dilations, begins, ends, self.output_padding, strict=True)

    def output_extents(self, extents):
        if self.transposed:
            return tuple(
                (n - 1) * s + (k - 1) * d + 1 + extra - begin - end
                for n, (k, s, d, begin, end, extra) in zip(extents, self._axes(), strict=True)
            )
        return tuple(
            (n + begin + end - (k - 1) * d - 1) // s + 1
            for n, (k, s, d, begin, end, _) in zip(extents, self._axes(), strict=True)
        )

    def _taps(self):
        return itertools.product(*(range(k) for k in self.kernel))

    def _window(self, tap, counts):
        """The slice that `counts` steps of a tap visit, spatial axes."""
        return tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, n, s, d in zip(tap, counts, self.strides, self.dilations, strict=True)
        )

    def convolve(self, x, w):
        """Y[N, K, ...] in float64 from X[N, C, ...] and W in its ONNX layout."""
        x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
        return self._convolve_transposed(x, w) if self.transposed else self._convolve(x, w)

    def _padded(self, x):
        return np.pad(x, ((0, 0), (0, 0), *zip(self.pads[: self.rank], self.pads[self.rank :], strict=True)))

    def _grouped(self, x, axis):
        """Splits the channels, at `axis`, into (group, channels of a group)."""
        return x.reshape(*x.shape[:axis], self.group, x.shape[axis] // self.group, *x.shape[axis + 1 :])

    def _convolve(self, x, w):
        outputs = self.output_extents(x.shape[2:])
        x, w = self._grouped(self._padded(x), 1), self._grouped(w, 0)
        y = np.zeros((x.shape[0], self.group, w.shape[1], *outputs))
        for tap in self._taps():
            y += np.einsum("ngc...,gkc->ngk...", x[(..., *self._window(tap, outputs))], w[(..., *tap)])
        return y.reshape(x.shape[0], self.group * w.shape[1], *outputs)

    def _convolve_transposed(self, x, w):
        extents, outputs, begins = x.shape[2:], self.output_extents(x.shape[2:]), self.pads[: self.rank]
        x, w = self._grouped(x, 1), self._grouped(w, 0)
        # Room for every tap of every input, and for the outputs that no tap reaches.
        room = [
            max((n - 1) * s + (k - 1) * d + 1, begin + o)
            for n, (k, s, d, begin, _, _), o in zip(extents, self._axes(), outputs, strict=True)
        ]
        y = np.zeros((x.shape[0], self.group, w.shape[2], *room))
        for tap in self._taps():
            y[(..., *self._window(tap, extents))] += np.einsum("ngc...,gck->ngk...", x, w[(..., *tap)])
        y = y[(..., *(slice(b, b + o) for b, o in zip(begins, outputs, strict=True)))]
        return y.reshape(x.shape[0], self.group * w.shape[2], *outputs)

    def borders(self, extents):
        """True for the outputs for which some tap is outside the input: a boolean array of output extents."""
        count = replace(self, group=1).convolve(np.ones((1, 1, *extents)), np.ones((1, 1, *self.kernel)))[
            0, 0
        ]
        return count < count.max()


def to_nhwc(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def to_nchw(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def assert_close(got, want, magnitude, terms, dtype, borders=None, product_rounding=0.0):
    """Elementwise, borders apart from the middle.

    Args:
        got, want: the same shape; `want` in float64.
        magnitude: what the sum comes to with absolute values: rounding errors are proportional to it.
        terms: the number of products in a sum.
        dtype: "float", "float16" or "bfloat16", of `got`.
        borders: a boolean array of the last axes of `want`, True at borders.
        product_rounding: relative error of a product's factors (TF32 rounds them).
    """
    assert got.shape == want.shape
    accumulation = 4 * math.sqrt(terms + 1) * 2.0**-24 + 2 * product_rounding
    bound = STEEPEST * accumulation * magnitude + 4 * 2.0**-24 * np.abs(want)  # + activations in float
    bound = bound + ROUNDING[dtype] * (np.abs(want) + bound) + TINIEST[dtype]
    error = np.abs(np.asarray(got, np.float64) - want)
    wrong = ~(error <= bound)  # NaN is wrong too
    at_border = np.broadcast_to(False if borders is None else borders, wrong.shape)
    for region, name in ((at_border, "border"), (~at_border, "middle")):
        assert not wrong[region].any(), (
            f"{name}: {wrong[region].sum()} of {region.sum()} elements are off, "
            f"the worst by {(error / bound)[region].max():.2f} times what is allowed"
        )
