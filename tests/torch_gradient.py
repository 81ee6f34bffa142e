"""The weight gradient of a Conv by PyTorch's autograd, in float64."""

import numpy as np
import torch


def weight_gradient(geometry, x, dy):
    """dW[K, C / group, ...] of the Conv `geometry` from X to an output with gradient dY."""
    begins, ends = geometry.pads[: geometry.rank], geometry.pads[geometry.rank :]
    padding = [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair]
    padded = torch.nn.functional.pad(torch.from_numpy(np.float64(x)), padding)
    shape = (dy.shape[1], x.shape[1] // geometry.group, *geometry.kernel)
    w = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    convolution = (torch.conv1d, torch.conv2d, torch.conv3d)[geometry.rank - 1]
    y = convolution(padded, w, None, geometry.strides, 0, geometry.dilations, geometry.group)
    y.backward(torch.from_numpy(np.float64(dy)))
    return w.grad.numpy()
