"""What every host may expect of us: few connections at a time, and a pause when it asks for one."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import requests

MAX_PAUSE_SECONDS = 120.0


class Hosts:
    """Turns for each host: at most `connections` at a time, none while the host has asked for a pause.

    A turn comes with a session of that host, made by `new_session` where none is idle, so that the host never sees
    more open connections than turns.
    """

    def __init__(self, connections: int, new_session: Callable[[], requests.Session]) -> None:
        self._new_session = new_session
        self._idle: defaultdict[str, list[requests.Session]] = defaultdict(list)
        self._slots: defaultdict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(connections))
        self._not_before: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, host: str) -> Iterator[requests.Session]:
        """Wait for a free slot and the end of the host's pause; hold the slot until the block ends."""
        with self._lock:
            slots, idle = self._slots[host], self._idle[host]
        with slots:
            while (wait := self._not_before.get(host, 0.0) - time.monotonic()) > 0:
                time.sleep(wait)
            with self._lock:
                lent = idle.pop() if idle else None
            session = lent or self._new_session()
            try:
                yield session
            finally:
                idle.append(session)

    def pause(self, host: str, seconds: float) -> None:
        """No new request to `host` for so many seconds; a longer pause that is already running stays."""
        with self._lock:
            until = time.monotonic() + min(seconds, MAX_PAUSE_SECONDS)
            self._not_before[host] = max(until, self._not_before.get(host, 0.0))


def retry_after_seconds(value: str | None) -> float:
    """Seconds from a Retry-After header, given in seconds or as a date; 0 where it says nothing usable."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
