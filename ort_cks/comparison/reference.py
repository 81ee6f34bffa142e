"""The model that a strict float32 run computes: the original with float in place of float16 and bfloat16."""

from pathlib import Path

import numpy as np
import onnx_ir as ir

SHORT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
# Attributes that name a data type: of Cast, of the random and constant operators, of (De)QuantizeLinear.
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def upcast(model: ir.Model, path: Path) -> Path:
    """Writes the model in float; its values are those of the short types, which float holds exactly.

    The model itself is changed too: load it again for any other use.
    """
    for graph in (*model.graphs(), *model.functions.values()):
        for value in graph.inputs:
            _retype(value)
        initializers = graph.initializers.values() if isinstance(graph, ir.Graph) else ()
        for value in initializers:
            _retype(value)
            if value.const_value is not None and value.const_value.dtype in SHORT:
                value.const_value = _in_float(value.const_value)
        for node in graph:
            for value in node.outputs:
                _retype(value)
            for attribute in list(node.attributes.values()):
                node.attributes[attribute.name] = _retyped_attribute(attribute)
    ir.save(model, path, external_data=f"{path.name}.data")
    return path


def _retype(value: ir.Value) -> None:
    if value.dtype in SHORT:
        value.dtype = ir.DataType.FLOAT


def _in_float(tensor: ir.TensorProtocol) -> ir.Tensor:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _retyped_attribute(attribute: ir.Attr) -> ir.Attr:
    if attribute.is_ref():
        return attribute
    if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in SHORT:
        return ir.AttrTensor(attribute.name, _in_float(attribute.value))
    if (
        attribute.type == ir.AttributeType.INT
        and attribute.name in TYPE_ATTRIBUTES
        and attribute.value in SHORT
    ):
        return ir.AttrInt64(attribute.name, int(ir.DataType.FLOAT))
    return attribute
