"""What every benchmark writes: a head that says where it ran, and rows; and the mean that sums rows up."""

import json
import math
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from ort_cks.comparison import machine

# Columns whose ratio is a speed-up of ours: the first over the second.
COMPARISONS = (
    ("torch_us", "ours_us"),
    ("torch_hot_us", "ours_hot_us"),
    ("compile_us", "ours_us"),
    ("ort_us", "ours_us"),
    ("sm80_us", "ours_us"),
)
TYPE_NAMES = {"fp16": "fp16", "tf32": "TF32", "fp32": "strict fp32"}
LONG_FLOOR_US = 10  # the layers whose distance to the floor says how good a kernel is
# About what a launch takes beside its bytes and sums: the end of the one before it, its own start, and the
# way of its first bytes and its last (docs/notebook.md).
LAUNCH_US = 2


def head(provider: str) -> dict[str, str]:
    """Machine, driver, versions, commit and date."""
    facts = machine.describe(provider)
    if torch := sys.modules.get("torch"):  # only what took part
        facts["torch"] = torch.__version__
        if provider == "cuda":
            facts["cudnn"] = str(torch.backends.cudnn.version())
    if commit := _commit():
        facts["commit"] = commit
    return facts | {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}


def provenance(header: dict[str, str]) -> str:
    """What readers of a table or picture need of a head, in one line."""
    versions = {
        "driver": "driver",
        "torch": "PyTorch",
        "cudnn": "cuDNN",
        "onnxruntime": "ONNX Runtime",
        "commit": "commit",
    }
    known = [f"{name} {header[key]}" for key, name in versions.items() if key in header]
    note = f". {header['note']}" if "note" in header else ""
    return ", ".join([header["machine"], *known, header["date"]]) + note


def write(path: Path | None, header: dict[str, str], rows: list[dict]) -> None:
    """Writes all rows so far: a benchmark calls it after each, so that an end of time loses nothing."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        path.write_text(f'{{\n "header": {json.dumps(header)},\n "rows": [\n{lines}\n ]\n}}\n')


def read(path: Path) -> tuple[dict[str, str], list[dict]]:
    """The head and the rows that `write` wrote."""
    results = json.loads(path.read_text())
    return results["header"], results["rows"]


def grouped(rows: Iterable[dict], *keys: str) -> dict[tuple, list[dict]]:
    """The rows by their values of `keys`, in the order in which these first appear."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def geomean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan


def ratios(rows: Iterable[dict], slower: str, faster: str) -> list[float]:
    """`slower / faster` of the rows that have both."""
    return [row[slower] / row[faster] for row in rows if row.get(slower) and row.get(faster)]


def within_reach(rows: Iterable[dict]) -> float | None:
    """The speed-up over PyTorch if layers took their floors and a launch; none where sums can beat floors."""
    times = [
        (row["torch_us"], row["floor_us"])
        for row in rows
        if "torch_us" in row and "floor_us" in row and row["dtype"] != "fp32"
    ]
    return geomean([torch / (floor + LAUNCH_US) for torch, floor in times]) if times else None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        folder = Path(__file__).parent
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
