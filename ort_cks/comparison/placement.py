"""Where the nodes of a rewritten model really run, by ONNX Runtime's own profile of one run of its own."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ort_cks.comparison.sessions import BoundSession, Way
from ort_cks.graph_rewrite.convolution import is_convolution
from ort_cks.graph_rewrite.operators import DOMAIN, is_swapped, reads_two, residual
from ort_cks.graph_rewrite.records import NodeRecord
from ort_cks.graph_rewrite.work import Work, multiply_adds, work


@dataclass(frozen=True)
class NodeRun:
    """One node of the profile: its input shapes are those of this run."""

    op: str
    provider: str
    input_shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class NodeRow:
    """One convolution of the rewritten model.

    Attributes:
        name, op: of the node, after the rewrite.
        ran_as, provider: the operator and the provider of its run; None where the profile has no such node,
            because a branch was not taken or ONNX Runtime put other nodes in its place.
        multiply_adds: how many a plain implementation does for this run, zeros included; None where it is not
            known.
        zero_fraction: the share of them with a zero, 0 to 1; None where it is not known.
        fused: what it took in beside the convolution.
        note: why a native convolution was kept, if the rewriter said so.
    """

    name: str
    op: str
    ran_as: str | None = None
    provider: str | None = None
    multiply_adds: int | None = None
    zero_fraction: float | None = None
    fused: tuple[str, ...] = field(default=())
    note: str = ""


def profile(way: Way, feeds: Mapping[str, np.ndarray]) -> dict[str, NodeRun]:
    """Runs the model once in a session of its own; the nodes by name. It runs plainly: a CUDA graph would
    hide them.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = BoundSession(
            replace(way, cuda_graph=False), feeds, profile_prefix=str(Path(folder) / "profile")
        )
        events = json.loads(Path(run.session.end_profiling()).read_text())
    runs = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            details = event["args"]
            shapes = tuple(
                tuple(dims) for entry in details.get("input_type_shape", ()) for dims in entry.values()
            )
            name = event["name"].removesuffix("_kernel_time")
            runs[name] = NodeRun(details["op_name"], details.get("provider", ""), shapes)
    return runs


def node_rows(
    model: ir.Model, runs: Mapping[str, NodeRun], records: Sequence[NodeRecord] = ()
) -> list[NodeRow]:
    """A row for each convolution, ours or native, that the rewritten model holds.

    Args:
        model: after the rewrite.
        runs: of `profile`.
        records: what the rewriter said of the nodes, where the model was rewritten just now.
    """
    said = {record.name: record for record in records}
    rows = []
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if not is_swapped(node) and not is_convolution(node):
            continue
        run = runs.get(node.name)
        record = said.get(node.name)
        done = (record and _recorded_work(record)) or _work(node, run)
        rows.append(
            NodeRow(
                name=node.name or node.outputs[0].name or "",
                op=node.op_type,
                ran_as=run.op if run else None,
                provider=run.provider if run else None,
                multiply_adds=done.multiply_adds if done else None,
                zero_fraction=done.zero_fraction if done else None,
                fused=tuple(record.fused) if record else _epilogue(node),
                note=record.reason if record and record.decision == "kept" else "",
            )
        )
    return rows


def _epilogue(node: ir.Node) -> tuple[str, ...]:
    if node.domain != DOMAIN:
        return ()
    activation = node.attributes.get_string("activation", "")
    parts = (reads_two(node) and "Concat", residual(node) is not None and "Add", activation)
    return tuple(part for part in parts if part)


def _work(node: ir.Node, run: NodeRun | None) -> Work | None:
    if run is None or len(run.input_shapes) < 2:
        return None
    return work(node, *run.input_shapes[:2])


def _recorded_work(record: NodeRecord) -> Work | None:
    """With the filter as it was before dead taps were cut, where shapes are static."""
    shapes = (record.weight_shape, record.output_shape)
    if record.zero_fraction is None or None in shapes:
        return None
    return Work(multiply_adds(*shapes), record.zero_fraction)
