"""What the model needs before its convolutions are looked at: fixed inputs, inlined functions, constants,
shapes.
"""

import logging
from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    ShapeInferencePass,
    TopologicalSortPass,
)

from ort_cks.graph_rewrite.convolution import is_convolution
from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.operators import DOMAIN

logger = logging.getLogger(__name__)


def fix_input_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Writes the shapes into the model's inputs, for good: dead taps are only cut where shapes are certain.

    Raises:
        RewriteError: no such input, or a shape that contradicts the model's.
    """
    inputs = {value.name: value for value in model.graph.inputs if not value.is_initializer()}
    for name, shape in shapes.items():
        if name not in inputs:
            raise RewriteError(
                f"--input-shape {name}: the model has no such input; it has {', '.join(inputs)}."
            )
        given, old = list(shape), inputs[name].shape
        if any(dim < 1 for dim in given):
            raise RewriteError(f"--input-shape {name}: every dimension must be at least 1, not {given}.")
        fits = old is None or (
            len(old) == len(given)
            and all(not isinstance(o, int) or o == g for o, g in zip(old, given, strict=True))
        )
        if not fits:
            raise RewriteError(f"--input-shape {name}: {given} does not fit the model's {list(old)}.")
        inputs[name].shape = ir.Shape(given)


def prepare(model: ir.Model) -> None:
    """Inlines functions that hold convolutions, lifts constants to initializers and infers shapes."""
    _inline_convolutions(model)
    RemoveInitializersFromInputsPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    TopologicalSortPass()(model)
    ShapeInferencePass(check_type=False, strict_mode=False)(model)


def _inline_convolutions(model: ir.Model) -> None:
    """ONNX Runtime inlines such functions itself; here it brings their weights and shapes into sight."""
    holders: set[ir.OperatorIdentifier] = set()
    grown = True
    while grown:
        found = {
            identifier
            for identifier, function in model.functions.items()
            if function.domain != DOMAIN
            and any(is_convolution(n) or n.op_identifier() in holders for n in function.all_nodes())
        }
        grown, holders = found != holders, found
    if not holders:
        return
    try:
        InlinePass(criteria=lambda function: function.identifier() in holders)(model)
    except (ValueError, ir.passes.PassError) as error:
        raise RewriteError(f"A function with convolutions in it cannot be inlined: {error}") from error
