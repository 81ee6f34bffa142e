"""Adds that follow one another become one Sum, which ONNX Runtime's CUDA provider computes in one kernel."""

import onnx_ir as ir

from ort_cks.graph_rewrite.absorb import only_consumer
from ort_cks.graph_rewrite.symbolic_shapes import SymbolicShapes

_MOST_INPUTS = 8  # of one such kernel
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


class MergeSumsPass(ir.passes.InPlacePass):
    """Merges additions of certainly equal shapes whose result nothing but the next addition reads."""

    def __init__(self, shapes: SymbolicShapes):
        super().__init__()
        self._shapes = shapes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for graph in model.graphs():
            for node in graph:
                modified |= self._merge(node)
        return ir.passes.PassResult(model, modified=modified)

    def _merge(self, node: ir.Node) -> bool:
        if not self._is_sum_of_equals(node):
            return False
        inputs, merged = [], []
        for value in node.inputs:
            before = value.producer()
            if before is not None and self._is_sum_of_equals(before) and only_consumer(value) is node:
                inputs += before.inputs
                merged.append(before)
            else:
                inputs.append(value)
        if not merged or len(inputs) > _MOST_INPUTS:
            return False
        node.op_type = "Sum"
        node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            node.replace_input_with(index, value)
        node.graph.remove(merged, safe=True)
        return True

    def _is_sum_of_equals(self, node: ir.Node) -> bool:
        return (
            node.op_type in ("Add", "Sum")
            and node.domain in ("", "ai.onnx")
            and not node.attributes  # broadcasting as it was before opset 7
            and node.outputs[0].dtype in _TYPES
            and all(value is not None and self._shapes.same(value, node.outputs[0]) for value in node.inputs)
        )
