"""The report for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from ort_cks.graph_rewrite.records import NodeRecord


def json_report(records: Sequence[NodeRecord], model: str, output: str | None) -> str:
    """An object: the model, the output (null in a dry run), the counts, and each record by its fields."""
    swapped = sum(record.decision == "swapped" for record in records)
    report = {
        "model": model,
        "output": output,
        "convolutions": len(records),
        "swapped": swapped,
        "nodes": [asdict(record) for record in records],
    }
    return json.dumps(report, indent=2) + "\n"
