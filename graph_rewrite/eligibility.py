"""Which convolutions can be swapped, and, in words, why the others cannot."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from ort_cks.graph_rewrite.convolution import Convolution
from ort_cks.graph_rewrite.errors import RewriteError

DATA_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

# Domains and operators that only ONNX Runtime's own optimizer writes.
_RUNTIME_DOMAINS = ("com.ms.internal.nhwc", "com.microsoft.nchwc")
_RUNTIME_OPERATORS = ("FusedConv", "NhwcConv", "NhwcFusedConv")


def reject_optimized_model(model: ir.Model) -> None:
    """Refuses a model that ONNX Runtime has saved after optimizing it.

    Raises:
        RewriteError: with the first of its operators that gives it away.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain in _RUNTIME_DOMAINS or (
            node.domain == "com.microsoft" and node.op_type in _RUNTIME_OPERATORS
        ):
            raise RewriteError(
                f"The model was already optimized by ONNX Runtime for one machine (it holds {node.domain}."
                f"{node.op_type}, node '{node.name}'); rewrite the original export."
            )


# The spatial attributes: how many values an axis, and the smallest that ONNX Runtime takes.
_SPATIAL = {
    "kernel_shape": (1, 1),
    "strides": (1, 1),
    "dilations": (1, 1),
    "pads": (2, 0),
    "output_padding": (1, 0),
    "output_shape": (1, 0),
}


def reject_malformed(node: ir.Node) -> None:
    """Refuses a Conv or ConvTranspose that ONNX Runtime would, before its geometry is computed with.

    Raises:
        RewriteError: what is wrong with it.
    """
    if len(node.inputs) < 2 or None in node.inputs[:2]:
        raise RewriteError(f"Node '{node.name}' is not a valid {node.op_type}: it has no weights.")
    conv = Convolution(node)
    for name, (per_axis, smallest) in _SPATIAL.items():
        values = node.attributes.get_ints(name)
        if values is None or conv.rank is None:
            continue
        if len(values) != per_axis * conv.rank or min(values, default=smallest) < smallest:
            raise RewriteError(
                f"Node '{node.name}' is not a valid {node.op_type}: its {name}, {list(values)}, must be "
                f"{per_axis * conv.rank} numbers of at least {smallest}."
            )


def refusal(node: ir.Node, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> str | None:
    """Why this Conv or ConvTranspose has to stay as it is; None where it can be swapped.

    include, exclude: patterns as in a shell, on the node's name or operator.
    """
    conv = Convolution(node)
    if include and not _matches(node, include):
        return "no --include pattern matches it"
    if _matches(node, exclude):
        return "an --exclude pattern matches it"
    if _is_quantized(conv):
        return "it is quantized (QDQ), and ONNX Runtime's integer kernels need the native operator"
    dtype = conv.x.dtype or conv.w.dtype
    if dtype is None:
        return "its data type is unknown before a run"
    if dtype not in DATA_TYPES:
        return f"it computes in {dtype.name.lower()}; only float, float16 and bfloat16 are supported"
    if conv.rank is None:
        return "the rank of its input is unknown before a run"
    if not 1 <= conv.rank <= 3:
        return f"it has {conv.rank} spatial axes; only 1 to 3 are supported"
    return None


def _matches(node: ir.Node, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in (node.name, node.op_type))


def _is_quantized(conv: Convolution) -> bool:
    producers = (value.producer() for value in (conv.x, conv.w))
    return any(p is not None and p.op_type == "DequantizeLinear" for p in producers) or any(
        user.op_type == "QuantizeLinear" for user in conv.y.consumers()
    )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises RewriteError for a value that is none of the choices."""
    if value not in choices:
        raise RewriteError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
