"""The state of a worker according to its reports, and the rules by which it counts as hung."""

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from mlimages.core.params import Machine
from mlimages.launch.messages import WorkerReport

TAIL_LINES = 20
# A call that takes this many times as long as the slowest so far counts as hung, if machine.step_timeout is shorter.
SLOWEST_FACTOR = 3


class WorkerState:
    """The last step that a worker began, how long its calls take, and when it last reported progress."""

    def __init__(self, index: int, address: str | None = None) -> None:
        self.index, self.address = index, address
        self.entered = 0  # the last step of the call that it began
        self.calls = 0  # finished ones
        self.slowest = 0.0  # seconds; the first call, which is traced and compiled, counts until the second ends
        self.writing = False  # it writes, or waits until the chief has written
        self.trained = False
        self.reported = time.monotonic()
        self.error: str | None = None
        self.lost: str | None = None
        self.stopped: str | None = None
        self.signal: str | None = None

    def __str__(self) -> str:
        role = ", the chief" if self.index == 0 else ""
        return f"worker {self.index}{role} ({self.address or 'not up yet'})"

    @property
    def where(self) -> str:
        """Its step, as text for errors."""
        if not self.entered:
            return "before its first step"
        return f"{'after' if self.writing else 'in'} step {self.entered}"

    @property
    def progress(self) -> tuple[int, bool]:
        return self.entered, not self.writing

    @property
    def under_way(self) -> bool:
        """Whether its first call has finished."""
        return bool(self.calls) or self.trained

    def update(self, report: WorkerReport) -> None:
        now = time.monotonic()
        if report.plan:  # of the next training
            self.entered = self.calls = 0
            self.slowest, self.writing, self.trained = 0.0, False, False
        began, writes = report.entered is not None, report.writing or report.trained
        if self.entered and not self.writing and (began or report.writing):
            self.slowest = max(self.slowest if self.calls > 1 else 0.0, now - self.reported)
            self.calls += 1
        self.reported = now
        self.entered = report.entered or self.entered
        if began or writes or report.saved is not None:
            self.writing = writes
        self.trained = self.trained or report.trained
        self.address = report.address or self.address
        self.error = report.error if report.error is not None else self.error
        self.lost = report.lost if report.lost is not None else self.lost
        if report.stopped is not None:
            self.stopped, self.signal = report.stopped, report.signal


class WorkerLog:
    """The output of a worker: in a file, and its last lines in `tail`."""

    def __init__(self, index: int, path: Path) -> None:
        self.path, self.tail = path, deque[str](maxlen=TAIL_LINES)
        self._index, self._file = index, path.open("a", encoding="utf-8")

    def write(self, line: str) -> None:
        """Append a line, unless it is empty."""
        if line.strip():
            self.tail.append(f"[worker {self._index}] {line}")
            print(self.tail[-1], file=self._file, flush=True)

    def close(self) -> None:
        self._file.close()


def without_first_step(workers: Sequence[WorkerState], seconds: float) -> list[WorkerState]:
    """The workers whose first call has not finished, and which sent no report in the last `seconds`."""
    now = time.monotonic()
    return [worker for worker in workers if not worker.under_way and now - worker.reported > seconds]


def hung(workers: Sequence[WorkerState], machine: Machine) -> tuple[list[WorkerState], float]:
    """The workers that are furthest behind, if no worker has sent a report for too long, and that limit in seconds.

    The first worker is the chief. While it writes, the limit is `machine.start_timeout`.
    """
    patience = max(machine.step_timeout, SLOWEST_FACTOR * max(worker.slowest for worker in workers))
    if workers[0].writing:
        patience = machine.start_timeout
    silent = time.monotonic() - max(worker.reported for worker in workers)
    if not all(worker.under_way for worker in workers) or silent <= patience:
        return [], patience
    behind = min(worker.progress for worker in workers)
    return [worker for worker in workers if worker.progress == behind], patience
