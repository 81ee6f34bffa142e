"""Transposes that follow one another become one, or none."""

import onnx_ir as ir


def cancel_transposes(graph: ir.Graph) -> None:
    """Lets a Transpose of a Transpose read what that one reads, and drops it where that changes nothing."""
    for node in graph:
        before = node.inputs[0].producer() if _is_transpose(node) else None
        if before is None or not _is_transpose(before) or before.graph is not graph:
            continue
        first, second = (list(n.attributes["perm"].as_ints()) for n in (before, node))
        together = [first[axis] for axis in second]
        source, result = before.inputs[0], node.outputs[0]
        if together != sorted(together):
            node.replace_input_with(0, source)
            node.attributes["perm"] = ir.AttrInt64s("perm", together)
        elif not result.is_graph_output():
            result.replace_all_uses_with(source)
        elif _is_own(source, graph) and not source.is_graph_output():
            source.name = result.name
            result.replace_all_uses_with(source, replace_graph_outputs=True)
    for node in reversed(graph):
        if _is_transpose(node) and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)


def _is_transpose(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and node.domain == "" and "perm" in node.attributes


def _is_own(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether a node of this graph makes the value, so that the graph may hand it out."""
    return value.producer() is not None and value.producer().graph is graph
