"""SIGTERM and SIGINT as a request to stop: long work saves first."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from mlimages.core.errors import UserError

REPEAT_SECONDS = 1.0


class TrainingStopped(UserError):
    """A signal stopped the training. `signal` is its name, or None if another worker received it."""

    def __init__(self, message: str, signal: str | None) -> None:
        super().__init__(message)
        self.signal = signal


class Interrupts:
    """Within the block, stores the first SIGTERM or SIGINT in `received` instead of acting on it.

    A second signal raises KeyboardInterrupt, if it comes more than REPEAT_SECONDS after the one before. Sooner it is
    the same signal again: a process can get it both directly and from the process that started it.

    Enter the block after the creation of TensorFlow's strategy, which handles SIGTERM itself. Only the main thread of a
    process receives signals: in another thread the block does nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._last: float | None = None
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
        if self._last is not None and now - self._last > REPEAT_SECONDS:
            raise KeyboardInterrupt
        self._last = now
        self.received = self.received or signal.Signals(number).name
