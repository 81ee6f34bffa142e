"""New weights and biases for a convolution: computed in float64, rounded once.

Each convolution gets its own; whoever shares the old ones keeps them. What the data type cannot hold is None.
"""

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import ConstantFactory, constant, derived, fits, is_constant
from ort_cks.graph_rewrite.convolution import Convolution


def scaled_weights(conv: Convolution, factors: np.ndarray) -> ir.TensorProtocol | None:
    """W times factors that broadcast against it, not computed yet; None also where W is not constant."""
    if not is_constant(conv.w) or not _is_finite(factors, conv.w.dtype):
        return None
    w = ir.convenience.get_const_tensor(conv.w)
    # A small variance makes large factors, a large one small factors. The wider types have room for both.
    if w.dtype == ir.DataType.FLOAT16 and not fits(w.numpy() * factors, w.dtype):
        return None
    return derived(w, lambda array: array * factors, w.shape.numpy())


def old_bias(conv: Convolution) -> np.ndarray | None:
    """The bias in float64, zeros where there is none; None if it is not constant."""
    if conv.b is None:
        return np.zeros(conv.out_channels)
    return constant(conv.b).astype(np.float64) if is_constant(conv.b) else None


def rounded_bias(conv: Convolution, bias: np.ndarray) -> ir.TensorProtocol | None:
    if not _is_finite(bias, conv.w.dtype):
        return None
    return ir.Tensor(bias.astype(conv.w.dtype.numpy()), dtype=conv.w.dtype)


def set_weights(conv: Convolution, weights: ir.TensorProtocol, constants: ConstantFactory) -> None:
    conv.node.replace_input_with(1, constants.add(conv.node.graph, f"{conv.node.name}.weight", weights))


def set_bias(conv: Convolution, bias: ir.TensorProtocol, constants: ConstantFactory) -> None:
    """Leaves a convolution without bias as it is, if the new one is of zeros."""
    if conv.b is None and not bias.numpy().any():
        return
    if len(conv.node.inputs) < 3:
        conv.node.resize_inputs(3)
    conv.node.replace_input_with(2, constants.add(conv.node.graph, f"{conv.node.name}.bias", bias))


def ensure_bias(node: ir.Node, channels: int | ir.SymbolicDim, constants: ConstantFactory) -> bool:
    """Gives the node a bias, of zeros: ONNX Runtime before 1.24 crashes on a hole in front of other inputs.

    False where it has none and its channels are unknown.
    """
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return True
    if not isinstance(channels, int):
        return False
    dtype = node.outputs[0].dtype
    node.resize_inputs(max(len(node.inputs), 3))
    zeros = ir.Tensor(np.zeros(channels, dtype.numpy()), dtype=dtype)
    node.replace_input_with(2, constants.add(node.graph, f"{node.name}.zero_bias", zeros))
    return True


def _is_finite(values: np.ndarray, dtype: ir.DataType) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.astype(dtype.numpy()).astype(np.float64)).all())
