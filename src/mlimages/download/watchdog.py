"""A deadline for a whole exchange, whatever it waits for: a handshake, headers, or a body that drips."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

TICK_SECONDS = 0.1


class Watch:
    """One exchange under way: when it began, whether its time is over, and its HTTP status, 0 before there is one."""

    def __init__(self, seconds: float) -> None:
        self.begun = time.monotonic()
        self.ends = self.begun + seconds
        self.overdue = False
        self.http_status = 0
        self._socket: socket.socket | None = None

    @property
    def left(self) -> float:
        """Seconds, never quite none."""
        return max(self.ends - time.monotonic(), 0.001)

    def on(self, opened: socket.socket) -> None:
        """The socket to shut when the time is over."""
        self._socket = opened

    def shut(self) -> None:
        self.overdue = True
        if self._socket is not None:
            # The plain socket's method: an SSLSocket's own would let the reading thread go on without TLS.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Watchdog:
    """A thread that shuts the sockets of exchanges that are overdue."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def until(self, seconds: float) -> Iterator[Watch]:
        watch = Watch(seconds)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            now = time.monotonic()
            for watch in list(self._watches):
                if now > watch.ends:
                    watch.shut()
