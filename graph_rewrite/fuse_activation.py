"""The activation after a convolution becomes an attribute of the operator and runs in its epilogue."""

from collections.abc import Mapping

import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import absorb
from ort_cks.graph_rewrite.constants import is_constant, scalar
from ort_cks.graph_rewrite.recognize_activation import Activation, is_elementwise, of_node, of_nodes
from ort_cks.graph_rewrite.records import NodeRecord

_LONGEST_GROUP = 10  # nodes; the longest spelling, Gelu's tanh approximation without Pow, has 9


class FuseActivationPass(ir.passes.InPlacePass):
    """Takes in the largest group of elementwise nodes after Y that is an activation and alone reads Y."""

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node, record in self._records.items():
            found = _activation_after(node.outputs[0])
            if found is None:
                continue
            nodes, activation = found
            node.attributes["activation"] = ir.AttrString("activation", activation.name)
            if activation.params:
                node.attributes["activation_params"] = ir.AttrFloat32s("activation_params", activation.params)
            absorb(node, nodes)
            record.fused.append(activation.name)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _activation_after(y: ir.Value) -> tuple[list[ir.Node], Activation] | None:
    group = _elementwise_group(y)
    for length in range(len(group), 0, -1):
        nodes = group[:length]
        if not _is_closed(y, nodes):
            continue
        activation = of_node(nodes[0]) if length == 1 else None
        activation = activation or of_nodes(nodes, y)
        if activation is not None:
            return nodes, activation
    return None


def _elementwise_group(y: ir.Value) -> list[ir.Node]:
    """Nodes whose inputs are Y, each other's outputs and constants, each after those it reads.

    A constant has one element, but a PRelu's one for each channel of Y.
    """
    graph, rank = y.producer().graph, len(y.shape) if y.shape is not None else 0
    values, nodes = [y], []
    for value in values:  # grows as nodes are found
        for reader in value.consumers():
            known = reader in nodes or reader.graph is not graph or len(nodes) == _LONGEST_GROUP
            own = None if known else of_node(reader)
            if known or not (own or is_elementwise(reader)):
                continue
            by_channel = own is not None and own.name == "PRelu"
            if by_channel or all(v is None or v in values or _is_single(v, rank) for v in reader.inputs):
                nodes.append(reader)
                values.append(reader.outputs[0])
    return nodes


def _is_single(value: ir.Value, rank: int) -> bool:
    """A constant of one element that broadcasting does not let add dimensions to Y."""
    return (
        is_constant(value)
        and value.shape is not None
        and len(value.shape) <= rank
        and scalar(value) is not None
    )


def _is_closed(y: ir.Value, nodes: list[ir.Node]) -> bool:
    """Whether nothing but the last node's output is needed outside the group."""
    inner = [y, *(node.outputs[0] for node in nodes[:-1])]
    return all(not v.is_graph_output() and all(user in nodes for user in v.consumers()) for v in inner)
