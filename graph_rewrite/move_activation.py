"""An activation behind a Concat, a MaxPool or a change of shape goes in front of it, where it can be fused.

f(concat(a, b)) = concat(f(a), f(b)), and likewise for all that only moves values. f(max(a, b)) =
max(f(a), f(b)) for an f that never falls.
"""

from collections.abc import Mapping

import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import absorb, only_consumer
from ort_cks.graph_rewrite.constants import ConstantFactory
from ort_cks.graph_rewrite.recognize_activation import Activation, of_node
from ort_cks.graph_rewrite.records import NodeRecord

_MOVES_VALUES = {
    *("Concat", "DepthToSpace", "Flatten", "Reshape", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze"),
}
_NEVER_FALLS = {"Relu", "Clip", "Sigmoid", "Tanh"}
_NEVER_FALLS_IF_POSITIVE = {"LeakyRelu", "HardSigmoid", "Elu"}  # the first parameter


class MoveActivationPass(ir.passes.InPlacePass):
    """Moves single nodes, while they alone read what is moved.

    It costs nothing in swapped convolutions that nobody else reads. All inputs but one have to come from
    such: so the number of kernels does not grow, and the one that may be left has less to do.
    """

    def __init__(self, records: Mapping[ir.Node, NodeRecord]):
        super().__init__()
        self._records = records

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        names, modified = ConstantFactory(model), False
        for graph in model.graphs():
            pending = list(graph)
            for node in pending:  # grows: what has moved may move on
                moved = self._move(node, names)
                modified |= bool(moved)
                pending += moved
        return ir.passes.PassResult(model, modified=modified)

    def _move(self, node: ir.Node, names: ConstantFactory) -> list[ir.Node]:
        """The nodes that now stand where the node's inputs come from; none where it stays."""
        activation = of_node(node)
        if activation is None:
            return []
        mover = node.inputs[0].producer()
        if mover is None or only_consumer(node.inputs[0]) is not node:
            return []
        inputs = _moved_inputs(mover, activation)
        fused = [self._will_fuse(value, mover, activation) for value in inputs]
        if not any(fused) or fused.count(False) > 1 or not _broadcasts_alike(node, inputs):
            return []
        moved = []
        for index, value in enumerate(inputs):
            before = ir.node(node.op_type, [value, *node.inputs[1:]], dict(node.attributes))
            y = before.outputs[0]
            y.name = before.name = names.free_name(f"{node.outputs[0].name}_{index}")
            y.shape, y.type = value.shape, value.type
            mover.graph.insert_before(mover, before)
            mover.replace_input_with(index, y)
            moved.append(before)
        absorb(mover, [node])
        return moved

    def _will_fuse(self, value: ir.Value, reader: ir.Node, activation: Activation) -> bool:
        if value.producer() is None or only_consumer(value) is not reader:
            return False
        inputs = _moved_inputs(value.producer(), activation)
        return value.producer() in self._records or (
            bool(inputs) and all(self._will_fuse(each, value.producer(), activation) for each in inputs)
        )


def _moved_inputs(mover: ir.Node, activation: Activation) -> list[ir.Value]:
    """The inputs that the activation may go to instead; none where it may not."""
    if mover.domain not in ("", "ai.onnx") or activation.name == "PRelu":  # its slopes are the channels'
        return []
    if mover.op_type == "MaxPool" and _never_falls(activation) and not any(o.name for o in mover.outputs[1:]):
        return [mover.inputs[0]]
    if mover.op_type not in _MOVES_VALUES:
        return []
    return list(mover.inputs) if mover.op_type == "Concat" else [mover.inputs[0]]


def _never_falls(activation: Activation) -> bool:
    return activation.name in _NEVER_FALLS or (
        activation.name in _NEVER_FALLS_IF_POSITIVE and activation.params[0] >= 0
    )


def _broadcasts_alike(node: ir.Node, inputs: list[ir.Value]) -> bool:
    """Whether the activation's constants, of one element each, do not add axes to what they meet now."""
    most_axes = max((len(value.shape) for value in node.inputs[1:] if value is not None), default=0)
    return all(value.shape is not None and len(value.shape) >= most_axes for value in inputs)
