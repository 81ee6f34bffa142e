"""What `benchmarks.pools` times against each other computes the same."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))  # last, so that the installed ort_cks is found

from benchmarks import pools
from ort_cks.comparison.sessions import BoundSession, Way


def answers(models, shape, folder):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    for name, model in models.items():
        path = folder / "pool.onnx"
        onnx.save(model, path)
        way = Way(name, path, "cpu", with_library=True)
        yield BoundSession(way, {"x": x}).outputs()["y"].astype(np.float32)


@pytest.mark.parametrize(
    "layer", [((2, 8, 6, 8), 2, 2, 0), ((1, 9, 7, 16), 3, 2, 1), ((1, 4, 6, 6, 3), 2, 2, 0)]
)
def test_the_ways_of_a_pool(layer, tmp_path):
    for one, other in pairwise(answers(pools.pools(*layer), layer[0], tmp_path)):
        np.testing.assert_array_equal(one, other)


def test_the_ways_of_a_reduction(tmp_path):
    shape = (3, 4, 5, 8)
    mean, pooled_mean, largest, pooled_largest = answers(pools.reductions(shape), shape, tmp_path)
    np.testing.assert_allclose(mean, pooled_mean, atol=2e-3)
    np.testing.assert_array_equal(largest, pooled_largest)
    assert np.abs(largest - mean).min() > 0.1
