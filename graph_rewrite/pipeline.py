"""The rewrite from end to end: the order of the passes, and what a caller gets back."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ort_cks.graph_rewrite import eligibility
from ort_cks.graph_rewrite.cast_like import CastLikePass
from ort_cks.graph_rewrite.convolution import Convolution, convolutions, recorded_shape
from ort_cks.graph_rewrite.cut_dead_taps import CutDeadTapsPass
from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.explicit_attributes import ExplicitAttributesPass
from ort_cks.graph_rewrite.fallback import add_fallback_functions
from ort_cks.graph_rewrite.fold_affine import FoldAffinePass
from ort_cks.graph_rewrite.fold_input_affine import FoldInputAffinePass
from ort_cks.graph_rewrite.fold_pad import FoldPadPass
from ort_cks.graph_rewrite.fuse_activation import FuseActivationPass
from ort_cks.graph_rewrite.fuse_concat import FuseConcatPass
from ort_cks.graph_rewrite.fuse_residual import FuseResidualPass
from ort_cks.graph_rewrite.fuse_transpose import FuseTransposePass
from ort_cks.graph_rewrite.geometry import zero_fraction
from ort_cks.graph_rewrite.layout import NhwcLayoutPass
from ort_cks.graph_rewrite.load import load
from ort_cks.graph_rewrite.merge_relus import MergeRelusPass
from ort_cks.graph_rewrite.merge_sums import MergeSumsPass
from ort_cks.graph_rewrite.move_activation import MoveActivationPass
from ort_cks.graph_rewrite.prepare import fix_input_shapes, prepare
from ort_cks.graph_rewrite.records import NodeRecord
from ort_cks.graph_rewrite.save import save
from ort_cks.graph_rewrite.simplify import serialize_inline
from ort_cks.graph_rewrite.simplify import simplify as run_onnxsim
from ort_cks.graph_rewrite.simplify_relus import SimplifyRelusPass
from ort_cks.graph_rewrite.swap_convolution import SwapConvolutionPass
from ort_cks.graph_rewrite.symbolic_shapes import SymbolicShapes
from ort_cks.graph_rewrite.to_float16 import to_float16
from ort_cks.graph_rewrite.undo_leaky_relu import UndoLeakyReluPass
from ort_cks.graph_rewrite.weight_gradient import SwapWeightGradientPass

if TYPE_CHECKING:
    from ort_cks.graph_rewrite.measure import Verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewriteResult:
    """A rewritten model.

    Attributes:
        ir_model: the model; its weights may still be in the original's external data file.
        nodes: one record for each Conv and ConvTranspose of the original, in its order.
    """

    ir_model: ir.Model
    nodes: list[NodeRecord]

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The model with all weights inside; beyond protobuf's 2 GB a RewriteError: `save` it instead."""
        return serialize_inline(self.ir_model)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model, all of it or nothing.

        Weights that are still in the original's external data, or exceed 1.5 GB, go to PATH.data.

        Raises:
            RewriteError: the folder cannot be written, or PATH.data is where the original keeps its weights.
        """
        save(self.ir_model, Path(path))


def rewrite_model(
    model: onnx.ModelProto | str | os.PathLike,
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    layout: Literal["nhwc", "nchw"] = "nhwc",
    precision: Literal["tf32", "fp32"] = "tf32",
    to: Literal["fp16"] | None = None,
    keep_io: bool = False,
    measure: bool = False,
    simplify: bool = True,
    fuse: bool = True,
    fallback: bool = True,
) -> RewriteResult:
    """Swaps Conv and ConvTranspose for operators that skip their zeros.

    Args:
        model: a model, which is not changed, or the path of one.
        include, exclude: a pattern or several, as in a shell ("*head*", "ConvTranspose"), on node names or
            operators: swap only those that an include pattern matches, if there are any, and none that an
            exclude pattern matches.
        input_shapes: shapes by input name. They become the model's own: what depends on them is fixed for
            good.
        layout: what the operators compute in. "nhwc" suits tensor cores; Transposes are put where layouts
            meet.
        precision: of float convolutions on a GPU, "tf32" as is ONNX Runtime's default, or strict "fp32".
        to: "fp16" converts a model of floats to float16 first.
        keep_io: leave the inputs and outputs of a model that is converted in float.
        measure: time each region, convolutions with what lies between them, native and swapped on this
            machine's GPU, and keep the faster; without a GPU that is estimated.
        simplify: run onnxsim first.
        fuse: take BatchNormalization, arithmetic, Pad, residuals and activations into the operators.
        fallback: put functions of standard operators into the model, which run where the library is not
            loaded.

    Raises:
        RewriteError: the model cannot be read or rewritten, in one sentence.
    """
    eligibility.check_choice("layout", layout, ("nhwc", "nchw"))
    eligibility.check_choice("precision", precision, ("tf32", "fp32"))
    if to is not None:
        eligibility.check_choice("to", to, ("fp16",))
    elif keep_io:
        raise RewriteError("keep_io has no meaning without a conversion; add to='fp16' (--to fp16).")
    include, exclude = ([given] if isinstance(given, str) else given for given in (include, exclude))

    def rewrite(verdicts: Mapping[int, "Verdict"]) -> tuple[ir.Model, dict[ir.Node, NodeRecord]]:
        """The swapped model in NCHW. What the verdicts, by position, say is faster native stays so."""
        ir_model = _load(model, input_shapes or {}, simplify)
        if to is not None:
            logger.info("converting to float16")
            ir_model = to_float16(ir_model, keep_io)
            prepare(ir_model)
        records = _records(ir_model)
        for node, record in records.items():
            record.reason = eligibility.refusal(node, include, exclude) or ""
        eligible = {node: record for node, record in records.items() if not record.reason}
        timed = {node: verdicts[index] for index, node in enumerate(records) if index in verdicts}
        _swap(ir_model, eligible, timed, fuse, precision)
        return ir_model, records

    def lay_out(ir_model: ir.Model, records: dict[ir.Node, NodeRecord]) -> None:
        if layout == "nhwc":
            logger.info("laying out as NHWC")
            NhwcLayoutPass()(ir_model)
            if fuse:
                FuseConcatPass(records)(ir_model)
                FuseTransposePass(records)(ir_model)

    ir_model, records = rewrite({})
    if measure:
        from ort_cks.graph_rewrite.measure import NATIVE, measure_regions  # only this needs ONNX Runtime

        native, _ = rewrite(dict.fromkeys(range(len(records)), NATIVE))
        lay_out(ir_model, records)
        by_node = measure_regions(native, ir_model, precision)
        ir_model, records = rewrite({i: by_node[node] for i, node in enumerate(records) if node in by_node})
    lay_out(ir_model, records)
    if fuse:
        MergeRelusPass()(ir_model)  # not before regions are measured: it ties them together
    if fallback:
        add_fallback_functions(ir_model)
    return RewriteResult(ir_model, list(records.values()))


def _load(
    source: onnx.ModelProto | str | os.PathLike, input_shapes: Mapping[str, Sequence[int]], simplify: bool
) -> ir.Model:
    logger.info("loading")
    model = load(source)
    eligibility.reject_optimized_model(model)
    fix_input_shapes(model, input_shapes)
    if simplify:
        logger.info("simplifying")
        CastLikePass()(model)
        model = run_onnxsim(model)
    prepare(model)
    return model


def _swap(
    model: ir.Model,
    records: Mapping[ir.Node, NodeRecord],
    verdicts: Mapping[ir.Node, "Verdict"],
    fuse: bool,
    precision: str,
) -> None:
    """What depends on the operator being ONNX's comes before the swap, what goes into ours after it."""
    logger.info("folding and swapping %d convolutions", len(records))
    faster = {n: r for n, r in records.items() if n not in verdicts or not verdicts[n].native_is_faster}
    SwapWeightGradientPass(faster)(model)
    convolutions = {node: record for node, record in records.items() if record.decision == "kept"}
    shapes = SymbolicShapes(model)
    ExplicitAttributesPass(convolutions)(model)
    if fuse:
        FoldPadPass(convolutions)(model)
        for node, record in convolutions.items():
            _describe(node, record)  # the zeros of a Pad are the convolution's now
        FoldAffinePass(convolutions)(model)
        FoldInputAffinePass(convolutions)(model)
    CutDeadTapsPass(convolutions)(model)
    faster = {node: record for node, record in faster.items() if record.decision == "kept"}
    SwapConvolutionPass(faster)(model)
    if fuse:
        FuseResidualPass(faster, shapes)(model)
        MergeSumsPass(shapes)(model)
        MoveActivationPass(faster)(model)
        SimplifyRelusPass(faster)(model)
        FuseActivationPass(faster)(model)
        UndoLeakyReluPass(faster)(model)
    for node, record in records.items():
        if (
            precision != "tf32"
            and record.decision == "swapped"
            and node.outputs[0].dtype == ir.DataType.FLOAT
        ):
            node.attributes["precision"] = ir.AttrString("precision", precision)
        if node in verdicts:
            record.reason = "; ".join(filter(None, (record.reason, str(verdicts[node]))))
    RemoveUnusedNodesPass()(model)


def _records(model: ir.Model) -> dict[ir.Node, NodeRecord]:
    records = {}
    for index, node in enumerate(convolutions(model)):
        node.name = node.name or node.outputs[0].name or f"{node.op_type}_{index}"
        eligibility.reject_malformed(node)
        records[node] = NodeRecord(name=node.name, op_type=node.op_type)
        _describe(node, records[node])
    return records


def _describe(node: ir.Node, record: NodeRecord) -> None:
    conv = Convolution(node)
    record.input_shape, record.weight_shape, record.output_shape = map(
        recorded_shape, (conv.x, conv.w, conv.y)
    )
    axes = conv.axes() if conv.rank else None
    record.zero_fraction = zero_fraction(axes) if axes is not None else None
