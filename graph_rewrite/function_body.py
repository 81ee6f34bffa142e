"""Builds the body of a model-local function, node by node, in standard ONNX operators."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir


class FunctionBody:
    """The nodes of a function body, in the order in which they are asked for.

    `element_type` is the type of the function's inputs and outputs. bfloat16 is computed in float and rounded
    once, at the end, because hardly any execution provider has kernels for bfloat16.
    """

    def __init__(self, opset_version: int, element_type: ir.DataType):
        self.opset_version = opset_version
        self.outer_type = element_type
        self.element_type = ir.DataType.FLOAT if element_type == ir.DataType.BFLOAT16 else element_type
        self._tape = ir.tape.Tape()
        self._values = 0
        self._inputs: list[ir.Value] = []

    def op(self, op_type: str, *inputs: ir.Value | None, name: str | None = None, **attributes) -> ir.Value:
        value = self._tape.op(op_type, inputs, attributes, name=name)
        # Unique in the whole body: a name in a branch of an If must not be one outside of it.
        self._values += 1
        value.name = f"value_{self._values}"
        return value

    def either(
        self, condition: ir.Value, then: Callable[[], ir.Value], otherwise: Callable[[], ir.Value]
    ) -> ir.Value:
        """What one of the two appends: both are called, each for its branch of an If."""
        branches = {"then_branch": self._branch(then), "else_branch": self._branch(otherwise)}
        return self.op("If", condition, **branches)

    def _branch(self, append: Callable[[], ir.Value]) -> ir.Graph:
        outer, self._tape = self._tape, ir.tape.Tape()
        output = self.op("Identity", append())  # made in the branch, even where nothing was appended
        graph = ir.Graph([], [output], nodes=self._tape.nodes, name=f"branch_{output.name}")
        self._tape = outer
        return graph

    def input(self, name: str) -> ir.Value:
        """A new function input, in the type the body computes in."""
        self._inputs.append(ir.Value(name=name))
        return self.cast(self._inputs[-1], self.outer_type, self.element_type)

    def optional_input(self, name: str) -> ir.Value:
        """A new function input that a node may lack, so that it cannot be cast to the body's type."""
        self._inputs.append(ir.Value(name=name))
        return self._inputs[-1]

    def output(self, value: ir.Value) -> ir.Value:
        return self.cast(value, self.element_type, self.outer_type)

    def cast(self, value: ir.Value, from_type: ir.DataType, to_type: ir.DataType) -> ir.Value:
        return value if from_type == to_type else self.op("Cast", value, to=to_type.value)

    def scalar(self, value: float, element_type: ir.DataType) -> ir.Value:
        return self.op("Constant", value=ir.tensor(np.array(value, element_type.numpy())))

    def ints(self, values: Sequence[int]) -> ir.Value:
        """A 1-D int64 constant."""
        return self.op("Constant", value=ir.tensor(np.array(values, np.int64)))

    def transpose(self, value: ir.Value, permutation: Sequence[int]) -> ir.Value:
        return self.op("Transpose", value, perm=list(permutation))

    def function(
        self,
        operator: tuple[str, str, str],
        outputs: Sequence[ir.Value],
        attribute_names: Sequence[str],
        doc_string: str,
    ) -> ir.Function:
        """The function `operator` = (domain, name, overload), once its body is complete."""
        domain, name, overload = operator
        graph = ir.Graph(
            self._inputs,
            outputs,
            nodes=self._tape.nodes,
            opset_imports={"": self.opset_version},
            name=name,
            doc_string=doc_string,
        )
        attributes = [ir.Attr(attribute, ir.AttributeType.UNDEFINED, None) for attribute in attribute_names]
        return ir.Function(domain, name, overload, graph=graph, attributes=attributes)


def to_channels_first(spatial_rank: int) -> list[int]:
    """The permutation that takes (N, spatial, C) to (N, C, spatial)."""
    return [0, spatial_rank + 1, *range(1, spatial_rank + 1)]


def to_channels_last(spatial_rank: int) -> list[int]:
    """The permutation that takes (N, C, spatial) to (N, spatial, C)."""
    return [0, *range(2, spatial_rank + 2), 1]
