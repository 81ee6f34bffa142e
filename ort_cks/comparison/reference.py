"""The run that errors are taken against: float32 all the way, TF32 off, by ONNX Runtime's own operators."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ort_cks.comparison.inputs import BadInput
from ort_cks.comparison.sessions import BoundSession, Way, one_line
from ort_cks.graph_rewrite.load import load
from ort_cks.graph_rewrite.save import save

SHORT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
SHORT_NAMES = ("float16", "bfloat16")
# Attributes that name a data type: of Cast, of the random and constant operators, of (De)QuantizeLinear.
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def strict_run(
    original: Path, provider: str, feeds: Mapping[str, np.ndarray], folder: Path
) -> tuple[dict[str, np.ndarray], str]:
    """The original's outputs, with float in place of float16 and bfloat16, and in words how they came about.

    Args:
        original: the model's path.
        provider: "cuda" or "cpu".
        feeds: one array an input, in the model's data types.
        folder: where the model in float may be written.

    Raises:
        BadInput: the original does not run.
    """

    def run(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return BoundSession(Way("reference", path, provider, tf32=False, search=False), arrays).outputs()

    tf32_off = ", TF32 off" if provider == "cuda" else ""
    failure: Exception | None = None
    model = load(original)
    if data_types(model) & set(SHORT):
        wide = {n: a.astype(np.float32) if a.dtype.name in SHORT_NAMES else a for n, a in feeds.items()}
        try:
            return run(upcast(model, folder / "float.onnx"), wide), f"the original in float32{tf32_off}"
        except Exception as error:  # an operator without a float32 form; the model's own types have to do
            failure = error
    try:
        return run(original, feeds), f"the original in its own data types{tf32_off}"
    except BadInput:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no documented base
        raise BadInput(f"the original model does not run: {one_line(failure or error)}") from error


def data_types(model: ir.Model) -> set[ir.DataType | None]:
    """The types of the main graph's inputs, outputs and weights: those that the model computes in."""
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    return {value.dtype for value in values}


def upcast(model: ir.Model, path: Path) -> Path:
    """Writes the model, which is changed, in float: that holds every value of the short types exactly."""
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
    save(model, path)
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
