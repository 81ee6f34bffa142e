"""How far outputs are apart, and how far they may be.

An element of an output may be off by `atol + rtol * |reference|`. Unless the user says otherwise, atol is a
share of the root mean square of that output's reference: in a deep net every element carries the rounding of
all layers before it, in proportion to the size of the signal and not to its own, so a fixed atol would be
blind in one model and fail the next. The reference is a float32 run with TF32 off. Integers, booleans and
strings must be equal.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """`rtol` is a share of the element; `atol` of the output's rms if `scaled`, else absolute."""

    rtol: float
    atol: float
    scaled: bool = True

    def __str__(self) -> str:
        return f"{self.rtol:g} |reference| + {self.atol:g}{' rms(reference)' if self.scaled else ''}"


# Rounding an operand to TF32 or float16 costs up to 2^-11 = 4.9e-4 of it, to bfloat16 2^-8 = 3.9e-3. Over the
# 50 layers of a deep net such errors add up to about their root, 7 times that, and the worst of a million
# elements lies five deviations out: 35 x 4.9e-4 = 1.7e-2 of the output's size. float32 accumulates 2^-24 the
# same way; its bound leaves room for sums of thousands of terms taken in another order.
TOLERANCES = {
    "fp32": Tolerance(rtol=1e-4, atol=1e-4),
    "tf32": Tolerance(rtol=1e-2, atol=2e-2),
    "fp16": Tolerance(rtol=1e-2, atol=2e-2),
    "bf16": Tolerance(rtol=8e-2, atol=16e-2),
}


def tolerance_for(precision: str, rtol: float | None = None, atol: float | None = None) -> Tolerance:
    """The default of a precision (fp32, tf32, fp16, bf16) unless the user says; a user's atol is absolute."""
    default = TOLERANCES[precision]
    if atol is None:
        return Tolerance(default.rtol if rtol is None else rtol, default.atol)
    return Tolerance(default.rtol if rtol is None else rtol, atol, scaled=False)


@dataclass(frozen=True)
class OutputError:
    """One output of one run against the reference.

    Attributes:
        name: of the output.
        max_abs: the largest absolute difference; of integers, booleans and strings 0 if equal, else 1.
        relative: `max_abs` over the root mean square of the reference; of integers and the like the share of
            elements that differ.
        beyond: how many elements are off by more than the tolerance, are NaN or Inf where the reference is
            not, or the other way round.
        nonfinite: how many elements are NaN or Inf.
        count: how many elements the reference has.
        problem: in words, why it could not be compared by element (its shape is another); None if it could.
    """

    name: str
    max_abs: float
    relative: float
    beyond: int
    nonfinite: int
    count: int
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.beyond == 0 and self.problem is None


def output_error(name: str, got: np.ndarray, reference: np.ndarray, tolerance: Tolerance) -> OutputError:
    count = reference.size
    if got.shape != reference.shape:
        return OutputError(name, np.inf, np.inf, count, 0, count, f"shape {got.shape}, not {reference.shape}")
    if not _is_float(reference):
        beyond = int(np.count_nonzero(got != reference))
        return OutputError(name, float(beyond > 0), beyond / max(count, 1), beyond, 0, count)

    a, b = got.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    same_nonfinite = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(finite, np.abs(a - b), np.where(same_nonfinite, 0.0, np.inf))
    rms = float(np.sqrt(np.mean(np.square(b[np.isfinite(b)])))) if np.isfinite(b).any() else 0.0
    floor = tolerance.atol * (rms if tolerance.scaled else 1.0)
    with np.errstate(invalid="ignore"):
        beyond = difference > floor + tolerance.rtol * np.abs(np.where(finite, b, 0.0))
    largest = float(difference.max(initial=0))
    relative = largest / rms if rms > 0 else (0.0 if largest == 0 else np.inf)
    return OutputError(
        name, largest, relative, int(beyond.sum()), int(np.count_nonzero(~np.isfinite(a))), count
    )


def _is_float(array: np.ndarray) -> bool:
    # ml_dtypes' bfloat16 is no subtype of np.floating.
    return np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"
