"""Work that is told to stop keeps first what it has."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from mlimages.core.errors import UserError

APART_SECONDS = 1.0


class TrainingStopped(UserError):
    """A signal stopped the training. `signal` is its name, or None if another worker received it."""

    def __init__(self, message: str, signal: str | None) -> None:
        super().__init__(message)
        self.signal = signal


class Interrupts:
    """While the block lasts, remembers SIGTERM and SIGINT in `received`; one more, APART_SECONDS later, acts at once.

    Sooner it is the same again, which reached this process both by itself and passed on by what started it.

    Enter it after TensorFlow's strategy was made, which takes SIGTERM for itself. Only a process' main thread can be
    told: in another one nothing is remembered.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._came: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._came is not None and now - self._came > APART_SECONDS:
            raise KeyboardInterrupt
        self._came = now
        self.received = self.received or signal.Signals(number).name
