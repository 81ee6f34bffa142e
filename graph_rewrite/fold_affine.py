"""BatchNormalization and per-channel arithmetic after a convolution, folded into its weights and bias.

conv(x, W) + B, followed by y * a + c with a and c constant per output channel, is conv(x, W a) + (B a + c).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import absorb, only_consumer
from ort_cks.graph_rewrite.batch_normalization import scale_and_shift
from ort_cks.graph_rewrite.constants import ConstantFactory, constant, derived, is_constant
from ort_cks.graph_rewrite.convolution import Convolution
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
                affine = per_channel_affine(consumer, conv)
                if affine is None or not _fold(conv, affine, constants):
                    break
                record.fused.append(consumer.op_type)
                absorb(node, [consumer])
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def per_channel_affine(node: ir.Node, conv: Convolution) -> Affine | None:
    """What the node, which reads the convolution's output, does to each channel; None for anything else."""
    channels = conv.out_channels
    if channels is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "BatchNormalization":
        both = scale_and_shift(node, channels) if node.inputs[0] is conv.y else None
        return None if both is None else Affine(*both)
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    first = node.inputs[0] is conv.y
    other = _per_channel(node.inputs[1 if first else 0], channels, conv.rank)
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
    if (rescales and not is_constant(conv.w)) or (conv.b is not None and not is_constant(conv.b)):
        return False
    dtype = conv.w.dtype.numpy()
    old_bias = constant(conv.b).astype(np.float64) if conv.b is not None else np.zeros_like(affine.shift)
    with np.errstate(over="ignore", invalid="ignore"):
        bias, scale = (old_bias * affine.scale + affine.shift).astype(dtype), affine.scale.astype(dtype)
    if not all(np.isfinite(values.astype(np.float64)).all() for values in (bias, scale)):
        return False
    if rescales:
        w, factors = ir.convenience.get_const_tensor(conv.w), _factors(affine.scale, conv)
        if w.dtype == ir.DataType.FLOAT16 and not _fits_float16(w.numpy() * factors):
            return False
        weights = derived(w, lambda array: array * factors, w.shape.numpy())
        conv.node.replace_input_with(1, constants.add(conv.node.graph, f"{conv.node.name}.weight", weights))
    if conv.b is not None or bias.any():
        if len(conv.node.inputs) < 3:
            conv.node.resize_inputs(3)
        tensor = ir.Tensor(bias, dtype=conv.w.dtype)
        conv.node.replace_input_with(2, constants.add(conv.node.graph, f"{conv.node.name}.bias", tensor))
    return True


def _factors(scale: np.ndarray, conv: Convolution) -> np.ndarray:
    """What W is multiplied by: its output channels are axis 0, or, by group, a ConvTranspose's axis 1."""
    if not conv.transposed:
        return scale.reshape(-1, *[1] * (conv.rank + 1))
    channels = conv.w.shape[0]
    by_input = np.repeat(scale.reshape(conv.group, -1), channels // conv.group, axis=0)
    return by_input.reshape(channels, -1, *[1] * conv.rank)


def _fits_float16(weights: np.ndarray) -> bool:
    """Whether rounding costs the usual last digit: float16 ends at 65504 and thins out below 6e-5.

    A small variance makes large factors, a large one small factors. The wider types have room for both.
    """
    with np.errstate(over="ignore"):
        error = weights.astype(np.float16).astype(np.float64) - weights
    return bool(np.linalg.norm(error) <= 2.0**-10 * np.linalg.norm(weights))
