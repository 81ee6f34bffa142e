"""Reading constants out of a model, and putting new ones in without holding a second copy of the weights."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The value, where it is an initializer or a Constant node's output and cannot change between runs."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether `constant` would find it; reads no data."""
    return (
        value is not None
        and not value.is_graph_input()
        and ir.convenience.get_const_tensor(value) is not None
    )


def scalar(value: ir.Value | None) -> float | None:
    """The single element of a constant, whatever its rank; None for anything else."""
    if not is_constant(value) or ir.convenience.get_const_tensor(value).size != 1:
        return None
    return float(constant(value).reshape(()))


def fits(values: np.ndarray, dtype: ir.DataType) -> bool:
    """Whether rounding to the type costs the usual last digit.

    float16 ends at 65504 and thins out below 6e-5; the wider types have room for both.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(dtype.numpy()).astype(np.float64)
        if not np.isfinite(rounded).all():
            return False
        error = np.linalg.norm(rounded - values)
    return dtype != ir.DataType.FLOAT16 or bool(error <= 2.0**-10 * np.linalg.norm(values))


class ConstantFactory:
    """Adds initializers to the graphs of one model, under names that are free in all of it."""

    def __init__(self, model: ir.Model):
        self._names = {value.name for graph in model.graphs() for value in _values(graph)}

    def free_name(self, name: str) -> str:
        """The name, with a number after it where it is taken; taken from now on."""
        unique, suffix = name, 1
        while unique in self._names:
            suffix += 1
            unique = f"{name}_{suffix}"
        self._names.add(unique)
        return unique

    def add(self, graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Registers the tensor as an initializer of the graph and returns its value."""
        unique = self.free_name(name)
        tensor.name = unique
        value = ir.Value(
            name=unique, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
        return value


def derived(
    source: ir.TensorProtocol, compute: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]
) -> ir.TensorProtocol:
    """A tensor of the source's data type that is computed from it each time it is read, and never kept.

    A model of many gigabytes is rewritten by describing its new weights; each is computed once, while it is
    written.
    """
    dtype = source.dtype
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(compute(source.numpy()).astype(dtype.numpy())), dtype=dtype),
        dtype=dtype,
        shape=ir.Shape(shape),
    )


def _values(graph: ir.Graph):
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
