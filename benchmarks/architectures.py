"""The 11 models the rewriter is judged by: published architectures with random weights, at the sizes they are
used.

Needs torch; DeepLabV3, the pose net and ResNet-18 need torchvision, HiFi-GAN needs transformers.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.suite import MODELS

SEED = 20231
# Calibrating the statistics of BatchNorm runs the model once on the CPU; larger images would only make that
# slow.
CALIBRATION_EXTENT = {2: 256, 3: 32}


def conv_norm_relu(conv: nn.Module, norm: type[nn.Module] = nn.BatchNorm2d) -> list[nn.Module]:
    return [conv, norm(conv.out_channels), nn.ReLU(inplace=True)]


def dcgan_generator(width: int = 64, latent: int = 100) -> nn.Module:
    """Radford et al. 2016: five transposed convolutions from a latent vector to a 64x64 image."""
    layers = conv_norm_relu(nn.ConvTranspose2d(latent, 8 * width, 4, bias=False))
    for factor in (8, 4, 2):
        deconv = nn.ConvTranspose2d(factor * width, factor // 2 * width, 4, stride=2, padding=1, bias=False)
        layers += conv_norm_relu(deconv)
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1, bias=False), nn.Tanh())


class Skip(nn.Module):
    """Concatenates the input with what the body makes of it."""

    def __init__(self, *body: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], dim=1)


def pix2pix_generator(width: int = 64) -> nn.Module:
    """Isola et al. 2017: a U-Net of eight 4x4 stride-2 convolutions down to 1x1 and eight transposed ones
    back up.
    """

    def down(inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)

    def up(inputs: int, outputs: int, bias: bool = False) -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)

    deep = 8 * width
    block = Skip(nn.LeakyReLU(0.2), down(deep, deep), nn.ReLU(), up(deep, deep), nn.BatchNorm2d(deep))
    for outer, inner in [(deep, deep)] * 3 + [(4 * width, deep), (2 * width, 4 * width), (width, 2 * width)]:
        encode = [nn.LeakyReLU(0.2), down(outer, inner), nn.BatchNorm2d(inner)]
        decode = [nn.ReLU(), up(2 * inner, outer), nn.BatchNorm2d(outer)]
        block = Skip(*encode, block, *decode)
    return nn.Sequential(down(3, width), block, nn.ReLU(), up(2 * width, 3, bias=True), nn.Tanh())


def hifigan() -> nn.Module:
    """Kong et al. 2020, the V1 vocoder: 1-D transposed convolutions and dilated residual blocks, x256 in
    time.
    """
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(upsample_rates=[8, 8, 2, 2], upsample_kernel_sizes=[16, 16, 4, 4])
    return SpeechT5HifiGan(config)


class OutputOnly(nn.Module):
    """torchvision's segmentation models answer a dict; this keeps the segmentation."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)["out"]


def deeplabv3_resnet50() -> nn.Module:
    """Chen et al. 2017: dilated ResNet-50 and an ASPP head with rates 12, 24 and 36."""
    from torchvision.models.segmentation import deeplabv3_resnet50 as build

    return OutputOnly(build(weights=None, weights_backbone=None, num_classes=21))


