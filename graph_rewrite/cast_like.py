"""A CastLike to a type that is known becomes a Cast.

PyTorch's exporter, told to optimize nothing, gives a convolution without a bias zeros that a CastLike makes
of the type of its input. As a Cast they are constant, so that a BatchNormalization behind the convolution can
be folded into it.
"""

import onnx_ir as ir


class CastLikePass(ir.passes.InPlacePass):
    """Looks at the model's graphs, not into its functions."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for graph in model.graphs():
            for node in graph:
                if node.op_type == "CastLike" and node.domain in ("", "ai.onnx"):
                    modified |= _to_cast(node)
        return ir.passes.PassResult(model, modified=modified)


def _to_cast(node: ir.Node) -> bool:
    element_type = node.inputs[1].dtype
    if element_type is None:
        return False
    node.op_type = "Cast"
    node.resize_inputs(1)
    node.attributes.add(ir.AttrInt64("to", element_type))
    return True
