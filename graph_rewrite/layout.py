"""Turns the ort_cks operators to NHWC, and as much of what lies between them as saves Transposes.

Every node that can compute in either layout is given the one with which the fewest elements are transposed:
a minimum cut between the operators, which want NHWC, and everything that knows NCHW only. A value that is
needed in both layouts is transposed once. So the saved model has no pair of Transposes that cancel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import networkx as nx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ort_cks.graph_rewrite.cancel_transposes import cancel_transposes, permutation_of
from ort_cks.graph_rewrite.constants import ConstantFactory, derived
from ort_cks.graph_rewrite.function_body import to_channels_first, to_channels_last
from ort_cks.graph_rewrite.layout_rule import LayoutRule, elements
from ort_cks.graph_rewrite.layout_rules import lay_out_constant, layout_rule
from ort_cks.graph_rewrite.merge_reshapes import merge_reshapes, moves_nothing
from ort_cks.graph_rewrite.node_editor import NodeEditor

_NHWC, _NCHW = "NHWC", "NCHW"  # the two ends of the cut


class NhwcLayoutPass(ir.passes.InPlacePass):
    """Converts the graph and, each for itself, its subgraphs. What a scope takes in and hands out stays NCHW.

    Needs inferred shapes and keeps them right. Values in NHWC get the suffix "_nhwc", so that every other
    name means what it meant. Functions are left alone: the rewriter puts no operators into them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        constants = ConstantFactory(model)
        for graph in list(model.graphs()):
            modified |= _convert(graph, model.opset_imports[""], constants)
        RemoveUnusedNodesPass()(model)  # the constants that others have taken the place of
        return ir.passes.PassResult(model, modified)


def _convert(graph: ir.Graph, opset_version: int, constants: ConstantFactory) -> bool:
    rules = {node: rule for node in graph if (rule := layout_rule(node, opset_version)) is not None}
    if not any(rule.fixed for rule in rules.values()):
        return False
    edges = list(_edges(graph, rules))
    converted = _choose(edges, rules)
    order = {node: position for position, node in enumerate(graph)}
    for edge in edges:
        _transpose_where_layouts_meet(graph, edge, converted, order, constants)
    relaid: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in order:
        if node not in converted:
            continue
        rule = rules[node]
        for index in rule.constants:
            key = node.inputs[index], rule.rank
            if key not in relaid:
                relaid[key] = _lay_out(graph, *key, constants)
            node.replace_input_with(index, relaid[key])
        rule.convert(node, NodeEditor(node, opset_version, constants))
    cancel_transposes(graph)
    merge_reshapes(graph, opset_version, constants)
    return True


@dataclass
class _Edge:
    """A value with spatial axes, who makes it and who reads it."""

    value: ir.Value
    rank: int
    producer: ir.Node | None  # None: not a node with a rule in this graph, so NCHW
    readers: list[tuple[ir.Node, int]]  # nodes with a rule that read it as data, and the input's index
    others: list[tuple[ir.Node, int]]  # reads in NCHW: by any other node, in a subgraph, or as a weight
    is_output: bool

    @property
    def cost(self) -> int:
        """How many elements move where its ends do not agree; a Reshape, where none do, counts as one."""
        return 1 if moves_nothing(self.value, to_channels_last(self.rank)) else elements(self.value)


def _edges(graph: ir.Graph, rules: dict[ir.Node, LayoutRule]) -> Iterator[_Edge]:
    """The values that a node with a rule makes or reads in its layout."""
    ranks: dict[ir.Value, int] = {}
    for node, rule in rules.items():
        for value in chain((node.inputs[i] for i in rule.inputs), (node.outputs[i] for i in rule.outputs)):
            ranks[value] = rule.rank
    for value, rank in ranks.items():
        maker = value.producer()
        producer = maker if maker in rules and value.index() in rules[maker].outputs else None
        readers, others = [], []
        for node, index in value.uses():
            (readers if node in rules and index in rules[node].inputs else others).append((node, index))
        yield _Edge(value, rank, producer, readers, others, any(value is output for output in graph.outputs))


