"""What a BatchNormalization, in inference, does to each channel."""

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import constant, is_constant


def scale_and_shift(node: ir.Node, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The factor and the summand of every channel in float64; None where it trains, or they are not constant.

    y = x a + c with a = scale / sqrt(variance + epsilon), c = bias - mean a.
    """
    attributes = node.attributes
    trains = (
        attributes.get_int("training_mode", 0)
        or attributes.get_int("is_test", 1) == 0  # until opset 6
        or any(output.name for output in node.outputs[1:])  # until opset 13, whether they are read or not
    )
    per_element = attributes.get_int("spatial", 1) == 0  # until opset 8
    if trains or per_element or not all(is_constant(value) for value in node.inputs[1:5]):
        return None
    scale, bias, mean, variance = (constant(value).astype(np.float64) for value in node.inputs[1:5])
    if scale.shape != (channels,):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is not used
        factor = scale / np.sqrt(variance + attributes.get_float("epsilon", 1e-5))
        return factor, bias - mean * factor
