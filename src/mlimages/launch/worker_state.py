"""What a supervisor knows of a worker, from what that said."""

import contextlib
import json
import time
from collections import deque
from typing import Any, TextIO

from mlimages.core.noise import is_noise
from mlimages.launch.launchers import Process
from mlimages.launch.worker import MARK

TAIL_LINES = 20


class Worker:
    """The last step that it entered, how long its steps take, when it last spoke, what it said at its end."""

    def __init__(self, index: int, log: TextIO) -> None:
        self.index, self._log = index, log
        self.process: Process | None = None
        self.address: str | None = None
        self.entered = 0
        self.steps = 0  # or rather calls, that it has done
        self.slowest = 0.0  # of them, in seconds: the first, which is traced and compiled, counts until the second ends
        self.writing = False  # or waits for the chief to write a checkpoint or, after the training, the model
        self.spoke = time.monotonic()
        self.told: dict[str, Any] = {}
        self.code: int | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def __str__(self) -> str:
        role = ", the chief" if self.index == 0 else ""
        return f"worker {self.index}{role} ({self.address or 'not up yet'})"

    @property
    def where(self) -> str:
        if not self.entered:
            return "before its first step"
        return f"{'after' if self.writing else 'in'} step {self.entered}"

    @property
    def progress(self) -> tuple[int, bool]:
        return self.entered, not self.writing

    @property
    def under_way(self) -> bool:
        return bool(self.steps) or "trained" in self.told

    def hear(self, kind: str, line: str) -> dict[str, Any]:
        """Take in a line; returns the facts that it tells, if any, else it goes to the log."""
        if kind == "out" and line.startswith(MARK):
            # A worker that is killed, or whose disk or network fails, may leave half a line.
            with contextlib.suppress(ValueError):
                told = json.loads(line.removeprefix(MARK))
                if isinstance(told, dict):
                    self._learn(told)
                    return told
        if line.strip() and not is_noise(line):
            self.tail.append(f"[worker {self.index}] {line}")
            print(self.tail[-1], file=self._log, flush=True)
        return {}

    def _learn(self, told: dict[str, Any]) -> None:
        now = time.monotonic()
        if self.entered and not self.writing and told.keys() & {"entered", "writing"}:
            self.slowest = max(self.slowest if self.steps > 1 else 0.0, now - self.spoke)
            self.steps += 1
        self.spoke = now
        self.told |= told
        self.entered = told.get("entered", self.entered)
        if told.keys() & {"entered", "saved", "writing", "trained"}:
            self.writing = bool(told.keys() & {"writing", "trained"})
        self.address = told.get("address", self.address)
