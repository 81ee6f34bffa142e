"""Transposes that only move axes of extent 1, and the Reshapes around them, become one Reshape, or none.

Reshapes are free: ONNX Runtime hands on the same memory.
"""

from collections.abc import Sequence

import onnx_ir as ir

from ort_cks.graph_rewrite.constants import ConstantFactory
from ort_cks.graph_rewrite.node_editor import NodeEditor

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def merge_reshapes(graph: ir.Graph, opset_version: int, constants: ConstantFactory) -> None:
    """Rewrites the graph's chains of such nodes, needs inferred shapes and keeps them right.

    A Reshape states at most one extent as "what is left". Where two or more are open, a Transpose becomes a
    Squeeze and an Unsqueeze instead.
    """
    for node in list(graph):
        if _is_free_transpose(node):
            _to_reshapes(node, NodeEditor(node, opset_version, constants))
    for node in list(graph):
        if _is_reshape(node):
            _merge(node, NodeEditor(node, opset_version, constants))
    for node in reversed(graph):
        if _is_reshape(node) and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)


def moves_nothing(value: ir.Value, permutation: Sequence[int]) -> bool:
    """Whether the permutation keeps the order of the axes that are not certainly of extent 1."""
    if value.shape is None:
        return False
    moved = [axis for axis in permutation if value.shape[axis] != 1]
    return moved == sorted(moved)


def _is_free_transpose(node: ir.Node) -> bool:
    permutation = node.attributes.get_ints("perm")
    return (
        (node.op_type, node.domain) == ("Transpose", "")
        and permutation is not None
        and moves_nothing(node.inputs[0], permutation)
        and 1 in list(node.inputs[0].shape)
    )


def _is_reshape(node: ir.Node | None) -> bool:
    return node is not None and node.op_type in _RESHAPES and node.domain == ""


def _to_reshapes(node: ir.Node, editor: NodeEditor) -> None:
    x, permutation = node.inputs[0], node.attributes["perm"].as_ints()
    ones = [axis for axis, extent in enumerate(x.shape) if extent == 1]
    kept = [extent for extent in x.shape if extent != 1]
    squeezed = editor.over_axes("Squeeze", x, ones, shape=kept)
    ones_after = [position for position, axis in enumerate(permutation) if axis in ones]
    y = node.outputs[0]
    editor.replace(editor.over_axes("Unsqueeze", squeezed, ones_after, shape=y.shape))


def _merge(node: ir.Node, editor: NodeEditor) -> None:
    """Lets the node reshape what the chain in front of it began with."""
    source, y = node.inputs[0], node.outputs[0]
    while _is_reshape(source.producer()) and source.producer().graph is node.graph:
        source = source.producer().inputs[0]
    if source is node.inputs[0] or source.shape is None or y.shape is None:
        return
    if _same_extents(source, y) and not y.is_graph_output():
        y.replace_all_uses_with(source)
        return
    target = [extent if isinstance(extent, int) else -1 for extent in y.shape]
    if target.count(-1) <= 1 and 0 not in target:
        editor.replace(editor.reshape(source, target, y.shape))


def _same_extents(a: ir.Value, b: ir.Value) -> bool:
    return len(a.shape) == len(b.shape) and all(
        one == other and (isinstance(one, int) or one.value is not None)
        for one, other in zip(a.shape, b.shape, strict=True)
    )
