"""Layers that nobody tuned on: drawn from the families of the suite, reproducibly.

Each family says from which values its sizes are drawn; every value of a range is as likely as any other.
"""

import random
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from types import MappingProxyType

from benchmarks.suite import LAYERS, Layer

# Of a layer in fp16; longer ones would take most of the time that all the others need together.
LONGEST_FLOOR_US = 150
CHANNELS = (64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Family:
    """The values that a layer's sizes are drawn from.

    Attributes:
        n, c, k, size: batch, channels in and out, height; the layer is square unless `aspect` says otherwise.
        geometry: of kernel, stride, pad, ..., one is drawn as a whole.
        aspect: width over height.
    """

    op: str
    n: tuple[int, ...]
    c: tuple[int, ...]
    k: tuple[int, ...]
    size: tuple[int, ...]
    geometry: tuple[Mapping[str, int], ...]
    aspect: float = 1.0

    def draw(self, name: str, choice: random.Random) -> Layer:
        n, c, k, h = (choice.choice(values) for values in (self.n, self.c, self.k, self.size))
        return Layer(name, self.op, n, c, h, int(h * self.aspect), k, **choice.choice(self.geometry))


def _same_size(kernel: int, dilation: int = 1) -> Mapping[str, int]:
    """A Conv whose output is as large as its input."""
    return {"kernel": kernel, "dilation": dilation, "pad": dilation * (kernel // 2)}


K4 = ({"kernel": 4, "stride": 2, "pad": 1},)
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        # DCGAN and its kind
        "gan": Family("ConvTranspose", BATCHES[3:], CHANNELS, CHANNELS[:8], (4, 8, 16, 32), K4),
        # pix2pix and other U-Nets of one image
        "pix2pix": Family(
            "ConvTranspose", (1,), (256, 512, 1024), (64, 128, 256, 512), (1, 2, 4, 8, 16, 32, 64), K4
        ),
        # SimpleBaseline: maps of 4 to 3
        "pose": Family(
            "ConvTranspose", BATCHES[:6], (256, 384, 512, 1024, 2048), (128, 192, 256), (8, 16, 32), K4, 3 / 4
        ),
        # Mask R-CNN, SAM, U-Net
        "upsample": Family(
            "ConvTranspose", (1, 2, 4, 8, 16, 32, 64, 100), CHANNELS[:9], CHANNELS[:9],
            (7, 14, 16, 28, 32, 64), ({"kernel": 2, "stride": 2},),
        ),
        # the transposed ones of the paper
        "ks": Family(
            "ConvTranspose", BATCHES[4:], CHANNELS[:9], CHANNELS[:9], (2, 4, 7, 8, 14, 16, 28, 32),
            ({"kernel": 3, "stride": 2, "pad": 1, "output_padding": 1},
             {"kernel": 5, "stride": 2, "pad": 2, "output_padding": 1}),
        ),
        # the last stages of ResNet and VGG, and their like on CIFAR
        "small_map": Family(
            "Conv", BATCHES, CHANNELS[2:], CHANNELS[2:], tuple(range(2, 15)), (_same_size(3), _same_size(5))
        ),
        # DeepLab's pyramid
        "aspp": Family(
            "Conv", (1, 2, 4, 8), (320, 512, 1024, 2048), (128, 256), tuple(range(24, 73)),
            tuple(_same_size(3, d) for d in (6, 12, 18, 24, 36)),
        ),
        # the dilated stages of ResNet
        "res_dilated": Family(
            "Conv", (1, 2, 4), (128, 256, 512), (128, 256, 512), tuple(range(28, 66)),
            tuple(_same_size(3, d) for d in (2, 4, 8)),
        ),
    }
)  # fmt: skip


def draw(count: int, seed: int) -> tuple[Layer, ...]:
    """The same layers for the same seed; all differ from each other and from the suite's.

    The families take turns. A layer that is too long is drawn again.
    """
    choice = random.Random(seed)
    taken = {_shape(layer) for layer in LAYERS}
    layers: list[Layer] = []
    while len(layers) < count:
        family = tuple(FAMILIES)[len(layers) % len(FAMILIES)]
        layer = FAMILIES[family].draw(f"{family}_{len(layers) // len(FAMILIES) + 1}", choice)
        if layer.floor_us("fp16") <= LONGEST_FLOOR_US and _shape(layer) not in taken:
            taken.add(_shape(layer))
            layers.append(layer)
    return tuple(layers)


def _shape(layer: Layer) -> tuple:
    """All but the name."""
    return astuple(layer)[1:]
