"""onnxsim before the rewrite: it folds constants, computes shapes and drops what does nothing.

It never sees the weights: it has no use for them, would copy them several times, and protobuf ends at 2 GB.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import is_constant
from ort_cks.graph_rewrite.convolution import is_convolution
from ort_cks.graph_rewrite.errors import RewriteError

logger = logging.getLogger(__name__)

# Smaller constants are shapes, axes, pads and bounds, whose values onnxsim needs.
_SMALLEST_WEIGHT_BYTES = 4096
# What has to stay in the model for constant folding, onnxsim copies several times.
_LIMIT_BYTES = 1 << 30
_PROTOBUF_BYTES = 2**31 - 2**20  # a message ends at 2 GB; graphs are far smaller than the rest

# Fusions into convolutions are this package's own: they are reported by node, serve ConvTranspose too and
# keep off the nodes that are not swapped.
_OWN_FUSIONS = ("fuse_bn_into_conv", "fuse_add_bias_into_conv", "fuse_pad_into_conv")
# Two ReduceMeans, the first of which keeps its axes, become one that drops them all (onnxsim 0.8.1).
_WRONG_FUSIONS = ("fuse_consecutive_reduce",)

# A graph of nothing but these, none of them with constant inputs only, is as simple as it gets;
# importing onnxsim alone takes longer than the whole rewrite of such a model.
_SIMPLE = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization"),
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Add", "Sub", "Mul", "Div"),
    *(
        "Clip",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "PRelu",
        "Relu",
        "Sigmoid",
        "Softmax",
        "Tanh",
    ),
    *("Concat", "Flatten"),
}


def simplify(model: ir.Model) -> ir.Model:
    """The simplified model, or the same one, with a warning that says why, where onnxsim cannot take it."""
    if all(node.op_type in _SIMPLE and not node.domain and not _is_foldable(node) for node in model.graph):
        return model
    try:
        import onnxsim
    except ImportError:
        logger.warning("onnxsim was skipped: it is not installed (pip install onnxsim).")
        return model
    weights = {
        value.name: value.const_value for value in model.graph.initializers.values() if _is_weight(value)
    }
    folded_bytes = _weight_bytes(model) - sum(tensor.nbytes for tensor in weights.values())
    if folded_bytes > _LIMIT_BYTES:
        logger.warning("onnxsim was skipped: %.1f GB of constants to fold are too many.", folded_bytes / 1e9)
        return model
    try:
        with _as_inputs(model, weights):
            proto = serialize_inline(model)
        simplified, _ = onnxsim.simplify(proto, skipped_optimizers=[*_OWN_FUSIONS, *_WRONG_FUSIONS])
        result = ir.from_proto(simplified)
    except Exception as error:  # whatever it stumbles over, the rewrite works on the model as it is
        logger.warning("onnxsim was skipped, as it failed: %s", str(error).strip().split("\n")[0])
        return model
    _put_back(result, weights)
    # The user's own; onnxsim adds notes on everything it did.
    result.metadata_props.clear()
    result.metadata_props.update(model.metadata_props)
    return result


def serialize_inline(model: ir.Model) -> onnx.ModelProto:
    """The model with every weight inside it.

    Raises:
        RewriteError: the weights exceed what a protobuf message can hold.
    """
    if (size := _weight_bytes(model)) > _PROTOBUF_BYTES:
        raise RewriteError(
            f"{size / 1e9:.1f} GB of weights are too many for a ModelProto; save the model instead."
        )
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    kept = {value: value.const_value for value in values if isinstance(value.const_value, ir.ExternalTensor)}
    for value, tensor in kept.items():
        value.const_value = ir.LazyTensor(_reader(tensor), tensor.dtype, tensor.shape, name=tensor.name)
    try:
        return ir.to_proto(model)
    finally:
        for value, tensor in kept.items():
            value.const_value = tensor


def _weight_bytes(model: ir.Model) -> int:
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _is_foldable(node: ir.Node) -> bool:
    return all(value is None or is_constant(value) for value in node.inputs)


def _is_weight(value: ir.Value) -> bool:
    """Whether constant folding has no use for the initializer, as each reader has an input that varies.

    Small weights of convolutions too: onnxsim would fold into them what comes before, e.g. the half of a
    Gelu. And quantized weights, which onnxsim would dequantize for good.
    """
    tensor, readers = value.const_value, value.consumers()
    if tensor is None or value.is_graph_input() or value.is_graph_output():
        return False
    if any(node.op_type == "DequantizeLinear" and node.inputs[0] is value for node in readers):
        return True
    small = tensor.nbytes < _SMALLEST_WEIGHT_BYTES and not any(is_convolution(node) for node in readers)
    return not small and not any(_is_foldable(node) for node in readers)


@contextmanager
def _as_inputs(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> Iterator[None]:
    """The model with the named initializers as inputs of the same type and shape."""
    graph, count = model.graph, len(model.graph.inputs)
    for name, tensor in weights.items():
        value = graph.initializers.pop(name)
        value.shape, value.dtype = ir.Shape(tensor.shape), tensor.dtype
        graph.inputs.append(value)
    try:
        yield
    finally:
        for value in graph.inputs[count:]:
            graph.inputs.remove(value)  # deleting a slice would leave the values marked as inputs
            graph.register_initializer(value)


def _put_back(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> None:
    for value in [value for value in model.graph.inputs if value.name in weights]:
        model.graph.inputs.remove(value)
        value.const_value = weights[value.name]
        model.graph.register_initializer(value)


def _reader(tensor: ir.ExternalTensor):
    return lambda: ir.Tensor(tensor.numpy(), dtype=tensor.dtype)
