"""Latencies of several things that run in turn, so that a change of clock or load meets all of them alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Without a number from the user: as many rounds as fit, within bounds that keep a p99 meaningful and a wait
# bearable.
BUDGET_S = 10.0
FEWEST_RUNS, MOST_RUNS = 10, 200
DEFAULT_WARMUP = 5


@dataclass(frozen=True)
class Latency:
    """Times of single runs in milliseconds, in the order they were taken."""

    runs_ms: tuple[float, ...]

    @property
    def min_ms(self) -> float:
        return min(self.runs_ms)

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.runs_ms, percent))

    @property
    def p50_ms(self) -> float:
        return self.percentile_ms(50)

    @property
    def p90_ms(self) -> float:
        return self.percentile_ms(90)

    @property
    def p99_ms(self) -> float:
        return self.percentile_ms(99)


def interleaved(
    actions: Sequence[Callable[[], None]],
    warmup: int = DEFAULT_WARMUP,
    runs: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Latency]:
    """Runs A, B, C, A, B, C, ... and times every run but the first `warmup` rounds.

    Each action must return only when its work is done, on a GPU too. `runs=None` takes as many rounds as fit
    into ten seconds, 10 to 200 of them. `progress` is called after each round with the number of rounds done.
    """
    for _ in range(warmup):
        for action in actions:
            action()

    times: list[list[float]] = [[] for _ in actions]
    begin = time.perf_counter()
    done = 0
    while done < (runs or MOST_RUNS):
        for taken, action in zip(times, actions, strict=True):
            start = time.perf_counter_ns()
            action()
            taken.append((time.perf_counter_ns() - start) * 1e-6)
        done += 1
        progress(done)
        if runs is None and done >= FEWEST_RUNS and time.perf_counter() - begin > BUDGET_S:
            break
    return [Latency(tuple(taken)) for taken in times]
