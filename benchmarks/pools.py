"""Pools and reductions of NHWC on a GPU, in each way that the rewriter could write them.

    python -m benchmarks.pools

Microseconds in float16: the time of all kernels of a replayed CUDA graph, by torch's profiler. Layers of
models first, then reductions over whole maps, which are pools too.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper

from ort_cks.comparison import machine
from ort_cks.comparison.sessions import BoundSession, Way

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("ort_cks", 1)]
# Input in NHWC, kernel, stride and pad of every axis.
LAYERS = [
    ((1, 512, 512, 64), 2, 2, 0),
    ((1, 64, 64, 512), 2, 2, 0),
    ((1, 257, 257, 64), 3, 2, 1),
    ((32, 128, 96, 64), 3, 2, 1),
    ((1, 96, 96, 96, 32), 2, 2, 0),
]
MAPS = [
    (128, 4, 4, 512),
    (32, 7, 7, 2048),
    (32, 16, 16, 512),
    (2, 16, 16, 2048),
    (2, 24, 24, 512),
    (2, 8, 8, 256),
    (1, 65, 65, 2048),
]


def pools(shape: Sequence[int], kernel: int, stride: int, pad: int) -> dict[str, onnx.ModelProto]:
    """A MaxPool by our operator, by a 3-D pool of the view [N, 1, H, W, C], and between Transposes."""
    n, *extents, c = shape
    rank = len(extents)
    outputs = [(extent + 2 * pad - kernel) // stride + 1 for extent in extents]

    def window(ones: int) -> dict:
        pads = [*[pad] * rank, *[0] * ones] * 2
        return {
            "kernel_shape": [kernel] * rank + [1] * ones,
            "strides": [stride] * rank + [1] * ones,
            "pads": pads,
        }

    def model(*nodes: onnx.NodeProto, **shapes: Sequence[int]) -> onnx.ModelProto:
        return _model(nodes, shape, [n, *outputs, c], shapes)

    node = helper.make_node
    first, last = [0, rank + 1, *range(1, rank + 1)], [0, *range(2, rank + 2), 1]
    ways = {
        "MaxPoolNhwc": model(node("MaxPoolNhwc", ["x"], ["y"], domain="ort_cks", **window(0))),
        "Transposes": model(
            node("Transpose", ["x"], ["a"], perm=first),
            node("MaxPool", ["a"], ["b"], **window(0)),
            node("Transpose", ["b"], ["y"], perm=last),
        ),
    }
    if rank == 2:
        ways["view"] = model(
            node("Reshape", ["x", "in"], ["a"]),
            node("MaxPool", ["a"], ["b"], **window(1)),
            node("Reshape", ["b", "out"], ["y"]),
            **{"in": [n, 1, *extents, c], "out": [n, *outputs, c]},
        )
    return ways


def reductions(shape: Sequence[int]) -> dict[str, onnx.ModelProto]:
    """The mean and the maximum of a whole map, as a reduction and as a pool."""
    n, *extents, c = shape
    result = [n, *[1] * len(extents), c]
    axes = list(range(1, len(extents) + 1))

    def model(*nodes: onnx.NodeProto, **shapes: Sequence[int]) -> onnx.ModelProto:
        return _model(nodes, shape, result, shapes)

    node = helper.make_node
    return {
        "ReduceMean": model(node("ReduceMean", ["x", "axes"], ["y"]), axes=axes),
        "AveragePool": model(
            node("Reshape", ["x", "in"], ["a"]),
            node("AveragePool", ["a"], ["b"], kernel_shape=[*extents, 1]),
            node("Reshape", ["b", "out"], ["y"]),
            **{"in": [n, 1, *extents, c], "out": result},
        ),
        "ReduceMax": model(node("ReduceMax", ["x", "axes"], ["y"]), axes=axes),
        "MaxPoolNhwc": model(node("MaxPoolNhwc", ["x"], ["y"], domain="ort_cks", kernel_shape=extents)),
    }


def _model(
    nodes: Sequence[onnx.NodeProto], x: Sequence[int], y: Sequence[int], ints: dict[str, Sequence[int]]
) -> onnx.ModelProto:
    constants = [helper.make_tensor(name, TensorProto.INT64, [len(v)], v) for name, v in ints.items()]
    info = helper.make_tensor_value_info
    inputs, outputs = [info("x", TensorProto.FLOAT16, x)], [info("y", TensorProto.FLOAT16, y)]
    graph = helper.make_graph(nodes, "pool", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9)


def time_us(model: onnx.ModelProto, folder: Path) -> float:
    from benchmarks.kernel_kinds import time_by_kind  # needs torch

    path = folder / "pool.onnx"
    onnx.save(model, path)
    shapes = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0])
    ]
    x = np.random.default_rng(0).standard_normal(shapes[0]).astype(np.float16)
    way = Way("pool", path, "cuda", cuda_graph=True, with_library=True)
    session = BoundSession(way, {"x": x}, {"y": tuple(shapes[1])})
    for _ in range(3):
        session.run()
    return sum(time_by_kind(session.run).values())


def main() -> None:
    print(", ".join(f"{name} {value}" for name, value in machine.describe("cuda").items()))
    cases = [(layer[0], f"{layer[1]}, stride {layer[2]}", pools(*layer)) for layer in LAYERS]
    cases += [(shape, "whole map", reductions(shape)) for shape in MAPS]
    with TemporaryDirectory() as folder:
        for shape, what, ways in cases:
            times = ", ".join(f"{way} {time_us(model, Path(folder)):.1f}" for way, model in ways.items())
            print(f"{'x'.join(map(str, shape)):>16} {what:>12}: {times}", flush=True)


if __name__ == "__main__":
    main()
