"""What a measurement was taken on, for the head of a report."""

import platform
import subprocess
from pathlib import Path

import ort_cks
from ort_cks.library import import_onnxruntime


def describe(provider: str) -> dict[str, str]:
    """Machine, driver and versions, by name; what cannot be found is left out."""
    facts = {"machine": _gpu() if provider == "cuda" else _cpu()}
    if provider == "cuda" and (driver := _nvidia_smi("driver_version")):
        facts["driver"] = driver
    facts["python"] = platform.python_version()
    facts["onnxruntime"] = import_onnxruntime().__version__
    facts["ort_cks"] = ort_cks.__version__
    return facts


def _gpu() -> str:
    return _nvidia_smi("name") or "unknown NVIDIA GPU"


def _nvidia_smi(field: str) -> str | None:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {sum(line.startswith('processor') for line in lines)} threads"
