"""No node is ever computed by a function that was not made for it: it is refused instead.

ONNX Runtime before 1.27, and tools that know nothing of overloads, as onnxslim, let a node have any function
of its operator's name; and nodes are copied from model to model. With the library that does no harm, for its
kernels read the nodes themselves. Without it, the answer would be wrong and nobody would know.

So a node has an attribute whose name says what its function can do, and that function adds to its result a
zero that it can compute only with the attribute: the LRN of a zero, with the attribute as its `size`. ONNX
asks for LRN's size in every opset, but infers shapes without it, so that checkers still accept a model which
is right with the library. ONNX Runtime does not accept it, and folds away the zero of a node that has the
function it should have.
"""

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.function_body import FunctionBody

PREFIX = "fallback"

# Before, Constants and comparisons know no integers, of which guards are made: there are none.
FIRST_OPSET_WITH_INTEGERS = 9

# ONNX Runtime's error message shows the name of the node in the body that lacks an attribute.
REFUSAL = "the_function_is_another_nodes_so_this_model_needs_the_ort_cks_library"


def guard_attribute(ability: str) -> str:
    """The attribute of the nodes, and of the function, with this ability, and of no others."""
    # An identifier, as ONNX asks of names, and injective: no number is written with an m or a p.
    return f"{PREFIX}_for_{ability.translate(str.maketrans('.-', 'pm', '+'))}"


def guarded(body: FunctionBody, y: ir.Value, guard: str) -> ir.Value:
    """y, of the type the body computes in, as it is: but only nodes with the attribute can compute it.

    To be put before whatever follows in the body: ONNX Runtime keeps additions of zero that make an output of
    the model.
    """
    zeros = body.op("Constant", value=ir.tensor(np.zeros((1, 1, 1, 1), np.float32)))
    size = ir.RefAttr("size", guard, ir.AttributeType.INT)
    zero = body.op("Reshape", body.op("LRN", zeros, name=REFUSAL, size=size), body.ints([]))
    return body.op("Add", y, body.cast(zero, ir.DataType.FLOAT, body.element_type))
