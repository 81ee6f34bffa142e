"""The function body of ReluEach nodes of a data type and a number of inputs: as many Relus."""

from collections.abc import Sequence

import onnx_ir as ir

from ort_cks.graph_rewrite.fallback_guard import FIRST_OPSET_WITH_INTEGERS, guard_attribute, guarded
from ort_cks.graph_rewrite.function_body import FunctionBody


def relu_each_function(
    nodes: Sequence[ir.Node], element_type: ir.DataType, opset_version: int, overload: str
) -> ir.Function:
    """The nodes' function; gives them the attribute that it asks for."""
    count = len(nodes[0].inputs)
    guard = guard_attribute(f"{element_type.name.lower()}_{count}")
    for node in nodes:
        node.overload = overload
        node.attributes.add(ir.AttrInt64(guard, 1))
    body = FunctionBody(opset_version, element_type)
    inputs = [body.input(f"X{i}") for i in range(count)]
    if opset_version >= FIRST_OPSET_WITH_INTEGERS:
        inputs[0] = guarded(body, inputs[0], guard)
    return body.function(
        (nodes[0].domain, nodes[0].op_type, overload),
        [body.output(body.op("Relu", x)) for x in inputs],
        [guard],
        "A Relu of each input.",
    )
