"""TF_CONFIG, from which TensorFlow reads the addresses of all workers. This module checks it first."""

import dataclasses
import json
import os
import re
import socket
from collections import Counter
from typing import Any

from mlimages.core.errors import UserError

NAME = "TF_CONFIG"
EXPECTED = ('{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, or a cluster of one '
            '"chief" and its "worker" list')
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


@dataclasses.dataclass(frozen=True)
class ClusterTask:
    """The addresses, host:port, of all workers, and the index of this one. Worker 0 is the chief.

    With `chief_type`, the chief has a task type of its own, as Kubernetes' training operator sets it. The other
    workers then have the indices 0, 1, ... in TF_CONFIG, and 1, 2, ... here.
    """

    addresses: list[str]
    index: int
    chief_type: bool = False

    def as_json(self) -> str:
        """The value of TF_CONFIG."""
        if not self.chief_type:
            return json.dumps({"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": self.index}})
        task = {"type": "worker", "index": self.index - 1} if self.index else {"type": "chief", "index": 0}
        return json.dumps({"cluster": {"chief": self.addresses[:1], "worker": self.addresses[1:]}, "task": task})

    def name(self, index: int) -> str:
        """How errors name a worker."""
        return f"worker {index}{', the chief' if index == 0 else ''} ({self.addresses[index]})"


def read_environment() -> ClusterTask:
    """Parse TF_CONFIG. Raises UserError if it is missing or wrong."""
    text = os.environ.get(NAME)
    if not text:
        raise UserError(f"machine.launcher is environment, but {NAME} is not set; expected {EXPECTED} for every worker")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"it is no JSON: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict) \
            or not isinstance(config.get("task"), dict):
        raise _wrong("it lacks cluster or task")
    cluster, task = config["cluster"], config["task"]
    chief, workers = cluster.get("chief", []), cluster.get("worker", [])
    if not {"chief", "worker"} >= set(cluster) or not isinstance(chief, list) or not isinstance(workers, list) \
            or len(chief) > 1 or not chief + workers:
        raise _wrong(f"its cluster has {sorted(cluster)}, expected a list of workers, and at most one chief")
    addresses = [*chief, *workers]
    _check_addresses(addresses)
    kind, index = task.get("type"), task.get("index")
    count = {"chief": len(chief), "worker": len(workers)}.get(str(kind), 0)
    if type(index) is not int or not 0 <= index < count:
        tasks = [f"type {one} and an index of 0 to {len(listed) - 1}"
                 for one, listed in (("chief", chief), ("worker", workers)) if listed]
        raise _wrong(f"its task is {task}, expected {' or '.join(tasks)}")
    return ClusterTask(addresses, index + (len(chief) if kind == "worker" else 0), bool(chief))


def _check_addresses(addresses: list[Any]) -> None:
    for number, address in enumerate(addresses):
        match = ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 1 <= int(match[2]) <= 65_535:
            raise _wrong(f"the address of worker {number} is {address!r}, expected host:port")
    if repeated := [address for address, count in Counter(addresses).items() if count > 1]:
        raise _wrong(f"{repeated[0]} is the address of more than one worker")


def reserve_port(port: int, owner: str) -> socket.socket:
    """A socket that listens at a port of this machine; 0 takes any free port.

    Raises UserError, which names `owner`, if the port is in use.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise UserError(f"port {port}, of {owner}, cannot be used here ({error.strerror}); end the process that uses "
                        f"it (`ss -ltnp` shows it), or set another port in {NAME}") from None
    return listener


def host_port(address: str) -> tuple[str, int]:
    """Split host:port. An IPv6 host is returned without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _wrong(problem: str) -> UserError:
    return UserError(f"{NAME} is wrong: {problem}; expected {EXPECTED}")
