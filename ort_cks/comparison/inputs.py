"""The inputs a model is compared on: files the user gives, random values for the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir


class BadInput(ValueError):
    """A call that cannot be carried out as it is; the message says what to change."""


@dataclass(frozen=True)
class GraphInput:
    name: str
    dtype: np.dtype
    dims: tuple[int | str, ...]  # a string is an extent that the model leaves open; it may be empty


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`NAME:1,3,224,224` as name and shape."""
    name, _, dims = text.rpartition(":")
    try:
        shape = tuple(int(dim) for dim in dims.split(",")) if dims else ()
    except ValueError:
        shape = (-1,)
    if not name or min(shape, default=0) < 0:
        raise BadInput(f"--input-shape takes NAME:1,3,224,224, not {text!r}")
    return name, shape


def load_file(text: str) -> tuple[str, np.ndarray]:
    """`NAME=file.npy` as name and array."""
    name, separator, path = text.partition("=")
    if not name or not separator:
        raise BadInput(f"--input takes NAME=file.npy, not {text!r}")
    try:
        return name, np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"cannot read {path} as a .npy array: {error}") from None


def graph_inputs(model: ir.Model) -> list[GraphInput]:
    """What the user has to feed: the graph's inputs without those that are initializers too."""
    inputs = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        if not isinstance(value.type, ir.TensorType) or value.shape is None:
            raise BadInput(
                f"input {value.name!r} is not a tensor of known rank; such a model cannot be compared"
            )
        if value.dtype == ir.DataType.STRING:
            raise BadInput(f"input {value.name!r} holds strings; such a model cannot be compared")
        dims = tuple(dim if isinstance(dim, int) else dim.value or "" for dim in value.shape)
        inputs.append(GraphInput(value.name, value.dtype.numpy(), dims))
    return inputs


def make_inputs(
    model: ir.Model,
    shapes: Mapping[str, Sequence[int]],
    arrays: Mapping[str, np.ndarray],
    seed: int,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """One array for every input of the model, and a sentence for each choice that was made for the user.

    Args:
        shapes: shapes of inputs by name; they fill in what the model leaves open.
        arrays: values by name; they are used as they are, in the input's own data type.
        seed: of the random values. Floats are standard normal, 8-bit integers cover their range, booleans are
            fair coins; other integers are valid indices where the input is the index of a Gather, else 0 or
            1, which most models take as an id, a mask or a class.
    """
    inputs = graph_inputs(model)
    unknown = [
        name for name in (*shapes, *arrays) if name not in {graph_input.name for graph_input in inputs}
    ]
    if unknown:
        names = ", ".join(graph_input.name for graph_input in inputs)
        raise BadInput(f"the model has no input {unknown[0]!r}; its inputs are: {names}")

    resolved, notes = _resolve_shapes(
        inputs, {**shapes, **{name: array.shape for name, array in arrays.items()}}
    )
    limits = _index_limits(model)
    generator = np.random.default_rng(seed)
    feeds = {}
    for graph_input in inputs:
        name, shape = graph_input.name, resolved[graph_input.name]
        if name in arrays:
            feeds[name] = _as_type(name, arrays[name], graph_input.dtype)
        else:
            feeds[name] = _random(graph_input.dtype, shape, limits.get(name, 2), generator)
    return feeds, notes


def _resolve_shapes(
    inputs: list[GraphInput], given: Mapping[str, Sequence[int]]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    extents: dict[
        str, int
    ] = {}  # of named open dimensions: the same name means the same extent in every input
    for graph_input in inputs:
        shape = given.get(graph_input.name)
        if shape is None:
            continue
        fits = len(shape) == len(graph_input.dims) and all(
            isinstance(dim, str) or dim == extent for dim, extent in zip(graph_input.dims, shape, strict=True)
        )
        if not fits:
            raise BadInput(
                f"input {graph_input.name!r} is {_text(graph_input.dims)} in the model, not {_text(shape)}"
            )
        extents.update(
            (d, e) for d, e in zip(graph_input.dims, shape, strict=True) if isinstance(d, str) and d
        )

    resolved, notes = {}, []
    for graph_input in inputs:
        shape = list(given.get(graph_input.name, graph_input.dims))
        for axis, dim in enumerate(shape):
            if not isinstance(dim, str):
                continue
            if dim in extents:
                shape[axis] = extents[dim]
            elif axis == 0:
                shape[axis] = 1
                notes.append(
                    f"input {graph_input.name!r}: batch {dim or '?'} taken as 1; --input-shape sets another"
                )
            else:
                open_dims = ",".join(
                    d if isinstance(d, str) and d else str(d or "?") for d in graph_input.dims
                )
                raise BadInput(
                    f"input {graph_input.name!r} is {_text(graph_input.dims)}, axis {axis} is open; "
                    f"say --input-shape {graph_input.name}:{open_dims} with numbers"
                )
        resolved[graph_input.name] = tuple(shape)
    return resolved, notes


def _text(dims: Sequence[int | str]) -> str:
    return "[" + ", ".join(str(dim) if dim != "" else "?" for dim in dims) + "]"


def _as_type(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise BadInput(f"input {name!r} is {dtype} in the model, {array.dtype} was given")
    return np.ascontiguousarray(array, dtype=dtype)


def _random(
    dtype: np.dtype, shape: tuple[int, ...], limit: int, generator: np.random.Generator
) -> np.ndarray:
    if dtype == np.bool_:
        return generator.random(shape) < 0.5
    if dtype in (np.uint8, np.int8):
        bounds = np.iinfo(dtype)
        return generator.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)
    if np.issubdtype(dtype, np.integer):
        return generator.integers(0, limit, shape, dtype=dtype)
    return np.asarray(generator.standard_normal(shape), dtype=dtype)


def _index_limits(model: ir.Model) -> dict[str, int]:
    """The extent each Gather from a constant indexes into, by the name of the index."""
    limits: dict[str, int] = {}
    for node in model.graph:
        if node.op_type == "Gather" and node.domain == "" and node.inputs[0].const_value is not None:
            extent = node.inputs[0].const_value.shape[node.attributes.get_int("axis", 0)]
            index = node.inputs[1].name
            limits[index] = min(extent, limits.get(index, extent))
    return limits
