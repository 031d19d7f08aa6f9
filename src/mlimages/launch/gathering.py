"""How processes on several machines find each other: all call the first, the chief, at its address in TF_CONFIG.

So they need nothing but TF_CONFIG. What two of them say to each other are JSON objects, one a line.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from mlimages.launch.tf_config import NAME, Cluster, host_port

MOST_BYTES = 2**20
ANSWER_SECONDS, KNOCK_SECONDS = 5.0, 0.2


class Line:
    """A connection to another process; `lost` once that is gone, or has said what is no message."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._sending = connection, threading.Lock()
        self._connection.settimeout(ANSWER_SECONDS)
        self._unread = b""
        self.lost = False

    def send(self, **message: Any) -> None:
        """Nothing, where the other side is gone: what is received tells that."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None where none has come whole in so many seconds, or the line is lost."""
        ends = time.monotonic() + seconds
        try:
            while b"\n" not in self._unread:
                if not wait([self._connection], max(ends - time.monotonic(), 0)):
                    return None
                more = self._connection.recv(2**16)
                if not more or len(self._unread) > MOST_BYTES:
                    raise ConnectionError
                self._unread += more
            line, _, self._unread = self._unread.partition(b"\n")
            said = json.loads(line)
            if isinstance(said, dict):
                return said
        except (OSError, ValueError):
            pass  # neither is a message
        self.lost = True
        return None

    def close(self) -> None:
        """Also what waits in `receive` ends."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class Caller(NamedTuple):
    """Who called the chief: as which worker, which process of which host it is, and what it said."""

    line: Line
    worker: int
    place: str
    said: dict[str, Any]


def gather(cluster: Cluster, held: socket.socket, purpose: str, expected: Sequence[int], seconds: float,
           callers: list[Caller], *, welcome: Callable[[Caller], Any] = bool, stopped: Callable[[], Any] = bool) -> str:
    """As the chief, who listens with `held`, take the calls for a purpose until the `expected` workers are there.

    Appends each to `callers` and gives it to `welcome`; one whose line is lost since is there no more. Returns what is
    wrong, if anything: who did not come in so many seconds, or which two say that they are the same one. It ends sooner
    once `stopped`.
    """
    ends = time.monotonic() + seconds
    held.settimeout(KNOCK_SECONDS)

    def there() -> list[Caller]:
        return [one for one in callers if not one.line.lost]

    while (missing := sorted({*expected} - {one.worker for one in there()})) and time.monotonic() < ends \
            and not stopped():
        try:
            connection, (host, *_) = held.accept()
        except TimeoutError:
            continue
        line = Line(connection)
        said = line.receive(ANSWER_SECONDS)
        if said is None or said.get("purpose") != purpose or said.get("worker") not in expected:
            line.close()
            continue
        line.send(taken=True)
        callers.append(caller := Caller(line, said["worker"], f"{said.get('process')} at {host}", said))
        welcome(caller)
        places = list(dict.fromkeys(one.place for one in there() if one.worker == caller.worker))
        if len(places) > 1:
            return (f"two processes say that they are worker {caller.worker}: {', and '.join(places)}; give each a "
                    f"task index of its own in {NAME}")
    names = ", ".join(f"worker {index} ({cluster.addresses[index]})" for index in missing)
    return _absence(names, seconds) if missing else ""


def call(cluster: Cluster, purpose: str, seconds: float, stopped: Callable[[], Any] = bool, **said: Any) -> Line | None:
    """As another worker, call the chief for a purpose, and say more; None where it did not take the call in time."""
    ends = time.monotonic() + seconds
    process = f"process {os.getpid()} of {socket.gethostname()}"
    while time.monotonic() < ends and not stopped():
        with contextlib.suppress(OSError):
            line = Line(socket.create_connection(host_port(cluster.addresses[0]), ANSWER_SECONDS))
            line.send(purpose=purpose, worker=cluster.own, process=process, **said)
            while not line.lost and time.monotonic() < ends and not stopped():
                if (answer := line.receive(KNOCK_SECONDS)) is not None and "taken" in answer:
                    return line
            line.close()
        time.sleep(KNOCK_SECONDS)
    return None


def chief_absence(cluster: Cluster, seconds: float) -> str:
    """What is wrong where the chief did not take a call in time."""
    return _absence(f"worker 0, the chief ({cluster.addresses[0]})", seconds)


def _absence(missing: str, seconds: float) -> str:
    return (f"{missing} did not come, or was not reached, within machine.start_timeout, {seconds:g} s; its own log "
            f"says what it did instead")
