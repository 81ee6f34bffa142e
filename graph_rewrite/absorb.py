"""How a convolution takes in the operators that follow it."""

import onnx_ir as ir


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value, once, in the same graph; None where anything else needs it too."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    (consumer, _), *_ = uses
    return consumer if consumer.graph is value.producer().graph else None


def absorb(node: ir.Node, consumers: list[ir.Node]) -> None:
    """Removes the consumers, whose last one computes what the node does now; the node takes over its output.

    The output keeps its name, which may be one the model's users know.
    """
    old, new = node.outputs[0], consumers[-1].outputs[0]
    name, shape, dtype = new.name, new.shape, new.dtype
    new.replace_all_uses_with(old, replace_graph_outputs=True)
    node.graph.remove(consumers, safe=True)
    old.name = name
    old.shape = shape if shape is not None else old.shape
    if dtype is not None:
        old.dtype = dtype
