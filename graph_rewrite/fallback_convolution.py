"""One function body for all nodes of a convolution operator in a model.

ONNX Runtime before 1.27 and some tools (onnxslim) ignore the overload of a node and take any function of its
name. So all overloads of an operator have the same body, and what tells its nodes apart comes from their
attributes: those of the ONNX operator, the permutations to and from its layout, and which of the epilogues
(residual, activation, and whether X2 is read too) that the model has is theirs. The body chooses between
epilogues by If: its condition is constant once the function is inlined, and ONNX Runtime then puts the branch
in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.fallback_activations import activate
from ort_cks.graph_rewrite.fallback_guard import (
    FIRST_OPSET_WITH_INTEGERS,
    PREFIX,
    REFUSAL,
    guard_attribute,
    guarded,
)
from ort_cks.graph_rewrite.fallback_layout import FROM_NCHW, TO_NCHW, permuted, set_permutations
from ort_cks.graph_rewrite.function_body import FunctionBody
from ort_cks.graph_rewrite.operators import CONVOLUTIONS, DOMAIN, layouts, reads_two, residual

CONV_ATTRIBUTES = {
    "auto_pad": ir.AttributeType.STRING,
    "dilations": ir.AttributeType.INTS,
    "group": ir.AttributeType.INT,
    "kernel_shape": ir.AttributeType.INTS,
    "pads": ir.AttributeType.INTS,
    "strides": ir.AttributeType.INTS,
}
_CONV_TRANSPOSE_ATTRIBUTES = CONV_ATTRIBUTES | {
    "output_padding": ir.AttributeType.INTS,
    "output_shape": ir.AttributeType.INTS,
}
_OWN_ATTRIBUTES = (
    "activation",
    "activation_params",
    "concat",
    "layout",
    "precision",
    "residual_alpha",
    "y_layout",
)
_EPILOGUE, _SLOPES = f"{PREFIX}_epilogue", f"{PREFIX}_slopes"


@dataclass(frozen=True, order=True)
class Epilogue:
    """What a node computes beside its convolution: of Concat([X, X2]), and what follows it.

    Not PRelu's slopes: they are an attribute of the node.
    """

    concat: bool
    residual: bool
    residual_alpha: float
    activation: str
    params: tuple[float, ...]

    @classmethod
    def of(cls, node: ir.Node) -> "Epilogue":
        activation = node.attributes.get_string("activation", "")
        has_residual = residual(node) is not None
        return cls(
            concat=reads_two(node),
            residual=has_residual,
            residual_alpha=node.attributes.get_float("residual_alpha", 1.0) if has_residual else 1.0,
            activation=activation,
            params=() if activation == "PRelu" else tuple(_activation_params(node)),
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Those behind X, W and B."""
        return (("Z",) if self.residual else ()) + (("X2",) if self.concat else ())

    def overload(self) -> str:
        parts = [*(["concat"] if self.concat else []), *(["residual"] if self.residual else [])]
        if self.residual_alpha != 1:
            parts += ["of", "LeakyRelu", _decimal(self.residual_alpha)]
        if self.activation:
            parts += [self.activation, *map(_decimal, self.params)]
        return "_".join(parts)


