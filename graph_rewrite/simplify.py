"""onnxsim before the rewrite: it folds constants, computes shapes and drops what does nothing."""

import logging

import onnx
import onnx_ir as ir

from ort_cks.graph_rewrite.errors import RewriteError

logger = logging.getLogger(__name__)

# It copies the weights several times, through protobuf messages that end at 2 GB.
_LIMIT_BYTES = 1 << 30

# Fusions into convolutions are this package's own: they are reported by node, serve ConvTranspose and keep
# off the nodes that are not swapped.
_SKIPPED_OPTIMIZERS = ("fuse_bn_into_conv", "fuse_add_bias_into_conv", "fuse_pad_into_conv")


def simplify(model: ir.Model) -> ir.Model:
    """The simplified model, or the same one, with a warning that says why, where onnxsim cannot take it."""
    size = sum(v.const_value.nbytes for g in model.graphs() for v in g.initializers.values() if v.const_value)
    if size > _LIMIT_BYTES:
        logger.warning(
            "onnxsim was skipped: it copies the weights, and %.1f GB of them are too many.", size / 1e9
        )
        return model
    try:
        import onnxsim
    except ImportError:
        logger.warning("onnxsim was skipped: it is not installed (pip install onnxsim).")
        return model
    proto = serialize_inline(model)
    try:
        simplified, _ = onnxsim.simplify(proto, skipped_optimizers=list(_SKIPPED_OPTIMIZERS))
        return ir.from_proto(simplified)
    except Exception as error:  # whatever it stumbles over, the rewrite works on the model as it is
        logger.warning("onnxsim was skipped, as it failed: %s", str(error).strip().split("\n")[0])
        return model


def serialize_inline(model: ir.Model) -> onnx.ModelProto:
    """The model with every weight inside it.

    Raises:
        RewriteError: it would exceed protobuf's 2 GB.
    """
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    if sum(value.const_value.nbytes for value in values if value.const_value) >= 2**31 - 2**20:
        raise RewriteError("The model is too large for one ModelProto of 2 GB; save it to a file instead.")
    kept = {value: value.const_value for value in values if isinstance(value.const_value, ir.ExternalTensor)}
    for value, tensor in kept.items():
        value.const_value = ir.LazyTensor(_reader(tensor), tensor.dtype, tensor.shape, name=tensor.name)
    try:
        return ir.to_proto(model)
    finally:
        for value, tensor in kept.items():
            value.const_value = tensor


def _reader(tensor: ir.ExternalTensor):
    return lambda: ir.Tensor(tensor.numpy(), dtype=tensor.dtype)
