"""The 28 layers the kernels are judged by, how fast hardware could run each, and the sizes of the 11 models.

They are the convolutions of DCGAN, pix2pix, SimpleBaseline pose, Mask R-CNN, SAM, ResNet and DeepLabV3 at the
sizes those networks have, and a few transposed ones of the shapes the C-K-S paper times.
"""

from dataclasses import dataclass, replace

DTYPES = ("fp16", "tf32", "fp32")

# An H200: dense tensor-core peaks in FLOP/s (fp32: CUDA cores, for a strict fp32 convolution that does not
# split its numbers), and the memory bandwidth that large copies reach, in bytes/s.
PEAK_FLOPS = {"fp16": 790e12, "tf32": 395e12, "fp32": 60e12}
BANDWIDTH = 4.3e12
ELEMENT_SIZE = {"fp16": 2, "tf32": 4, "fp32": 4}


def live_pairs(outputs: int, inputs: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """On one axis, how many (output, tap) pairs of a Conv read a pixel that exists."""
    return sum(
        0 <= output * stride - pad + tap * dilation < inputs
        for output in range(outputs)
        for tap in range(kernel)
    )


WEIGHT_GRADIENT = "ConvWeightGradient"


@dataclass(frozen=True)
class Layer:
    """A square 2-D convolution of x [n, c, h, w] to k channels; kernel, stride, ... hold for both axes.

    `op` is Conv, ConvTranspose or ConvWeightGradient: a Conv whose x and dy are given and dw wanted. A Conv,
    its input gradient and its weight gradient have the same multiply-adds and tensors, so the same floor.
    """

    name: str
    op: str
    n: int
    c: int
    h: int
    w: int
    k: int
    kernel: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    output_padding: int = 0

    @property
    def transposed(self) -> bool:
        return self.op == "ConvTranspose"

    @property
    def is_weight_gradient(self) -> bool:
        return self.op == WEIGHT_GRADIENT

    @property
    def description(self) -> str:
        """Such as 64x512x4x4 to 256, k4 s2 p1; defaults are left out, shapes are n, c, h, w."""
        settings = {"s": (self.stride, 1), "p": (self.pad, 0), "d": (self.dilation, 1)}
        settings["op"] = (self.output_padding, 0)
        given = "".join(f" {key}{value}" for key, (value, default) in settings.items() if value != default)
        return f"{'x'.join(map(str, self.x_shape))} to {self.k}, k{self.kernel}{given}"

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.c, self.h, self.w

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """The weights' shape in the ONNX operator's layout."""
        channels = (self.c, self.k) if self.transposed else (self.k, self.c)
        return *channels, self.kernel, self.kernel

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.k, self._output(self.h), self._output(self.w)

    def _output(self, size: int) -> int:
        reach = self.dilation * (self.kernel - 1) + 1
        if self.transposed:
            return (size - 1) * self.stride - 2 * self.pad + reach + self.output_padding
        return (size + 2 * self.pad - reach) // self.stride + 1

    @property
    def nonzero_macs(self) -> int:
        """Multiply-adds whose two operands both exist: neither padding nor a zero that a stride inserts."""
        pairs = self.n * self.c * self.k
        for x, y in zip(self.x_shape[2:], self.y_shape[2:], strict=True):
            # A transposed convolution's forward pass is the backward pass of a Conv that maps y to x.
            outputs, inputs = (x, y) if self.transposed else (y, x)
            pairs *= live_pairs(outputs, inputs, self.kernel, self.stride, self.pad, self.dilation)
        return pairs

    @property
    def zero_fraction(self) -> float:
        """Share of the multiply-adds of the dense operator (zeros inserted, padding read) that are with a
        zero.
        """
        _, k, h, w = self.y_shape
        return 1 - self.nonzero_macs / (self.n * k * h * w * self.c * self.kernel**2)

    def floor_us(self, dtype: str) -> float:
        """The longer of two times in microseconds on an H200: nonzero arithmetic at peak (fp32: of the CUDA
        cores, which split numbers on tensor cores can beat), and every byte moved once.
        """
        size = 0
        for batch, channels, height, width in (self.x_shape, self.w_shape, self.y_shape):
            size += batch * channels * height * width * ELEMENT_SIZE[dtype]
        return max(2 * self.nonzero_macs / PEAK_FLOPS[dtype], size / BANDWIDTH) * 1e6

    def input_gradient(self) -> "Layer":
        """Of a Conv with h = w: the ConvTranspose, with the same weights, of y's gradient to x's."""
        n, k, h, w = self.y_shape
        reach = self.dilation * (self.kernel - 1) + 1
        unread = (self.h + 2 * self.pad - reach) % self.stride  # the last pixels that a stride leaves out
        return replace(self, op="ConvTranspose", n=n, c=k, h=h, w=w, k=self.c, output_padding=unread)

    def weight_gradient(self) -> "Layer":
        return replace(self, op=WEIGHT_GRADIENT)

    def with_batch_at_most(self, batch: int) -> "Layer":
        return replace(self, n=min(self.n, batch))


def _deconv(
    name: str, n: int, c: int, size: int | tuple[int, int], k: int, kernel: int, **pads: int
) -> Layer:
    h, w = (size, size) if isinstance(size, int) else size
    return Layer(name, "ConvTranspose", n, c, h, w, k, kernel, stride=2, **pads)


def _conv(name: str, n: int, c: int, size: int, k: int, kernel: int, **pads: int) -> Layer:
    return Layer(name, "Conv", n, c, size, size, k, kernel, **pads)


LAYERS = (
    _deconv("dcgan_g2", 64, 512, 4, 256, 4, pad=1),
    _deconv("dcgan_g3", 64, 256, 8, 128, 4, pad=1),
    _deconv("dcgan_g4", 64, 128, 16, 64, 4, pad=1),
    _deconv("dcgan_g2_b1", 1, 512, 4, 256, 4, pad=1),
    _deconv("pix2pix_u1_b1", 1, 512, 1, 512, 4, pad=1),
    _deconv("pix2pix_u3_b1", 1, 1024, 4, 512, 4, pad=1),
    _deconv("pix2pix_u5_b1", 1, 1024, 16, 256, 4, pad=1),
    _deconv("pose_d1_b1", 1, 2048, (8, 6), 256, 4, pad=1),
    _deconv("pose_d3_b1", 1, 256, (32, 24), 256, 4, pad=1),
    _deconv("pose_d3_b32", 32, 256, (32, 24), 256, 4, pad=1),
    _deconv("maskrcnn_up", 100, 256, 14, 256, 2),
    _deconv("sam_up1", 1, 256, 64, 64, 2),
    _deconv("ks3_s2_4", 128, 256, 4, 256, 3, pad=1, output_padding=1),
    _deconv("ks3_s2_8", 128, 256, 8, 256, 3, pad=1, output_padding=1),
    _deconv("ks3_s2_16", 128, 128, 16, 128, 3, pad=1, output_padding=1),
    _deconv("ks5_s2_8", 128, 128, 8, 128, 5, pad=2, output_padding=1),
    _conv("conv512_4_b128", 128, 512, 4, 512, 3, pad=1),
    _conv("conv512_2_b128", 128, 512, 2, 512, 3, pad=1),
    _conv("conv512_7_b1", 1, 512, 7, 512, 3, pad=1),
    _conv("conv512_7_b32", 32, 512, 7, 512, 3, pad=1),
    _conv("conv256_8_k5_b128", 128, 256, 8, 256, 5, pad=2),
    _conv("conv256_14_b32", 32, 256, 14, 256, 3, pad=1),
    _conv("aspp12_33", 1, 2048, 33, 256, 3, pad=12, dilation=12),
    _conv("aspp24_33", 1, 2048, 33, 256, 3, pad=24, dilation=24),
    _conv("aspp36_33", 1, 2048, 33, 256, 3, pad=36, dilation=36),
    _conv("aspp24_65", 1, 2048, 65, 256, 3, pad=24, dilation=24),
    _conv("aspp36_65_b8", 8, 2048, 65, 256, 3, pad=36, dilation=36),
    _conv("res5_d4_65", 1, 512, 65, 512, 3, pad=4, dilation=4),
)

# Name and input shape; `benchmarks.architectures` builds them.
MODELS = {
    "dcgan_b64": (64, 100, 1, 1),
    "dcgan_b1": (1, 100, 1, 1),
    "pix2pix_b1": (1, 3, 256, 256),
    "hifigan_b1": (1, 200, 80),
    "deeplabv3_r50_b1": (1, 3, 513, 513),
    "pose_r50_b1": (1, 3, 256, 192),
    "pose_r50_b32": (32, 3, 256, 192),
    "unet_b1": (1, 1, 512, 512),
    "unet3d_b1": (1, 1, 96, 96, 96),
    "resnet18_cifar_b128": (128, 3, 32, 32),
    "fsrcnn_x4": (1, 1, 270, 480),
}