class ConvolutionFunction:
    """What the nodes, all of one operator and data type, compute."""

    def __init__(self, nodes: Sequence[ir.Node], element_type: ir.DataType, opset_version: int):
        self._op_type = nodes[0].op_type
        self._element_type, self._opset_version = element_type, opset_version
        self._epilogues = sorted({Epilogue.of(node) for node in nodes})
        self._has_slopes = any(epilogue.activation == "PRelu" for epilogue in self._epilogues)
        # Without, all nodes must have the same epilogue: there is nothing to choose, and any function fits.
        self._has_integers = opset_version >= FIRST_OPSET_WITH_INTEGERS
        if len(self._epilogues) > 1 and not self._has_integers:
            raise ValueError(
                "it and others differ in inputs or activation, which needs opset "
                f"{FIRST_OPSET_WITH_INTEGERS} or newer, and the model has {opset_version}; leave the "
                "functions out (--no-fallback)"
            )
        self._channels_last = any("NHWC" in layouts(node) for node in nodes)
        names = [epilogue.overload() or "linear" for epilogue in self._epilogues]
        layout = ["nhwc"] if self._channels_last else []
        self._guard = guard_attribute("_".join([element_type.name.lower(), *layout, *names]))

    def set_attributes(self, node: ir.Node) -> None:
        """What the body asks of the node, beyond the node's own attributes."""
        node.attributes.add(ir.AttrInt64(self._guard, 1))
        if len(self._epilogues) > 1:
            index = np.array(self._epilogues.index(Epilogue.of(node)), np.int64)
            node.attributes.add(ir.AttrTensor(_EPILOGUE, ir.tensor(index)))
        if self._has_slopes:
            node.attributes.add(ir.AttrTensor(_SLOPES, ir.tensor(self._slopes(node))))
        if self._channels_last:
            set_permutations(node, _spatial_rank(node), layouts(node))

    def function(self, overload: str) -> ir.Function:
        standard_op = CONVOLUTIONS[self._op_type]
        attributes = _CONV_TRANSPOSE_ATTRIBUTES if standard_op == "ConvTranspose" else CONV_ATTRIBUTES
        body = FunctionBody(self._opset_version, self._element_type)
        x, w, b = (body.input(name) for name in "XWB")
        chosen = self._chosen(body)
        x, z = self._others(body, x, chosen)
        # Reference attributes have no defaults: one that the node lacks is absent in the body too.
        references = {name: ir.RefAttr(name, name, kind) for name, kind in attributes.items()}
        y = body.op(standard_op, self._permuted(body, x, TO_NCHW), w, b, **references)
        if self._has_integers:
            y = guarded(body, y, self._guard)
        y = self._permuted(body, y, FROM_NCHW)
        y = body.output(self._finished(body, y, z, chosen))
        return body.function(
            (DOMAIN, self._op_type, overload),
            [y],
            [*attributes, *_OWN_ATTRIBUTES, _EPILOGUE, _SLOPES, TO_NCHW, FROM_NCHW, self._guard],
            f"What {self._op_type} computes, in standard ONNX operators.",
        )

    def _slopes(self, node: ir.Node) -> np.ndarray:
        """As they broadcast against Y. A node without a PRelu has some too: its body is the others'."""
        dtype = FunctionBody(self._opset_version, self._element_type).element_type.numpy()
        if Epilogue.of(node).activation != "PRelu":
            return np.ones(1, dtype)
        slopes = np.array(_activation_params(node), dtype)
        _, layout = layouts(node)
        return slopes if layout == "NHWC" else slopes.reshape(-1, *[1] * _spatial_rank(node))

    def _permuted(self, body: FunctionBody, value: ir.Value, attribute: str) -> ir.Value:
        return permuted(body, value, attribute) if self._channels_last else value

    def _chosen(self, body: FunctionBody) -> ir.Value | None:
        """The index of the node's epilogue; None where there is but one."""
        if len(self._epilogues) == 1:
            return None
        reference = ir.RefAttr("value", _EPILOGUE, ir.AttributeType.TENSOR)
        return body.op("Constant", value=reference, name=f"{REFUSAL}_to_choose")

    def _others(
        self, body: FunctionBody, x: ir.Value, chosen: ir.Value | None
    ) -> tuple[ir.Value, ir.Value | None]:
        """What is convolved, and Z: from X and the inputs behind B, which not all nodes have alike."""

        def joined(x: ir.Value, x2: ir.Value) -> ir.Value:
            return body.op("Concat", x, x2, axis=-1)

        forms = {epilogue.inputs for epilogue in self._epilogues}
        if len(forms) == 1:
            # Z is cast where it is added, behind the guard.
            z = body.optional_input("Z") if any("Z" in form for form in forms) else None
            return joined(x, body.input("X2")) if any("X2" in form for form in forms) else x, z
        if not any("X2" in form for form in forms):
            return x, body.optional_input("Z")
        third, fourth = (body.optional_input(name) for name in ("Z_or_X2", "X2"))

        def is_one_of(*some: tuple[str, ...]) -> ir.Value:
            table = np.array([epilogue.inputs in some for epilogue in self._epilogues])
            return body.op("Gather", body.op("Constant", value=ir.tensor(table)), chosen, axis=0)

        # Each branch is there for nodes of other forms too: Concat may lack an input, and what does not fit
        # together shows only where the shape of X is known. It is not, until the branches are chosen.
        zero = body.scalar(0, body.element_type)
        shapeless = body.either(is_one_of(*forms), lambda: x, lambda: zero)
        alone = body.either(is_one_of(("X2",)), lambda: joined(shapeless, third), lambda: shapeless)
        either = body.either(is_one_of(("Z", "X2")), lambda: joined(shapeless, fourth), lambda: alone)
        return either, third

    def _finished(
        self, body: FunctionBody, y: ir.Value, z: ir.Value | None, chosen: ir.Value | None
    ) -> ir.Value:
        # Sum, unlike Add, may lack an input: nodes without a residual have the branches of others too.
        add = "Add" if all(epilogue.residual for epilogue in self._epilogues) else "Sum"
        if z is not None:
            z = body.cast(z, body.outer_type, body.element_type)

        def undone(alpha: float) -> ir.Value:
            """Z as it was before a LeakyRelu."""
            if alpha == 1:
                return z
            given = z
            if add == "Sum":
                # Zero, and not a constant: ONNX Runtime 1.20 folds a Sum of constants though one is missing.
                zero = body.op("Relu", body.op("Neg", body.op("Relu", y)))
                given = body.op("Sum", zero, z)
            return body.op("LeakyRelu", given, alpha=1 / alpha)

        # Not in the branch of an If, where onnxslim forgets that the attribute is the node's.
        slopes = None
        if self._has_slopes:
            reference = ir.RefAttr("value", _SLOPES, ir.AttributeType.TENSOR)
            slopes = body.op("Constant", value=reference)

        def finished(epilogue: Epilogue) -> ir.Value:
            added = body.op(add, y, undone(epilogue.residual_alpha)) if epilogue.residual else y
            if epilogue.activation == "PRelu":
                return body.op("PRelu", added, slopes)
            return activate(body, epilogue.activation, epilogue.params, added)

        if chosen is None:
            return finished(self._epilogues[0])

        # By halves: the time in which ONNX Runtime loads an If doubles with each If within another.
        def choose(first: int, last: int) -> ir.Value:
            if first == last:
                return finished(self._epilogues[first])
            middle = (first + last + 1) // 2
            is_below = body.op("Less", chosen, body.scalar(middle, ir.DataType.INT64))
            return body.either(is_below, partial(choose, first, middle - 1), partial(choose, middle, last))

        return choose(0, len(self._epilogues) - 1)


def _decimal(value: float) -> str:
    """The shortest that is the same float: 0.1, not 0.10000000149011612."""
    return str(np.float32(value))


def _activation_params(node: ir.Node) -> Sequence[float]:
    return node.attributes.get_floats("activation_params", ())


def _spatial_rank(node: ir.Node) -> int:
    for name, values_per_axis in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 2)):
        if name in node.attributes:
            return len(node.attributes[name].as_ints()) // values_per_axis
    for value in (*node.inputs[:2], *node.outputs):
        if value is not None and value.shape is not None:
            return value.shape.rank() - 2
    raise ValueError("the rank of its input is unknown")
