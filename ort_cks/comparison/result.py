"""What a comparison found."""

import math
from dataclasses import asdict, dataclass, field

from ort_cks.comparison.errors import OutputError, Tolerance
from ort_cks.comparison.placement import NodeRow
from ort_cks.comparison.timing import Latency
from ort_cks.graph_rewrite.operators import SWAPPED


@dataclass
class Contender:
    """One model run one way.

    Attributes:
        label: "ours", "original", "original, NHWC", ...
        failure: why it did not run, in one line; None if it did, and then `latency` and `outputs` are there.
        latency: of its runs.
        outputs: the error of each output against the reference.
    """

    label: str
    failure: str | None = None
    latency: Latency | None = None
    outputs: list[OutputError] = field(default_factory=list)

    @property
    def max_error(self) -> float:
        """The largest absolute error over the outputs, each as a share of the root mean square of its
        reference.
        """
        return max((output.relative for output in self.outputs), default=math.inf)

    @property
    def nonfinite(self) -> int:
        """How many elements of its outputs are NaN or Inf."""
        return sum(output.nonfinite for output in self.outputs)

    @property
    def ok(self) -> bool:
        """It ran, and every element of every output is within the tolerance."""
        return self.failure is None and all(output.ok for output in self.outputs)

    def as_dict(self) -> dict:
        report = {"label": self.label, "failure": self.failure}
        if self.failure is None:
            report |= {"ok": self.ok, "max_error": _finite(self.max_error), "nonfinite": self.nonfinite}
            report["outputs"] = [
                {k: _finite(v) for k, v in asdict(output).items()} for output in self.outputs
            ]
        if self.latency is not None:
            latency = self.latency
            report |= {"min_ms": latency.min_ms, "p50_ms": latency.p50_ms, "p90_ms": latency.p90_ms}
            report |= {"p99_ms": latency.p99_ms, "runs_ms": latency.runs_ms}
        return report


@dataclass
class ComparisonResult:
    """A model against its rewritten form.

    Attributes:
        model, rewritten: their names: a path, or words where there is no file.
        provider: "cuda" or "cpu".
        precision: "fp32", "tf32", "fp16" or "bf16": the arithmetic that is compared, which sets the default
            tolerance.
        cuda_graph: whether every contender ran from a CUDA graph.
        warmup: rounds before those that were timed.
        inputs: data type and shape of each input by name, e.g. "float32 [1, 3, 224, 224]".
        reference: how the reference that errors are taken against was computed.
        tolerance: within which an output counts as equal.
        ours: the rewritten model with the ort_cks operators.
        baselines: the original, run in each layout ONNX Runtime has for it.
        nodes: the convolutions of the rewritten model and where they ran.
        machine: names and versions.
        notes: choices that were made for the user.
    """

    model: str
    rewritten: str
    provider: str
    precision: str
    cuda_graph: bool
    warmup: int
    inputs: dict[str, str]
    reference: str
    tolerance: Tolerance
    ours: Contender
    baselines: list[Contender]
    nodes: list[NodeRow]
    machine: dict[str, str]
    notes: list[str]

    @property
    def baseline(self) -> Contender:
        """The original at its best: the faster of those that ran, by p50; the first where none did."""
        ran = [contender for contender in self.baselines if contender.latency is not None]
        return min(ran, key=lambda contender: contender.latency.p50_ms) if ran else self.baselines[0]

    @property
    def speedup(self) -> float | None:
        """p50 of the baseline over p50 of ours; None where one of them did not run."""
        if self.ours.latency is None or self.baseline.latency is None:
            return None
        return self.baseline.latency.p50_ms / self.ours.latency.p50_ms

    @property
    def ran_in_our_ops(self) -> list[NodeRow]:
        """The nodes that the profile shows in an ort_cks operator."""
        return [node for node in self.nodes if node.ran_as in SWAPPED]

    @property
    def zeros_skipped(self) -> float | None:
        """The share of all convolutions' multiply-adds that have a zero and lie in an ort_cks operator.

        None where it is not known of every convolution.
        """
        total = [node.multiply_adds for node in self.nodes]
        if not total or None in total:
            return None
        ours = [node for node in self.ran_in_our_ops if node.zero_fraction is not None]
        return sum(node.zero_fraction * node.multiply_adds for node in ours) / sum(total)

    @property
    def ok(self) -> bool:
        """The rewritten model ran and its outputs are within the tolerance."""
        return self.ours.ok

    def as_dict(self) -> dict:
        """Everything, in JSON's types; numbers that are NaN or infinite are null."""
        return {
            "ok": self.ok,
            "model": self.model,
            "rewritten": self.rewritten,
            "provider": self.provider,
            "precision": self.precision,
            "cuda_graph": self.cuda_graph,
            "warmup": self.warmup,
            "inputs": self.inputs,
            "speedup": self.speedup,
            "nodes_in_our_ops": len(self.ran_in_our_ops),
            "convolutions": len(self.nodes),
            "zeros_skipped": self.zeros_skipped,
            "reference": self.reference,
            "tolerance": asdict(self.tolerance),
            "ours": self.ours.as_dict(),
            "baseline": self.baseline.as_dict(),
            "baselines": [contender.as_dict() for contender in self.baselines],
            "nodes": [asdict(node) for node in self.nodes],
            "machine": self.machine,
            "notes": self.notes,
        }


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
