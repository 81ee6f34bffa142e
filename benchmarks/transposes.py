"""How long ONNX Runtime takes on a GPU for a Transpose to NHWC: what the rewriter pays at a region's border.

    python -m benchmarks.transposes

COPIES of them in one CUDA graph, each on tensors of its own so that none is optimized away; the time of a
graph with one is taken off, so that what remains is the time of one more.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper

from ort_cks.comparison import machine
from ort_cks.comparison.sessions import BoundSession, Way
from ort_cks.comparison.timing import interleaved

COPIES = 20
SHAPES = [(1, 8, 4, 4), (1, 256, 33, 33), (8, 256, 64, 64), (32, 256, 64, 48)]


def transposes(shape: tuple[int, ...], count: int) -> onnx.ModelProto:
    n, c, h, w = shape
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Transpose", [f"x{i}"], [f"y{i}"], perm=[0, 2, 3, 1]) for i in range(count)],
        "transposes",
        [value(f"x{i}", TensorProto.FLOAT16, shape) for i in range(count)],
        [value(f"y{i}", TensorProto.FLOAT16, (n, h, w, c)) for i in range(count)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def time_us(shape: tuple[int, ...], folder: Path) -> float:
    sessions = []
    for count in (1, COPIES):
        path = folder / f"{count}.onnx"
        onnx.save(transposes(shape, count), path)
        feeds = {f"x{i}": np.ones(shape, np.float16) for i in range(count)}
        n, c, h, w = shape
        outputs = {f"y{i}": (n, h, w, c) for i in range(count)}
        sessions.append(BoundSession(Way(str(count), path, "cuda", cuda_graph=True), feeds, outputs))
    one, many = interleaved([session.run for session in sessions], warmup=10, runs=100)
    return (many.p50_ms - one.p50_ms) / (COPIES - 1) * 1e3


def main() -> None:
    print(", ".join(f"{name} {value}" for name, value in machine.describe("cuda").items()))
    with TemporaryDirectory() as folder:
        for shape in SHAPES:
            taken, moved = time_us(shape, Path(folder)), 2 * 2 * np.prod(shape)
            print(
                f"{'x'.join(map(str, shape)):>16} float16: {taken:6.2f} us, {moved / taken * 1e-6:.2f} TB/s"
            )


if __name__ == "__main__":
    main()
