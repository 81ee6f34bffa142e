"""Times several ways to do the same thing: in turn, and as often as is worth the time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ort_cks.comparison.sessions import one_line
from ort_cks.comparison.timing import interleaved

WARMUP = 5
# Timed rounds: as many as fit into the budget, within bounds that keep a median meaningful.
FEWEST_RUNS, MOST_RUNS = 15, 40
BUDGET_MS = 300.0
# Of several ways for one column those that took this much longer than the best in the warm-up are not timed.
HOPELESS = 1.3

Action = Callable[[], None]


@dataclass(frozen=True)
class Contender:
    """An action to time for a column of the result.

    Attributes:
        copies: how often a run of the action does what is timed.
        overhead_ms: what a run costs beside that.
    """

    column: str
    action: Action
    copies: int
    overhead_ms: float

    def time_us(self, run_ms: float) -> float:
        return round(max(run_ms - self.overhead_ms, 0.0) / self.copies * 1e3, 3)


class Contenders:
    """Of several for one column the fastest counts."""

    def __init__(self) -> None:
        self._entries: list[Contender] = []
        self.failures: dict[str, str] = {}

    def add(
        self, column: str, make: Callable[[], list[Action]], copies: int = 1, overhead_ms: float = 0.0
    ) -> None:
        try:
            self._entries += [Contender(column, action, copies, overhead_ms) for action in make()]
        except Exception as error:  # one side's failure is a result too, and no reason to lose the others
            self.failures[column] = one_line(error)

    def times_us(self) -> dict[str, float]:
        """The median run by column, all taking turns, so that a change of clock or load meets all alike."""
        return _measure(self._entries)

    def times_alone_us(self) -> dict[str, float]:
        """The same, each running again and again by itself."""
        alone = [_measure([entry])[entry.column] for entry in self._entries]
        return _best(self._entries, alone)


def _measure(entries: Sequence[Contender]) -> dict[str, float]:
    warm_ms = _medians_ms(entries, WARMUP)
    warm_us = [entry.time_us(run) for entry, run in zip(entries, warm_ms, strict=True)]
    best = _best(entries, warm_us)
    hopeful = [
        index for index, entry in enumerate(entries) if warm_us[index] <= HOPELESS * best[entry.column]
    ]
    round_ms = sum(warm_ms[index] for index in hopeful)
    runs = min(MOST_RUNS, max(FEWEST_RUNS, round(BUDGET_MS / round_ms))) if hopeful else 0
    timed = [entries[index] for index in hopeful]
    return _best(
        timed, [entry.time_us(run) for entry, run in zip(timed, _medians_ms(timed, runs), strict=True)]
    )


def _medians_ms(entries: Sequence[Contender], runs: int) -> list[float]:
    return [latency.p50_ms for latency in interleaved([entry.action for entry in entries], 0, runs)]


def _best(entries: Sequence[Contender], times_us: Sequence[float]) -> dict[str, float]:
    best: dict[str, float] = {}
    for entry, time_us in zip(entries, times_us, strict=True):
        best[entry.column] = min(time_us, best.get(entry.column, time_us))
    return best
