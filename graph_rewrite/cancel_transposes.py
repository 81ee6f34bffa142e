"""Transposes that follow one another become one, or none."""

import onnx_ir as ir


def cancel_transposes(graph: ir.Graph) -> None:
    """Lets a Transpose of a Transpose read what that one reads, and drops it where that changes nothing."""
    for node in graph:
        second = permutation_of(node)
        before = node.inputs[0].producer() if second else None
        first = permutation_of(before)
        if first is None or before.graph is not graph:
            continue
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
        if permutation_of(node) and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)


def permutation_of(node: ir.Node | None) -> tuple[int, ...] | None:
    """Of a Transpose that says it; of anything else none."""
    if node is None or (node.op_type, node.domain) != ("Transpose", "") or "perm" not in node.attributes:
        return None
    return tuple(node.attributes["perm"].as_ints())


def _is_own(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether a node of this graph makes the value, so that the graph may hand it out."""
    return value.producer() is not None and value.producer().graph is graph
