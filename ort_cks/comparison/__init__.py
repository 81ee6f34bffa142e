"""Compares a model with its rewritten form: `compare_models`, which `ort_cks.compare` and its command line
call.
"""

from ort_cks.comparison.compare import compare_models
from ort_cks.comparison.inputs import BadInput
from ort_cks.comparison.result import ComparisonResult

__all__ = ["BadInput", "ComparisonResult", "compare_models"]
