"""Keeps the sessions of a process out of each other's CUDA graph captures."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CaptureGate:
    """Any number of runs at a time, or one capture alone.

    While a thread captures a graph the way ONNX Runtime does, CUDA refuses allocations and copies to every
    other thread, and what was refused spoils the capture too.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._running = 0
        self._captures = 0  # the one that has the gate, and those that wait for it

    @contextmanager
    def shared(self) -> Iterator[None]:
        """For everything that is no capture. Not within itself: a waiting capture would lock both."""
        with self._changed:
            self._changed.wait_for(lambda: self._captures == 0)
            self._running += 1
        try:
            yield
        finally:
            self._leave(running=1)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For a capture."""
        with self._changed:
            self._captures += 1  # from now on nobody enters
            self._changed.wait_for(lambda: self._running == 0)
            self._running += 1
        try:
            yield
        finally:
            self._leave(running=1, captures=1)

    def _leave(self, running: int, captures: int = 0) -> None:
        with self._changed:
            self._running -= running
            self._captures -= captures
            self._changed.notify_all()


GATE = CaptureGate()
