"""The Transposes of a function between NHWC and NCHW.

Its nodes may be of several ranks and layouts, so that the permutations are attributes of theirs.
"""

import onnx_ir as ir

from ort_cks.graph_rewrite.fallback_guard import PREFIX
from ort_cks.graph_rewrite.function_body import FunctionBody, to_channels_first, to_channels_last

TO_NCHW, FROM_NCHW = f"{PREFIX}_to_nchw", f"{PREFIX}_from_nchw"


def set_permutations(node: ir.Node, rank: int, channels_last: bool) -> None:
    """rank: the number of spatial axes. channels_last: else nothing moves."""
    to_nchw, from_nchw = to_channels_first(rank), to_channels_last(rank)
    if not channels_last:
        to_nchw = from_nchw = list(range(rank + 2))
    node.attributes.add(ir.AttrInt64s(TO_NCHW, to_nchw))
    node.attributes.add(ir.AttrInt64s(FROM_NCHW, from_nchw))


def permuted(body: FunctionBody, value: ir.Value, attribute: str) -> ir.Value:
    """The value transposed as the node says under TO_NCHW or FROM_NCHW."""
    return body.op("Transpose", value, perm=ir.RefAttr("perm", attribute, ir.AttributeType.INTS))
