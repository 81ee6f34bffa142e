"""How long rewriting takes. From a checkout: `python -m benchmarks.rewriter`."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RUNS = 3
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride


class ResNet50:
    """He et al., arXiv 1512.03385, as an exporter in training mode leaves it."""

    def __init__(self):
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        x = self._convolution("image", 3, 64, 7, 2, relu=True)
        x = self._node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        channels = 64
        for width, blocks, stride in STAGES:
            for block in range(blocks):
                x = self._block(x, channels, width, stride if block == 0 else 1)
                channels = 4 * width
        x = self._node("Flatten", self._node("GlobalAveragePool", x))
        y = self._node("Gemm", x, self._weight(2048, 1000))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])
        scores = helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 1000])
        graph = helper.make_graph(self._nodes, "resnet50", [image], [scores], self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _block(self, x: str, channels: int, width: int, stride: int) -> str:
        y = self._convolution(x, channels, width, 1, 1, relu=True)
        y = self._convolution(y, width, width, 3, stride, relu=True)
        y = self._convolution(y, width, 4 * width, 1, 1, relu=False)
        if channels != 4 * width or stride > 1:
            x = self._convolution(x, channels, 4 * width, 1, stride, relu=False)
        return self._node("Relu", self._node("Add", y, x))

    def _convolution(self, x: str, c: int, k: int, size: int, stride: int, relu: bool) -> str:
        w = self._weight(k, c, size, size)
        y = self._node("Conv", x, w, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4)
        y = self._node("BatchNormalization", y, *(self._weight(k) for _ in range(4)))
        return self._node("Relu", y) if relu else y

    def _node(self, op_type: str, *inputs: str, **attributes) -> str:
        name = f"{op_type}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def _weight(self, *shape: int) -> str:
        name = f"weight_{len(self._weights)}"
        values = self._random.uniform(0.01, 0.02, shape).astype(np.float32)
        self._weights.append(numpy_helper.from_array(values, name))
        return name


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.onnx"
        onnx.save(ResNet50().model(), path)
        command = [sys.executable, "-m", "ort_cks.rewrite", str(path), "-q"]
        runs = []
        for _ in range(RUNS):
            start, cpu_start = time.perf_counter(), cpu_seconds()
            subprocess.run(command, check=True, cwd=folder)
            runs.append((time.perf_counter() - start, cpu_seconds() - cpu_start))
        size = path.stat().st_size / 1e6
    wall, cpu = min(runs)
    print(f"ResNet-50 ({size:.0f} MB), the whole command: {wall:.2f} s, {cpu:.2f} s of CPU, best of {RUNS}")


def cpu_seconds() -> float:
    """Of all commands so far; unlike the wall's clock it does not tell what else the machine is doing."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
