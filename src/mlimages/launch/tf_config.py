"""TF_CONFIG, by which TensorFlow knows all workers: checked, with the worker's own port, before TensorFlow sees it."""

import json
import os
import re
import socket
from collections import Counter
from typing import NamedTuple

from mlimages.core.errors import UserError

NAME = "TF_CONFIG"
EXPECTED = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class Cluster(NamedTuple):
    """The addresses, host:port, of all workers, and the number of this one."""

    addresses: list[str]
    own: int

    def as_json(self) -> str:
        return json.dumps({"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": self.own}})


def read_environment() -> Cluster:
    """What TF_CONFIG says; UserError, naming what is wrong in it."""
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
    addresses, task = config["cluster"].get("worker"), config["task"]
    if set(config["cluster"]) != {"worker"} or not isinstance(addresses, list) or not addresses:
        raise _wrong(f"its cluster has {sorted(config['cluster'])}, expected a list of workers and nothing else")
    for number, address in enumerate(addresses):
        match = ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 1 <= int(match[2]) <= 65_535:
            raise _wrong(f"the address of worker {number} is {address!r}, expected host:port")
    if repeated := [address for address, count in Counter(addresses).items() if count > 1]:
        raise _wrong(f"{repeated[0]} is the address of more than one worker")
    index = task.get("index")
    if task.get("type") != "worker" or type(index) is not int or not 0 <= index < len(addresses):
        raise _wrong(f"its task is {task}, expected type worker and an index of 0 to {len(addresses) - 1}")
    return Cluster(addresses, index)


def hold(port: int, who: str) -> socket.socket:
    """A socket that keeps a port of this machine for `who`, any free one for 0; UserError where it is in use."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("", port))
        held.listen()
    except OSError as error:
        held.close()
        raise UserError(f"port {port}, of {who}, cannot be had here ({error.strerror}); end what uses it (`ss -ltnp` "
                        f"says what), or name another port in {NAME}") from None
    return held


def host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _wrong(what: str) -> UserError:
    return UserError(f"{NAME} is wrong: {what}; expected {EXPECTED}")
