"""What the rewriter says of each convolution: the rows of its table and of its reports."""

from dataclasses import dataclass, field
from typing import Literal

Shape = tuple[int | str, ...]


@dataclass
class NodeRecord:
    """One Conv or ConvTranspose of the model, as it was before the rewrite, and what became of it.

    Attributes:
        name: the node's name, or, where the model gives none, the name of its first output.
        op_type: the ONNX operator, "Conv" or "ConvTranspose".
        decision: "swapped" for an ort_cks operator, or "kept" as it is.
        new_op: the operator that took its place, None for a kept node.
        reason: why, in one sentence.
        input_shape, weight_shape, output_shape: in ONNX layout (N, C, spatial); a dimension that is not known
            before a run is a string. None where not even the rank is known.
        zero_fraction: the share of the convolution's multiply-adds that have a zero operand because of
            padding or of a transposed convolution's stride, 0 to 1. None where the shapes are not static.
        fused: what the operator took in, in the order of computation, e.g. ["Pad", "BatchNormalization",
            "Relu"].
    """

    name: str
    op_type: str
    decision: Literal["swapped", "kept"] = "kept"
    new_op: str | None = None
    reason: str = ""
    input_shape: Shape | None = None
    weight_shape: Shape | None = None
    output_shape: Shape | None = None
    zero_fraction: float | None = None
    fused: list[str] = field(default_factory=list)
