"""Connections between workers on several machines. Each worker connects to the chief's address.

A message is a JSON object on one line.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Collection
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from mlimages.launch.tf_config import NAME, ClusterTask, host_port

MAX_BYTES = 2**20
ANSWER_SECONDS, RETRY_SECONDS = 5.0, 0.2


class PeerConnection:
    """A connection to another process. It is `lost` after the other side has closed it or sent invalid data."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._sending = connection, threading.Lock()
        self._socket.settimeout(ANSWER_SECONDS)
        self._unread = b""
        self.lost = False

    def send(self, **message: Any) -> None:
        """Send a message. Only `receive` reports a lost connection."""
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None if none arrives in this time, or the connection is lost."""
        deadline = time.monotonic() + seconds
        try:
            while b"\n" not in self._unread:
                if not wait([self._socket], max(deadline - time.monotonic(), 0)):
                    return None
                received = self._socket.recv(2**16)
                if not received or len(self._unread) > MAX_BYTES:
                    raise ConnectionError
                self._unread += received
            line, _, self._unread = self._unread.partition(b"\n")
            message = json.loads(line)
            if isinstance(message, dict):
                return message
        except (OSError, ValueError):
            pass  # the connection failed, or the line is no message
        self.lost = True
        return None

    def wait(self, deadline: float, stopped: Callable[[], Any]) -> dict[str, Any] | None:
        """The next message; None if the connection is lost, at `deadline` (of `time.monotonic`), or if `stopped`
        returns something true."""
        while time.monotonic() < deadline and not self.lost and not stopped():
            if (message := self.receive(RETRY_SECONDS)) is not None:
                return message
        return None

    def close(self) -> None:
        """Close the connection. A `receive` in another thread returns."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Peer(NamedTuple):
    """Another worker: its index, its open connection, its process and host for errors, and its first message."""

    worker: int
    connection: PeerConnection
    process: str
    hello: dict[str, Any]


def accept_workers(task: ClusterTask, listener: socket.socket, seconds: float, peers: list[Peer],
                   stopped: Callable[[], Any]) -> str:
    """As the chief, accept connections until all other workers are connected, and append each to `peers`.

    Returns the problem, or "": the workers that did not connect in this time, or two processes that claim the same
    index. Returns early if `stopped` returns something true.
    """
    deadline = time.monotonic() + seconds
    expected = set(range(1, len(task.addresses)))
    listener.settimeout(RETRY_SECONDS)
    while (missing := _missing(expected, peers)) and time.monotonic() < deadline and not stopped():
        try:
            accepted, (host, *_) = listener.accept()
        except TimeoutError:
            continue
        connection = PeerConnection(accepted)
        hello = connection.receive(ANSWER_SECONDS)
        if hello is None or hello.get("worker") not in expected:
            connection.close()
            continue
        connection.send(accepted=True)
        peers.append(Peer(hello["worker"], connection, f"{hello.get('process')} at {host}", hello))
        same = [peer for peer in peers if peer.worker == hello["worker"] and not peer.connection.lost]
        if len(processes := list(dict.fromkeys(peer.process for peer in same))) > 1:
            return (f"two processes say that they are worker {hello['worker']}: {', and '.join(processes)}; give each "
                    f"a task index of its own in {NAME}")
    return _absence(", ".join(map(task.name, missing)), seconds) if missing else ""


def _missing(expected: Collection[int], peers: list[Peer]) -> list[int]:
    for peer in peers:
        peer.connection.receive(0)  # no message is due; it finds out whether the connection is lost
    return sorted(set(expected) - {peer.worker for peer in peers if not peer.connection.lost})


def connect_to_chief(task: ClusterTask, seconds: float, stopped: Callable[[], Any],
                     **message: Any) -> PeerConnection | None:
    """As another worker, connect to the chief and send a first message; None if it does not accept in time.

    Returns early if `stopped` returns something true.
    """
    deadline = time.monotonic() + seconds
    process = f"process {os.getpid()} of {socket.gethostname()}"
    while time.monotonic() < deadline and not stopped():
        with contextlib.suppress(OSError):
            connection = PeerConnection(socket.create_connection(host_port(task.addresses[0]), ANSWER_SECONDS))
            connection.send(worker=task.index, process=process, **message)
            if "accepted" in (connection.wait(deadline, stopped) or {}):
                return connection
            connection.close()
        time.sleep(RETRY_SECONDS)
    return None


def chief_absence(task: ClusterTask, seconds: float) -> str:
    """The problem if the chief did not accept a connection in time."""
    return _absence(task.name(0), seconds)


def _absence(missing: str, seconds: float) -> str:
    return (f"{missing} did not connect, or could not be reached, within machine.start_timeout, {seconds:g} s; see its "
            f"own log")
