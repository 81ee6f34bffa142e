"""The inputs of a convolution of ours: X, W, B, Z and X2, all but the first two optional, X2 the last."""

import onnx_ir as ir


def residual(node: ir.Node) -> ir.Value | None:
    """Z."""
    inputs = node.inputs[:-1] if reads_two(node) else node.inputs
    return inputs[3] if len(inputs) > 3 else None


def reads_two(node: ir.Node) -> bool:
    """Whether it convolves Concat([X, X2])."""
    return node.attributes.get_int("concat", 0) == 1
