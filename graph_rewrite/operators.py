"""The operators of ours: what they are called, and the inputs of the convolutions among them.

Those are X, W, B, Z and X2, all but the first two optional, X2 the last.
"""

import onnx_ir as ir

DOMAIN = "ort_cks"
CONVOLUTIONS = {"ConvV2": "Conv", "SkDilated": "Conv", "KSDeconv": "ConvTranspose"}  # and ONNX's own of each
WEIGHT_GRADIENT = "SkDilatedWeightGrad"
MAX_POOL = "MaxPoolNhwc"
RELU_EACH = "ReluEach"

SWAPPED = (*CONVOLUTIONS, WEIGHT_GRADIENT)  # what a Conv or ConvTranspose becomes


def is_swapped(node: ir.Node) -> bool:
    """Whether the node is one of ours that was a convolution."""
    return node.domain == DOMAIN and node.op_type in SWAPPED


def residual(node: ir.Node) -> ir.Value | None:
    """Z."""
    inputs = node.inputs[:-1] if reads_two(node) else node.inputs
    return inputs[3] if len(inputs) > 3 else None


def reads_two(node: ir.Node) -> bool:
    """Whether it convolves Concat([X, X2])."""
    return node.attributes.get_int("concat", 0) == 1


def layouts(node: ir.Node) -> tuple[str, str]:
    """Of X and of Y, "NCHW" or "NHWC"."""
    of_x = node.attributes.get_string("layout", "NCHW")
    return of_x, node.attributes.get_string("y_layout", "") or of_x


def set_layouts(node: ir.Node, of_x: str, of_y: str) -> None:
    node.attributes["layout"] = ir.AttrString("layout", of_x)
    node.attributes.pop("y_layout", None)
    if of_y != of_x:
        node.attributes["y_layout"] = ir.AttrString("y_layout", of_y)
