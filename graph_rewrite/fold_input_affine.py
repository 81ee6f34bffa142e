"""BatchNormalization and per-channel arithmetic in front of convolutions, folded into their weights and bias.

conv(x * a, W) with a constant per input channel is conv(x, W a), whatever the padding, as 0 a = 0. What is
positively homogeneous may stand between: Relu(x a) = Relu(x) a for a > 0, and LeakyRelu and PRelu likewise.
conv(x + c, W) is conv(x, W) + sum(W c) only where there is no padding, which c would have to reach.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import ConstantFactory, constant, is_constant
from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.convolution_weights import (
    old_bias,
    rounded_bias,
    scaled_weights,
    set_bias,
    set_weights,
)
from ort_cks.graph_rewrite.fold_affine import Affine, per_channel_affine
from ort_cks.graph_rewrite.recognize_activation import slopes_below_zero
from ort_cks.graph_rewrite.records import NodeRecord


class FoldInputAffinePass(ir.passes.InPlacePass):
    """Folds a node that, activations apart, only the given convolutions read, if all of them can take it.

    The rest is as in FoldAffinePass.
    """

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        constants, modified = ConstantFactory(model), False
        for graph in model.graphs():
            for node in reversed(graph):  # of two in turn, the second goes first
                modified |= self._fold(node, constants)
        return ir.passes.PassResult(model, modified=modified)

    def _fold(self, node: ir.Node, constants: ConstantFactory) -> bool:
        x = next((value for value in node.inputs if value is not None and not is_constant(value)), None)
        if x is None or x.shape is None or not 3 <= len(x.shape) <= 5 or not isinstance(x.shape[1], int):
            return False
        affine = per_channel_affine(node, x, x.shape[1], len(x.shape) - 2)
        if affine is None or node.outputs[0].dtype != x.dtype:
            return False
        readers, activations = self._readers(node.outputs[0])
        if not readers or (activations and (np.any(affine.scale <= 0) or affine.shift.any())):
            return False
        folded = [_folded(conv, affine) for conv in readers]
        if None in folded:
            return False
        for conv, (weights, bias) in zip(readers, folded, strict=True):
            set_weights(conv, weights, constants)
            if affine.shift.any():
                set_bias(conv, bias, constants)
            self._records[conv.node].fused.append(f"{node.op_type} before it")
        node.outputs[0].replace_all_uses_with(x)
        node.graph.remove(node, safe=True)
        return True

    def _readers(self, value: ir.Value) -> tuple[list[Convolution], bool]:
        """The convolutions that read it, none if others do too, and whether activations stand between."""
        found, activations = [], False
        for user, index in value.uses():
            if user in self._records and index == 0:
                found.append(Convolution(user))
            elif index == 0 and _is_homogeneous(user):
                behind, _ = self._readers(user.outputs[0])
                if not behind:
                    return [], False
                found, activations = found + behind, True
            else:
                return [], False
        return ([], False) if value.is_graph_output() else (found, activations)


def _is_homogeneous(node: ir.Node) -> bool:
    """f(x a) = f(x) a for a > 0; with slopes of at most 1, so that f(x) never exceeds a type that holds x."""
    slopes = slopes_below_zero(node)
    return slopes is not None and bool(np.all(np.abs(slopes) <= 1))


def _folded(conv: Convolution, affine: Affine) -> tuple[ir.TensorProtocol, ir.TensorProtocol] | None:
    """The new weights and bias; None where the convolution cannot take the node in."""
    bias, weights = old_bias(conv) if conv.out_channels is not None else None, None
    if bias is not None and conv.w.shape is not None:
        weights = scaled_weights(conv, _over_input_channels(affine.scale, conv))
    if weights is None:
        return None
    if affine.shift.any():
        if conv.transposed or conv.auto_pad not in ("NOTSET", "VALID") or any(map(any, conv.pads)):
            return None
        shifts = constant(conv.w).astype(np.float64) * _over_input_channels(affine.shift, conv)
        bias = bias + shifts.sum(axis=tuple(range(1, conv.rank + 2)))
    rounded = rounded_bias(conv, bias)
    return None if rounded is None else (weights, rounded)


def _over_input_channels(values: np.ndarray, conv: Convolution) -> np.ndarray:
    """One value an input channel, so that it broadcasts against W: ConvTranspose's axis 0, or, by group,
    Conv's axis 1.
    """
    if conv.transposed:
        return values.reshape(-1, *[1] * (conv.rank + 1))
    by_output = np.repeat(values.reshape(conv.group, -1), conv.out_channels // conv.group, axis=0)
    return by_output.reshape(conv.out_channels, -1, *[1] * conv.rank)
