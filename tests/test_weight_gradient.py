"""SkDilatedWeightGrad in ONNX Runtime, on each provider, against torch's gradient in float64."""

import math

import numpy as np
import pytest
from nodes import representable, run_node
from reference import Geometry, assert_close, to_nhwc
from torch_gradient import weight_gradient

DTYPES = ("float", "float16", "bfloat16")


class Gradient:
    """A random Conv, with operands that the type can hold."""

    def __init__(self, seed, dtype="float", batch=None):
        rng = np.random.default_rng(seed)
        rank = int(rng.integers(1, 4))

        def draw(low, high, n=rank):
            return tuple(int(v) for v in rng.integers(low, high + 1, n))

        while True:
            kernel, strides, dilations = draw(1, 4 if rank < 3 else 3), draw(1, 3), draw(1, 3)
            self.geometry = Geometry(kernel, strides, dilations, draw(0, 3, 2 * rank), draw(1, 3, 1)[0])
            extents = draw(1, 10 if rank < 3 else 6)
            outputs = self.geometry.output_extents(extents)
            if min(outputs) > 0:
                break
        C, K = (self.geometry.group * n for n in draw(1, 10, 2))
        batch = draw(1, 3, 1)[0] if batch is None else batch
        self.dtype, self.layout = dtype, "NHWC" if seed % 2 else "NCHW"
        self.x = representable(rng.standard_normal((batch, C, *extents)), dtype)
        self.dy = representable(rng.standard_normal((batch, K, *outputs)), dtype)
        self.w_shape = (K, C // self.geometry.group, *kernel)
        self.terms = batch * math.prod(outputs)

    def run(self, provider):
        attributes = self.geometry.attributes() | {"layout": self.layout, "precision": "fp32"}
        inputs = {"X": self.x, "dY": self.dy}
        if self.layout == "NHWC":
            inputs = {name: to_nhwc(value) for name, value in inputs.items()}
        return run_node("SkDilatedWeightGrad", inputs, attributes, self.dtype, provider=provider)

    def check(self, provider):
        want = weight_gradient(self.geometry, self.x, self.dy)
        magnitude = weight_gradient(self.geometry, abs(self.x), abs(self.dy))
        assert_close(self.run(provider), want, magnitude, self.terms, self.dtype)


@pytest.mark.parametrize("seed", range(300))
def test_random_shapes(provider, seed):
    Gradient(seed).check(provider)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("seed", range(300, 330))
def test_other_types(provider, seed, dtype):
    Gradient(seed, dtype).check(provider)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_empty_batch_has_no_gradient(provider, seed):
    gradient = Gradient(seed, batch=0)
    assert np.array_equal(gradient.run(provider), np.zeros(gradient.w_shape))
