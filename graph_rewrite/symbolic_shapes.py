"""Which extents are certainly equal, where they are only known in a run.

ONNX's shape inference gives up on a spatial extent that is open at a convolution's input, even where the
convolution keeps it. Here such an extent is an expression of the open extents it comes from; equal
expressions are equal extents.
"""

from collections.abc import Hashable
from itertools import zip_longest

import onnx_ir as ir

from ort_cks.graph_rewrite.convolution import Convolution, is_convolution

Extents = tuple[Hashable, ...]  # an int where it is known

_KEEPS_SHAPE = {
    *(
        "BatchNormalization",
        "Cast",
        "Clip",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
    ),
    *(
        "Identity",
        "InstanceNormalization",
        "LeakyRelu",
        "Mish",
        "Neg",
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softmax",
    ),
    *("Softplus", "Sqrt", "Swish", "Tanh"),
}
_BROADCASTS = {"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum", "Where"}
_POOLS = {"AveragePool", "LpPool", "MaxPool"}


class SymbolicShapes:
    """The extents of the values of a model as it was when this was made."""

    def __init__(self, model: ir.Model):
        self._extents: dict[ir.Value, Extents] = {}
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            for value in node.outputs:
                declared = self.of(value)
                derived = self._derive(node) if value is node.outputs[0] else None
                if declared is not None and derived is not None and len(derived) == len(declared):
                    pairs = zip(declared, derived, strict=True)
                    self._extents[value] = tuple(
                        d if isinstance(d, int) or e is None else e for d, e in pairs
                    )

    def of(self, value: ir.Value) -> Extents | None:
        """The extents, or None where not even the rank is known. One that nothing is known of is like no
        other.
        """
        if value not in self._extents and value.shape is not None:
            self._extents[value] = tuple(
                dim if isinstance(dim, int) else dim.value or (value, axis)
                for axis, dim in enumerate(value.shape)
            )
        return self._extents.get(value)

    def same(self, a: ir.Value, b: ir.Value) -> bool:
        """Whether the two certainly have the same shape."""
        extents = self.of(a), self.of(b)
        if None in extents or len(extents[0]) != len(extents[1]):
            return False
        return all(
            one == other or (a.shape[axis] == b.shape[axis] and _is_named(a.shape[axis]))
            for axis, (one, other) in enumerate(zip(*extents, strict=True))
        )

    def _derive(self, node: ir.Node) -> tuple[Hashable | None, ...] | None:
        """The extents of the first output, None for each that the inputs' say nothing about."""
        if node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
            return None
        inputs = [self.of(value) for value in node.inputs if value is not None]
        if inputs[0] is None:
            return None
        if node.op_type in _KEEPS_SHAPE:
            return inputs[0]
        if node.op_type in _BROADCASTS:
            return None if None in inputs else _broadcast(inputs)
        if is_convolution(node):
            return _convolution(Convolution(node), inputs[0])
        if node.op_type in _POOLS:
            attributes = tuple(sorted((name, str(attr.value)) for name, attr in node.attributes.items()))
            window = (node.op_type, attributes)
            return (*inputs[0][:2], *((window, axis, extent) for axis, extent in enumerate(inputs[0][2:])))
        if node.op_type == "Concat":
            axis = node.attributes["axis"].as_int() % len(inputs[0])
            return tuple(None if i == axis else extent for i, extent in enumerate(inputs[0]))
        return None


def _broadcast(inputs: list[Extents]) -> tuple[Hashable | None, ...]:
    extents = []
    for aligned in zip_longest(*(reversed(shape) for shape in inputs), fillvalue=1):
        wide = {extent for extent in aligned if extent != 1}
        extents.append(wide.pop() if len(wide) == 1 else None if wide else 1)
    return tuple(reversed(extents))


def _convolution(conv: Convolution, x: Extents) -> tuple[Hashable | None, ...] | None:
    if conv.rank is None or conv.kernel_shape is None or "output_shape" in conv.node.attributes:
        return None
    extents: list[Hashable | None] = [x[0], conv.out_channels]
    extra = conv.spatial("output_padding", 0)
    windows = zip(
        conv.kernel_shape, conv.spatial("strides", 1), conv.dilations, conv.pads, extra, strict=True
    )
    for extent, (kernel, stride, dilation, pads, more) in zip(x[2:], windows, strict=True):
        same = conv.auto_pad.startswith("SAME")
        # How much longer than its input the output is at stride 1.
        growth = (kernel - 1) * dilation * (1 if conv.transposed else -1)
        growth += more - sum(pads) if conv.transposed else sum(pads)
        if stride == 1 and (same or growth == 0):
            extents.append(extent)
        else:
            extents.append((conv.node.op_type, extent, stride, "same" if same else growth))
    return tuple(extents)


def _is_named(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, int) or dim.value is not None
