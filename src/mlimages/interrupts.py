"""Work that is told to stop keeps first what it has."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """While the block lasts, remembers SIGTERM and SIGINT in `received`; the second of them acts at once.

    Enter it after TensorFlow's strategy was made, which takes SIGTERM for itself. Only a process' main thread can be
    told: in another one nothing is remembered.
    """

    def __init__(self) -> None:
        self.received: str | None = None
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
        if self.received:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
