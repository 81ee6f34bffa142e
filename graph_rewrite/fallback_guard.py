"""No node is ever computed by the function of another overload: it is refused instead.

Tools that know nothing of overloads, as onnxslim, drop them, and leave an operator one function for all its
nodes: with Relu for the one that had Tanh. Such a model is right with the library, whose kernels read the
nodes themselves. Without it, it would be wrong and nobody would know.

So every node has an attribute whose name says its overload, and its function adds to the convolution a zero
that it can compute only with that attribute: the LRN of a zero, with the attribute as its `size`. ONNX asks
for LRN's size in every opset, but infers shapes without it, so that checkers still accept a model which is
right with the library. ONNX Runtime does not accept it, and folds away the zero of a node that has the
function it should have.
"""

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.function_body import FunctionBody

_PREFIX = "fallback"

# ONNX Runtime's error message shows the name of the node that lacks an attribute.
_NODE_NAME = "a_tool_dropped_function_overloads_so_this_model_needs_the_ort_cks_library"


def guard_attribute(overload: str) -> str:
    """The attribute that nodes of this overload have, and no others."""
    # An identifier, as ONNX asks of names, and injective: no number is written with an m or a p.
    suffix = overload.translate(str.maketrans(".-", "pm", "+"))
    return f"{_PREFIX}_{suffix}" if suffix else _PREFIX


def set_guard(node: ir.Node) -> None:
    """Gives the node the attribute of its overload, in place of one from an earlier rewriting."""
    for earlier in [name for name in node.attributes if name.startswith(_PREFIX)]:
        del node.attributes[earlier]
    node.attributes.add(ir.AttrInt64(guard_attribute(node.overload), 1))


def guarded(body: FunctionBody, y: ir.Value, overload: str) -> ir.Value:
    """y, of the type the body computes in, as it is: but only nodes of this overload can compute it.

    To be put before whatever follows in the body: ONNX Runtime keeps additions of zero that make an output of
    the model.
    """
    zeros = body.op("Constant", value=ir.tensor(np.zeros((1, 1, 1, 1), np.float32)))
    size = ir.RefAttr("size", guard_attribute(overload), ir.AttributeType.INT)
    zero = body.op("Reshape", body.op("LRN", zeros, name=_NODE_NAME, size=size), body.ints([]))
    return body.op("Add", y, body.cast(zero, ir.DataType.FLOAT, body.element_type))
