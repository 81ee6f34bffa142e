"""Two real architectures as ONNX models with random weights, made without PyTorch.

``dcgan_generator``: Radford et al., arXiv 1511.06434: five transposed convolutions, with the BatchNorms and
activations between them left for the rewriter to fold.

``aspp_head``: the atrous spatial pyramid pooling head of DeepLabV3, Chen et al., arXiv 1706.05587, on a
512-channel backbone: parallel convolutions with dilations 12, 24 and 36 on a map of 33 x 33, most of whose
taps lie in padding.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class GraphBuilder:
    """Collects the nodes and initializers of one graph; methods return the name of the value they make."""

    def __init__(self, seed: int = 0):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def node(self, op_type: str, *inputs: str, **attributes) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"weight_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def normal(self, *shape: int, scale: float) -> str:
        return self.constant(self._random.normal(0, scale, shape).astype(np.float32))

    def conv(self, x: str, c: int, k: int, size: int, **attributes) -> str:
        w = self.normal(k, c, size, size, scale=(c * size * size) ** -0.5)
        return self.node("Conv", x, w, kernel_shape=[size, size], **attributes)

    def conv_transpose(self, x: str, c: int, k: int, size: int, stride: int, pad: int) -> str:
        w = self.normal(c, k, size, size, scale=stride * (c * size * size) ** -0.5)
        return self.node(
            "ConvTranspose", x, w, kernel_shape=[size, size], strides=[stride] * 2, pads=[pad] * 4
        )

    def batch_norm(self, x: str, channels: int) -> str:
        """With statistics as training leaves them: none of them neutral."""
        scale, variance = (self._random.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(2))
        bias, mean = (self._random.normal(0, 0.2, channels).astype(np.float32) for _ in range(2))
        return self.node("BatchNormalization", x, *map(self.constant, (scale, bias, mean, variance)))

    def model(self, name: str, x: list[int], y: str, y_shape: list[int]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, y_shape)],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def dcgan_generator(batch: int = 16, features: int = 64, latent: int = 100) -> onnx.ModelProto:
    """Noise [batch, latent, 1, 1] to images [batch, 3, 64, 64]."""
    g = GraphBuilder()
    x = g.node("Relu", g.batch_norm(g.conv_transpose("x", latent, features * 8, 4, 1, 0), features * 8))
    for c, k in ((8, 4), (4, 2), (2, 1)):
        x = g.conv_transpose(x, features * c, features * k, 4, 2, 1)
        x = g.node("Relu", g.batch_norm(x, features * k))
    y = g.node("Tanh", g.conv_transpose(x, features, 3, 4, 2, 1))
    return g.model("dcgan_generator", [batch, latent, 1, 1], y, [batch, 3, 64, 64])


def aspp_head(batch: int = 1, channels: int = 512, size: int = 33, classes: int = 21) -> onnx.ModelProto:
    """Backbone features [batch, channels, size, size] to class scores [batch, classes, size, size]."""
    g = GraphBuilder()

    def branch(x: str, c: int, size: int, **attributes) -> str:
        return g.node("Relu", g.batch_norm(g.conv(x, c, 256, size, **attributes), 256))

    branches = [branch("x", channels, 1)]
    for rate in (12, 24, 36):
        branches.append(branch("x", channels, 3, dilations=[rate] * 2, pads=[rate] * 4))
    pooled = branch(g.node("GlobalAveragePool", "x"), channels, 1)
    branches.append(g.node("Expand", pooled, g.constant(np.array([batch, 256, size, size], np.int64))))
    x = branch(g.node("Concat", *branches, axis=1), 5 * 256, 1)
    x = branch(x, 256, 3, pads=[1] * 4)
    bias = g.normal(classes, scale=0.1)
    weight = g.normal(classes, 256, 1, 1, scale=1 / 16)
    y = g.node("Conv", x, weight, bias, kernel_shape=[1, 1])
    return g.model("aspp_head", [batch, channels, size, size], y, [batch, classes, size, size])
