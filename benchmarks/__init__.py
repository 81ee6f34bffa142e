"""Benchmarks of ort_cks against ONNX Runtime and PyTorch. From a checkout: `python -m benchmarks.layers`."""

import sys
from pathlib import Path

# `python -m` puts the checkout first on the path, and its ort_cks is source without a library: the installed
# one is meant, so the checkout is looked through last.
_ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [*(entry for entry in sys.path if Path(entry).resolve() != _ROOT), str(_ROOT)]
