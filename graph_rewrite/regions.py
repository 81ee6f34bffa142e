"""The parts of a swapped model that can be native or swapped each for itself.

A region is a maximal set of nodes that hang together by values the native model does not have: those in NHWC,
and those inside a fusion. Every other value is the same in both models, so that a region can be cut out of
either: operators, what lies between them in their layout, and the Transposes at its border.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import is_constant
from ort_cks.graph_rewrite.convolution import static_shape
from ort_cks.graph_rewrite.operators import is_swapped


@dataclass(frozen=True)
class Region:
    """swapped: the convolutions in it that are ort_cks operators. native_graph, swapped_graph: the same
    computation twice.
    """

    swapped: list[ir.Node]
    native_graph: ir.Graph
    swapped_graph: ir.Graph


def regions(native: ir.Graph, swapped: ir.Graph) -> list[Region]:
    """The regions of static shape, in the order of the graph; those in subgraphs are left out.

    native, swapped: a model's graph with all convolutions native, and with all of them swapped and laid out.
    """
    common = {value.name for value in _values(native)} & {value.name for value in _values(swapped)}
    links = nx.Graph()
    links.add_nodes_from(swapped)
    for node in swapped:
        for value in node.outputs:
            if value.name not in common:
                links.add_edges_from(
                    (node, reader) for reader in value.consumers() if reader.graph is swapped
                )
    order = {node: position for position, node in enumerate(swapped)}
    found = []
    for nodes in sorted(
        (sorted(part, key=order.__getitem__) for part in nx.connected_components(links)),
        key=lambda part: order[part[0]],
    ):
        operators = [node for node in nodes if is_swapped(node)]
        if operators and (region := _cut_out(operators, nodes, common, native, swapped)):
            found.append(region)
    return found


def _cut_out(
    operators: list[ir.Node], nodes: list[ir.Node], common: set[str], native: ir.Graph, swapped: ir.Graph
) -> Region | None:
    made = {value for node in nodes for value in node.outputs}
    outputs = [
        value.name
        for value in made
        if value.is_graph_output() or any(reader not in nodes for reader in value.consumers())
    ]
    inside = {value.name for value in made}
    given = {value.name for node in nodes for value in node.inputs if value is not None} - inside
    border = given | (common - inside)
    try:
        parts = [
            ir.convenience.extract(graph, _inputs(graph, outputs, border), outputs)
            for graph in (native, swapped)
        ]
    except (ValueError, KeyError):  # a value is made in another way in the native model; it stays swapped
        return None
    if not all(static_shape(value) for part in parts for value in (*part.inputs, *part.outputs)):
        return None
    return Region(operators, *parts)


def _inputs(graph: ir.Graph, outputs: Iterable[str], border: set[str]) -> list[str]:
    """What the outputs are computed from, up to the border and the graph's own inputs; no constants."""
    values = {value.name: value for value in _values(graph)}
    found, seen, stack = [], set(), [values[name].producer() for name in outputs]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for value in node.inputs:
            if value is None or is_constant(value):
                continue
            if value.name in border or value.producer() is None:
                found.append(value.name)
            else:
                stack.append(value.producer())
    return list(dict.fromkeys(found))


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