def _choose(edges: list[_Edge], rules: dict[ir.Node, LayoutRule]) -> set[ir.Node]:
    """The nodes to convert: those on the NHWC side of the cut that transposes the fewest elements."""
    network = nx.DiGraph()
    network.add_nodes_from((_NHWC, _NCHW))

    def end(node: ir.Node | None) -> ir.Node | str:
        if node is None:
            return _NCHW
        return _NHWC if rules[node].fixed else node

    for node, rule in rules.items():
        if rule.cost and not rule.fixed:
            network.add_edge(node, _NCHW, capacity=rule.cost)
    for index, edge in enumerate(edges):
        ends = {end(node) for node, _ in edge.readers}
        # Transposes of the model's own, from NHWC or to it, go where the other side is in NHWC.
        from_nhwc, to_nhwc = to_channels_first(edge.rank), to_channels_last(edge.rank)
        ends.update(_NHWC if permutation_of(node) == tuple(to_nhwc) else _NCHW for node, _ in edge.others)
        ends.add(_NHWC if permutation_of(edge.value.producer()) == tuple(from_nhwc) else end(edge.producer))
        if edge.is_output:
            ends.add(_NCHW)
        if len(ends) == 1:
            continue
        # Its cost is due once, where its ends are not all on one side. What has no capacity is never cut.
        gather, spread = ("gather", index), ("spread", index)
        network.add_edge(gather, spread, capacity=edge.cost)
        for each in ends:
            network.add_edge(each, gather)
            network.add_edge(spread, each)
    _, (converted, _) = nx.minimum_cut(network, _NHWC, _NCHW)
    return {node for node, rule in rules.items() if rule.fixed or node in converted}


def _transpose_where_layouts_meet(
    graph: ir.Graph,
    edge: _Edge,
    converted: set[ir.Node],
    order: dict[ir.Node, int],
    names: ConstantFactory,
) -> None:
    value, rank = edge.value, edge.rank
    if edge.producer in converted:
        apart = edge.others + [(node, index) for node, index in edge.readers if node not in converted]
        name, permutation = value.name, to_channels_first(rank)
        shape = value.shape
        value.name = names.free_name(f"{name}_nhwc")
        value.shape = _permuted(shape, to_channels_last(rank))
    else:
        apart = [(node, index) for node, index in edge.readers if node in converted]
        name, permutation = names.free_name(f"{value.name}_nhwc"), to_channels_last(rank)
        shape = _permuted(value.shape, permutation)
    leaves = edge.is_output and edge.producer in converted
    if not apart and not leaves:
        return
    node = ir.node("Transpose", [value], {"perm": permutation}, name=f"{name}_transpose")
    transposed = node.outputs[0]
    transposed.name, transposed.shape, transposed.type = name, shape, value.type
    if value.producer() is not None and value.producer().graph is graph:
        graph.insert_after(value.producer(), node)
    else:
        graph.insert_before(min((reader for reader, _ in apart), key=order.__getitem__), node)
    for reader, index in apart:
        reader.replace_input_with(index, transposed)
    if leaves:
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = transposed


def _lay_out(graph: ir.Graph, value: ir.Value, rank: int, constants: ConstantFactory) -> ir.Value:
    tensor = ir.convenience.get_const_tensor(value)
    extents = [1] * (rank + 2 - len(tensor.shape)) + list(tensor.shape.numpy())
    shape = [extents[axis] for axis in to_channels_last(rank)]
    laid_out = derived(tensor, lambda array: lay_out_constant(array, rank), shape)
    return constants.add(graph, f"{value.name}_nhwc", laid_out)


def _permuted(shape: ir.Shape | None, permutation: list[int]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[axis] for axis in permutation])
