"""One function body for all MaxPoolNhwc nodes of a data type: Transpose, MaxPool, Transpose.

As with convolutions, what tells its nodes apart comes from their attributes: those of the MaxPool, and the
permutations, which depend on the rank.
"""

from collections.abc import Sequence

import onnx_ir as ir

from ort_cks.graph_rewrite.fallback_guard import FIRST_OPSET_WITH_INTEGERS, guard_attribute, guarded
from ort_cks.graph_rewrite.fallback_layout import FROM_NCHW, TO_NCHW, permuted, set_permutations
from ort_cks.graph_rewrite.function_body import FunctionBody

_ATTRIBUTES = {
    "auto_pad": ir.AttributeType.STRING,
    "kernel_shape": ir.AttributeType.INTS,
    "pads": ir.AttributeType.INTS,
    "strides": ir.AttributeType.INTS,
}
_ATTRIBUTES_SINCE_10 = {"ceil_mode": ir.AttributeType.INT, "dilations": ir.AttributeType.INTS}


def max_pool_function(
    nodes: Sequence[ir.Node], element_type: ir.DataType, opset_version: int, overload: str
) -> ir.Function:
    """The nodes' function; gives them what it asks for beyond their own attributes."""
    guard = guard_attribute(element_type.name.lower())
    for node in nodes:
        node.overload = overload
        node.attributes.add(ir.AttrInt64(guard, 1))
        set_permutations(node, len(node.attributes["kernel_shape"].as_ints()), ("NHWC", "NHWC"))
    names = _ATTRIBUTES | (_ATTRIBUTES_SINCE_10 if opset_version >= 10 else {})
    body = FunctionBody(opset_version, element_type)
    references = {name: ir.RefAttr(name, name, kind) for name, kind in names.items()}
    y = body.op("MaxPool", permuted(body, body.input("X"), TO_NCHW), **references)
    if opset_version >= FIRST_OPSET_WITH_INTEGERS:
        y = guarded(body, y, guard)
    return body.function(
        (nodes[0].domain, nodes[0].op_type, overload),
        [body.output(permuted(body, y, FROM_NCHW))],
        [*names, TO_NCHW, FROM_NCHW, guard],
        "A MaxPool of NHWC in standard ONNX operators.",
    )
