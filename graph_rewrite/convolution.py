"""A view of a Conv or ConvTranspose node: its attributes with ONNX's defaults, and its axes where shapes are
static.
"""

from collections.abc import Iterator

import onnx_ir as ir

from ort_cks.graph_rewrite.geometry import Axis, pads_for_output, same_pads
from ort_cks.graph_rewrite.records import Shape

OP_TYPES = ("Conv", "ConvTranspose")


def is_convolution(node: ir.Node) -> bool:
    return node.op_type in OP_TYPES and node.domain in ("", "ai.onnx")


def convolutions(model: ir.Model) -> Iterator[ir.Node]:
    """The convolutions of the graph and, where they stand, of its subgraphs; not those of functions."""
    return (node for node in ir.traversal.RecursiveGraphIterator(model.graph) if is_convolution(node))


class Convolution:
    """Reads a node; `write` changes it. Spatial attributes are lists with one entry an axis."""

    def __init__(self, node: ir.Node):
        self.node = node
        self.transposed = node.op_type == "ConvTranspose"

    @property
    def x(self) -> ir.Value:
        return self.node.inputs[0]

    @property
    def w(self) -> ir.Value:
        return self.node.inputs[1]

    @property
    def b(self) -> ir.Value | None:
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    @property
    def y(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def rank(self) -> int | None:
        """The number of spatial axes; None where neither X nor W has a rank."""
        shape = self.w.shape if self.w.shape is not None else self.x.shape
        return None if shape is None else len(shape) - 2

    @property
    def group(self) -> int:
        return self.node.attributes.get_int("group", 1)

    @property
    def out_channels(self) -> int | None:
        if self.w.shape is None:
            return None
        channels = self.w.shape[1] if self.transposed else self.w.shape[0]
        if not isinstance(channels, int):
            return None
        return channels * self.group if self.transposed else channels

    @property
    def auto_pad(self) -> str:
        return self.node.attributes.get_string("auto_pad", "NOTSET")

    def spatial(self, name: str, default: int) -> list[int]:
        return list(self.node.attributes.get_ints(name, [default] * self.rank))

    @property
    def dilations(self) -> list[int]:
        return self.spatial("dilations", 1)

    @property
    def kernel_shape(self) -> list[int] | None:
        if "kernel_shape" in self.node.attributes:
            return list(self.node.attributes["kernel_shape"].as_ints())
        shape = static_shape(self.w)
        return None if shape is None else shape[2:]

    @property
    def pads(self) -> list[tuple[int, int]]:
        """The pads that the attribute gives, an axis each; zeros with any auto_pad."""
        if self.auto_pad != "NOTSET" or "pads" not in self.node.attributes:
            return [(0, 0)] * self.rank
        flat = self.node.attributes["pads"].as_ints()
        return list(zip(flat[: self.rank], flat[self.rank :], strict=True))

    def axes(self) -> list[Axis] | None:
        """The spatial axes, pads resolved; None where X or W is not static, or nothing comes out."""
        shape = static_shape(self.x)
        if shape is None or self.kernel_shape is None:
            return None
        axes = [
            Axis(self.transposed, *values)
            for values in zip(
                shape[2:],
                self.kernel_shape,
                self.spatial("strides", 1),
                self.dilations,
                self.pads,
                self.spatial("output_padding", 0),
                strict=True,
            )
        ]
        pads: list[tuple[int, int] | None] = [axis.pads for axis in axes]
        if self.transposed and "output_shape" in self.node.attributes:
            outputs = self.node.attributes["output_shape"].as_ints()
            pads = [pads_for_output(a, o, self.auto_pad) for a, o in zip(axes, outputs, strict=True)]
        elif self.auto_pad.startswith("SAME"):
            pads = [same_pads(axis, self.auto_pad) for axis in axes]
        if None in pads:
            return None
        axes = [
            Axis(a.transposed, a.input, a.kernel, a.stride, a.dilation, p, a.output_padding)
            for a, p in zip(axes, pads, strict=True)
        ]
        return axes if all(axis.output > 0 for axis in axes) else None

    def write(self, axes: list[Axis]) -> None:
        """Makes the attributes say what the axes say, with explicit pads."""
        attributes = self.node.attributes
        for name in ("auto_pad", "output_shape"):
            attributes.pop(name, None)
        attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [a.kernel for a in axes])
        attributes["strides"] = ir.AttrInt64s("strides", [a.stride for a in axes])
        attributes["dilations"] = ir.AttrInt64s("dilations", [a.dilation for a in axes])
        self.write_pads([a.pads for a in axes])

    def write_pads(self, pads: list[tuple[int, int]]) -> None:
        self.node.attributes.pop("auto_pad", None)
        flat = [begin for begin, _ in pads] + [end for _, end in pads]
        self.node.attributes["pads"] = ir.AttrInt64s("pads", flat)


def static_shape(value: ir.Value | None) -> list[int] | None:
    """The shape, where every dimension is known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return list(value.shape.numpy())


def recorded_shape(value: ir.Value | None) -> Shape | None:
    """The shape as the reports show it: an unknown dimension is its name, or "?"."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else str(dim.value or "?") for dim in value.shape)
