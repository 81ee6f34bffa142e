"""The Transposes of a function between NHWC and NCHW.

Its nodes may be of several ranks and layouts, so that the permutations are attributes of theirs.
"""

import onnx_ir as ir

from ort_cks.graph_rewrite.fallback_guard import PREFIX
from ort_cks.graph_rewrite.function_body import FunctionBody, to_channels_first, to_channels_last

TO_NCHW, FROM_NCHW = f"{PREFIX}_to_nchw", f"{PREFIX}_from_nchw"


def set_permutations(node: ir.Node, rank: int, layouts: tuple[str, str]) -> None:
    """rank: the number of spatial axes. layouts: of X and of Y; in NCHW nothing moves."""
    nothing_moves = list(range(rank + 2))
    of_x, of_y = layouts
    to_nchw = to_channels_first(rank) if of_x == "NHWC" else nothing_moves
    from_nchw = to_channels_last(rank) if of_y == "NHWC" else nothing_moves
    node.attributes.add(ir.AttrInt64s(TO_NCHW, to_nchw))
    node.attributes.add(ir.AttrInt64s(FROM_NCHW, from_nchw))


def permuted(body: FunctionBody, value: ir.Value, attribute: str) -> ir.Value:
    """The value transposed as the node says under TO_NCHW or FROM_NCHW."""
    return body.op("Transpose", value, perm=ir.RefAttr("perm", attribute, ir.AttributeType.INTS))
