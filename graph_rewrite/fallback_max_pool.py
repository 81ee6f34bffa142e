"""One function body for all MaxPoolNhwc nodes of a data type: Transpose, MaxPool, Transpose.

As with convolutions, what tells its nodes apart comes from their attributes: those of the MaxPool, and the
permutations, which depend on the rank.
"""

from collections.abc import Sequence

import onnx_ir as ir

from ort_cks.graph_rewrite.fallback_guard import PREFIX, guard_attribute, guarded
from ort_cks.graph_rewrite.function_body import FunctionBody, to_channels_first, to_channels_last

_ATTRIBUTES = {
    "auto_pad": ir.AttributeType.STRING,
    "kernel_shape": ir.AttributeType.INTS,
    "pads": ir.AttributeType.INTS,
    "strides": ir.AttributeType.INTS,
}
_ATTRIBUTES_SINCE_10 = {"ceil_mode": ir.AttributeType.INT, "dilations": ir.AttributeType.INTS}
# Before, there is no guard: it is made of integers.
_FIRST_OPSET_WITH_INTEGERS = 9
_TO_NCHW, _FROM_NCHW = f"{PREFIX}_to_nchw", f"{PREFIX}_from_nchw"


def max_pool_function(
    nodes: Sequence[ir.Node], element_type: ir.DataType, opset_version: int, overload: str
) -> ir.Function:
    """The nodes' function; gives them what it asks for beyond their own attributes."""
    guard = guard_attribute(element_type.name.lower())
    for node in nodes:
        rank = len(node.attributes["kernel_shape"].as_ints())
        node.overload = overload
        node.attributes.add(ir.AttrInt64(guard, 1))
        node.attributes.add(ir.AttrInt64s(_TO_NCHW, to_channels_first(rank)))
        node.attributes.add(ir.AttrInt64s(_FROM_NCHW, to_channels_last(rank)))
    names = _ATTRIBUTES | (_ATTRIBUTES_SINCE_10 if opset_version >= 10 else {})
    body = FunctionBody(opset_version, element_type)

    def permuted(value: ir.Value, attribute: str) -> ir.Value:
        return body.op("Transpose", value, perm=ir.RefAttr("perm", attribute, ir.AttributeType.INTS))

    references = {name: ir.RefAttr(name, name, kind) for name, kind in names.items()}
    y = body.op("MaxPool", permuted(body.input("X"), _TO_NCHW), **references)
    if opset_version >= _FIRST_OPSET_WITH_INTEGERS:
        y = guarded(body, y, guard)
    return body.function(
        (nodes[0].domain, nodes[0].op_type, overload),
        body.output(permuted(y, _FROM_NCHW)),
        [*names, _TO_NCHW, _FROM_NCHW, guard],
        "A MaxPool of NHWC in standard ONNX operators.",
    )
