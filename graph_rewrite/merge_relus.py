"""Relus beside our operators become one ReluEach, which computes them all in one launch.

Skip connections leave them: in an image translator the output of each convolution on the way down goes to
the next and, through a Relu, to a convolution on the way up. On a GPU each such Relu is a short kernel, and
most of its time is its start.

Relus become one where, in the order of the graph, a node can stand behind all that makes their inputs or
reads them too, and in front of all that reads their outputs. So a Relu that needs another's output is never
merged with it, there is no cycle, and before and behind the node no more tensors live than did: from there on
each output is in its input's place. A Relu whose result is needed at once has no such place beside others.
"""

from dataclasses import dataclass

import onnx_ir as ir

from ort_cks.graph_rewrite.operators import DOMAIN, RELU_EACH

_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class MergeRelusPass(ir.passes.InPlacePass):
    """Merges two or more Relus of one graph and data type that read outputs of our operators.

    The values keep their names, shapes and types. Comes last: no other pass knows ReluEach.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for graph in model.graphs():
            nodes = list(graph)
            for group in _groups(nodes):
                _merge(group.relus, graph, nodes[group.before] if group.before < len(nodes) else None)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


@dataclass
class _Group:
    """Relus, and the positions in the graph between which one node can stand for them."""

    relus: list[ir.Node]
    behind: int
    before: int  # as many as there are nodes, where none reads an output

    def takes(self, other: "_Group") -> bool:
        """Adds the other's Relus if there is a place for all."""
        behind, before = max(self.behind, other.behind), min(self.before, other.before)
        if behind >= before:
            return False
        self.relus += other.relus
        self.behind, self.before = behind, before
        return True


def _groups(nodes: list[ir.Node]) -> list[_Group]:
    order = {node: position for position, node in enumerate(nodes)}
    groups: dict[ir.DataType, list[_Group]] = {}
    for node in nodes:
        if not _is_beside_ours(node):
            continue
        x, y = node.inputs[0], node.outputs[0]
        behind = max(order[other] for other in (x.producer(), *x.consumers()) if other is not node)
        before = min((order[reader] for reader in y.consumers()), default=len(nodes))
        alone, of_type = _Group([node], behind, before), groups.setdefault(x.dtype, [])
        if not any(group.takes(alone) for group in of_type):
            of_type.append(alone)
    return [group for of_type in groups.values() for group in of_type if len(group.relus) > 1]


def _is_beside_ours(node: ir.Node) -> bool:
    """Whether it is a Relu of what our operator makes, and all that reads either is in the same graph."""
    if node.op_type != "Relu" or node.domain not in ("", "ai.onnx") or node.attributes:
        return False
    x, y = node.inputs[0], node.outputs[0]
    maker = x.producer()
    if maker is None or maker.domain != DOMAIN or x.dtype not in _TYPES or x.is_graph_output():
        return False
    return all(other.graph is node.graph for other in (maker, *x.consumers(), *y.consumers()))


def _merge(relus: list[ir.Node], graph: ir.Graph, before: ir.Node | None) -> None:
    inputs = [relu.inputs[0] for relu in relus]
    merged = ir.node(RELU_EACH, inputs, domain=DOMAIN, num_outputs=len(relus), name=relus[0].name)
    if before is not None:
        graph.insert_before(before, merged)
    else:
        graph.append(merged)
    for relu, y in zip(relus, merged.outputs, strict=True):
        old = relu.outputs[0]
        y.name, y.shape, y.type = old.name, old.shape, old.type
        old.replace_all_uses_with(y, replace_graph_outputs=True)
    graph.remove(relus, safe=True)
