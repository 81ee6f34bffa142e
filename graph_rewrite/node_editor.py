"""Puts standard operators in the place of a node, in the form that the model's opset has them."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ort_cks.graph_rewrite.constants import ConstantFactory, constant, is_constant

# The opset in which an operator's axes became an input.
_AXES_ARE_AN_INPUT = {"ReduceSum": 13, "Squeeze": 13, "Unsqueeze": 13}
_REDUCTION_AXES_ARE_AN_INPUT = 18

Dims = Sequence[int | ir.SymbolicDim]


class NodeEditor:
    """Appends operators in front of one node; `replace` then removes it."""

    def __init__(self, node: ir.Node, opset_version: int, constants: ConstantFactory):
        self._node = node
        self._opset_version = opset_version
        self._constants = constants

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shape: Dims | None,
        dtype: ir.DataType | None = None,
        attributes: dict | None = None,
    ) -> ir.Value:
        """The output of a new node; of the data type of the node's first output, unless it is given."""
        node = ir.node(op_type, inputs, attributes or {})
        self._node.graph.insert_before(self._node, node)
        value, replaced = node.outputs[0], self._node.outputs[0]
        value.name = self._constants.free_name(f"{replaced.name}_{op_type.lower()}")
        value.shape = None if shape is None else ir.Shape(shape)
        value.type = replaced.type if dtype is None else ir.TensorType(dtype)
        node.name = value.name
        return value

    def over_axes(
        self, op_type: str, x: ir.Value, axes: Sequence[int], *, shape: Dims, attributes: dict | None = None
    ) -> ir.Value:
        """An operator whose axes are an input or an attribute, as the opset has it."""
        since = _AXES_ARE_AN_INPUT.get(op_type, _REDUCTION_AXES_ARE_AN_INPUT)
        if self._opset_version >= since:
            return self.op(op_type, x, self.ints(axes, "axes"), shape=shape, attributes=attributes)
        return self.op(op_type, x, shape=shape, attributes={"axes": list(axes)} | (attributes or {}))

    def unsqueeze(self, x: ir.Value, axis: int) -> ir.Value:
        dims = list(x.shape)
        return self.over_axes("Unsqueeze", x, [axis], shape=[*dims[:axis], 1, *dims[axis:]])

    def squeeze(self, x: ir.Value, axis: int) -> ir.Value:
        dims = list(x.shape)
        return self.over_axes("Squeeze", x, [axis], shape=[*dims[:axis], *dims[axis + 1 :]])

    def reshape(self, x: ir.Value, target: Sequence[int], shape: Dims) -> ir.Value:
        """`target` is as Reshape takes it: 0 keeps the extent of the same axis, -1 is what is left."""
        return self.op("Reshape", x, self.ints(target, "shape"), shape=shape)

    def ints(self, values: Sequence[int], name: str) -> ir.Value:
        return self.array(np.array(values, np.int64), name)

    def array(self, array: np.ndarray, name: str) -> ir.Value:
        return self._constants.add(self._node.graph, f"{self._node.outputs[0].name}_{name}", ir.Tensor(array))

    def select(self, vector: ir.Value, order: Sequence[int | None], name: str) -> ir.Value:
        """The vector's elements in this order, 1 for each None; of a vector that is known, a constant."""
        if is_constant(vector):
            elements = constant(vector)
            return self.array(
                np.array([1 if i is None else elements[i] for i in order], elements.dtype), name
            )
        dtype = vector.dtype or ir.DataType.INT64
        if None in order:
            count = sum(i is not None for i in order)
            one = self.array(np.ones(1, dtype.numpy()), "one")
            vector = self.op("Concat", vector, one, shape=[count + 1], dtype=dtype, attributes={"axis": 0})
            order = [count if i is None else i for i in order]
        indices = self.ints(order, "order")
        return self.op("Gather", vector, indices, shape=[len(order)], dtype=dtype, attributes={"axis": 0})

    def replace(self, value: ir.Value) -> None:
        """Gives the value the name and the readers of the node's output, and removes the node."""
        old, node = self._node.outputs[0], self._node
        value.producer().name = node.name
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        node.graph.remove(node, safe=True)
        value.name = old.name
