"""BatchNormalization and per-channel arithmetic after a convolution, folded into its weights and bias.

conv(x, W) + B, followed by y * a + c with a and c constant per output channel, is conv(x, W a) + (B a + c).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import absorb, only_consumer
from ort_cks.graph_rewrite.batch_normalization import scale_and_shift
from ort_cks.graph_rewrite.constants import ConstantFactory, constant, is_constant
from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.convolution_weights import (
    old_bias,
    rounded_bias,
    scaled_weights,
    set_bias,
    set_weights,
)
from ort_cks.graph_rewrite.records import NodeRecord


@dataclass(frozen=True)
class Affine:
    """y * scale + shift, an entry each output channel, float64."""

    scale: np.ndarray
    shift: np.ndarray


class FoldAffinePass(ir.passes.InPlacePass):
    """Folds BatchNormalization (inference), Mul, Div, Add and Sub, in turn, while nothing else reads Y.

    The weights must be constant for a factor, the bias constant or absent. Weights that others share are left
    to them. Each fold is computed in float64 and rounded once. None is made whose result the weights' type
    cannot hold.
    """

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        constants, modified = ConstantFactory(model), False
        for node, record in self._records.items():
            while (consumer := only_consumer(node.outputs[0])) is not None:
                conv = Convolution(node)
                if conv.out_channels is None:
                    break
                affine = per_channel_affine(consumer, conv.y, conv.out_channels, conv.rank)
                if affine is None or not _fold(conv, affine, constants):
                    break
                record.fused.append(consumer.op_type)
                absorb(node, [consumer])
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def per_channel_affine(node: ir.Node, x: ir.Value, channels: int, rank: int) -> Affine | None:
    """What the node, which reads x, does to each of its channels; None for anything else."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "BatchNormalization":
        both = scale_and_shift(node, channels) if node.inputs[0] is x else None
        return None if both is None else Affine(*both)
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    first = node.inputs[0] is x
    other = _per_channel(node.inputs[1 if first else 0], channels, rank)
    if other is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op_type, first:
        case "Mul", _:
            return Affine(other, zero)
        case "Add", _:
            return Affine(one, other)
        case "Div", True:
            return Affine(1 / other, zero) if np.all(other) else None
        case "Sub", True:
            return Affine(one, -other)
        case "Sub", False:
            return Affine(-one, other)
    return None


def _per_channel(value: ir.Value | None, channels: int, rank: int) -> np.ndarray | None:
    """The constant as one number a channel; None where broadcasting makes it anything else, or widens Y."""
    if not is_constant(value):
        return None
    shape = tuple(value.shape.numpy()) if value.shape is not None else constant(value).shape
    aligned = (1,) * (rank + 2 - len(shape)) + tuple(shape)
    if (
        len(aligned) != rank + 2
        or aligned[1] not in (1, channels)
        or any(aligned[i] != 1 for i in (0, *range(2, rank + 2)))
    ):
        return None
    return np.broadcast_to(constant(value).astype(np.float64).reshape(-1), channels).copy()


def _fold(conv: Convolution, affine: Affine, constants: ConstantFactory) -> bool:
    rescales = not np.all(affine.scale == 1)
    weights = scaled_weights(conv, _factors(affine.scale, conv)) if rescales else None
    before = old_bias(conv)
    if before is None or (rescales and weights is None):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        bias = rounded_bias(conv, before * affine.scale + affine.shift)
    if bias is None:
        return False
    if weights is not None:
        set_weights(conv, weights, constants)
    set_bias(conv, bias, constants)
    return True


def _factors(scale: np.ndarray, conv: Convolution) -> np.ndarray:
    """What W is multiplied by: its output channels are axis 0, or, by group, a ConvTranspose's axis 1."""
    if not conv.transposed:
        return scale.reshape(-1, *[1] * (conv.rank + 1))
    channels = conv.w.shape[0]
    by_input = np.repeat(scale.reshape(conv.group, -1), channels // conv.group, axis=0)
    return by_input.reshape(channels, -1, *[1] * conv.rank)