def pose_resnet50() -> nn.Module:
    """Xiao et al. 2018 (SimpleBaseline): ResNet-50, three transposed convolutions, 17 heat maps."""
    from torchvision.models import resnet50

    trunk = resnet50(weights=None)
    stages = (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
    layers = [trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool, *stages]
    for channels in (2048, 256, 256):
        layers += conv_norm_relu(nn.ConvTranspose2d(channels, 256, 4, stride=2, padding=1, bias=False))
    return nn.Sequential(*layers, nn.Conv2d(256, 17, 1))


class UNet(nn.Module):
    """Ronneberger et al. 2015 with padding and BatchNorm, 2-D or 3-D: poolings down, transposed steps up."""

    def __init__(self, width: int, dimensions: int):
        super().__init__()
        volumetric = dimensions == 3
        conv = nn.Conv3d if volumetric else nn.Conv2d
        deconv = nn.ConvTranspose3d if volumetric else nn.ConvTranspose2d
        norm = nn.BatchNorm3d if volumetric else nn.BatchNorm2d

        def twice(inputs: int, outputs: int) -> nn.Module:
            first = conv_norm_relu(conv(inputs, outputs, 3, padding=1, bias=False), norm)
            return nn.Sequential(
                *first, *conv_norm_relu(conv(outputs, outputs, 3, padding=1, bias=False), norm)
            )

        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(twice(a, b) for a, b in zip([1, *widths[:-1]], widths, strict=True))
        self.pool = (nn.MaxPool3d if volumetric else nn.MaxPool2d)(2)
        upward = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(deconv(a, b, 2, stride=2) for a, b in upward)
        self.merge = nn.ModuleList(twice(a, b) for a, b in upward)
        self.head = conv(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for stage in self.down[:-1]:
            skips.append(stage(x))
            x = self.pool(skips[-1])
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.head(x)


def resnet18_cifar() -> nn.Module:
    """He et al. 2016 as it is used on 32x32 images: a 3x3 stride-1 stem and no pooling after it."""
    from torchvision.models import resnet18

    model = resnet18(weights=None, num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def fsrcnn(scale: int = 4, features: int = 56, narrow: int = 12, mappings: int = 4) -> nn.Module:
    """Dong et al. 2016: few channels, PReLU, and one 9x9 transposed convolution that enlarges the image."""
    layers = [nn.Conv2d(1, features, 5, padding=2), nn.PReLU(features)]
    layers += [nn.Conv2d(features, narrow, 1), nn.PReLU(narrow)]
    for _ in range(mappings):
        layers += [nn.Conv2d(narrow, narrow, 3, padding=1), nn.PReLU(narrow)]
    layers += [nn.Conv2d(narrow, features, 1), nn.PReLU(features)]
    enlarge = nn.ConvTranspose2d(features, 1, 9, stride=scale, padding=4, output_padding=scale - 1)
    return nn.Sequential(*layers, enlarge)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "dcgan_b64": dcgan_generator,
    "dcgan_b1": dcgan_generator,
    "pix2pix_b1": pix2pix_generator,
    "hifigan_b1": hifigan,
    "deeplabv3_r50_b1": deeplabv3_resnet50,
    "pose_r50_b1": pose_resnet50,
    "pose_r50_b32": pose_resnet50,
    "unet_b1": lambda: UNet(width=64, dimensions=2),
    "unet3d_b1": lambda: UNet(width=32, dimensions=3),
    "resnet18_cifar_b128": resnet18_cifar,
    "fsrcnn_x4": fsrcnn,
}

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def load(name: str) -> nn.Module:
    """The model in eval mode, float32, on the CPU, with the same weights every time.

    All parameters and statistics are random. The statistics of BatchNormalization fit the size of what comes
    in, so the signal keeps its size through any depth and an error anywhere reaches the output.
    """
    torch.manual_seed(SEED)
    model = BUILDERS[name]().eval()
    hooks = []
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS):
            # Of a transposed convolution's taps, 1 / stride of them meet in an output, on each axis.
            phases = math.prod(module.stride) if module.transposed else 1
            fan_in = module.in_channels * math.prod(module.kernel_size) / phases
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, NORMS):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            hooks.append(module.register_forward_pre_hook(_set_statistics))
    if hooks:
        _, channels, *extents = MODELS[name]
        limit = CALIBRATION_EXTENT[len(extents)]
        model(torch.randn(1, channels, *(min(extent, limit) for extent in extents)))
    for hook in hooks:
        hook.remove()
    return model


def _set_statistics(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """Before a BatchNormalization first runs: random means and variances of the size of its input.

    Not each channel's own: a random net that is centred or scaled channel by channel amplifies rounding with
    every layer, as no trained net does, until two correct float32 runs of a ResNet-50 differ by a thousandth.
    """
    square = inputs[0].square().mean()
    norm.running_var.copy_(square * torch.empty_like(norm.running_var).uniform_(0.5, 1.5))
    norm.running_mean.copy_(square.sqrt() * torch.empty_like(norm.running_mean).normal_(std=0.1))


def example_input(name: str) -> torch.Tensor:
    return torch.randn(MODELS[name], generator=torch.Generator().manual_seed(SEED))


def export(name: str, model: nn.Module, path: Path, fold_norms: bool = True) -> None:
    """Writes the model with torch's exporter, in the data type of its parameters.

    The exporter folds BatchNormalization into the convolutions, unless it is told to optimize nothing. Then
    it gives a Conv3d without bias one of the wrong shape, which no runtime takes: 3-D models always are.
    """
    x = example_input(name).to(next(model.parameters()).dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about itself
        torch.onnx.export(
            model,
            (x,),
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            optimize=fold_norms or x.dim() == 5,
        )
