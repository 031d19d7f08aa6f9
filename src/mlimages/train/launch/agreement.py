"""Before the training, all workers find that they have the same parameters, code, data and checkpoint.

The chief listens for the others at the very address where TensorFlow will: so this needs nothing but TF_CONFIG, and
who does not come is known before TensorFlow would wait for it.
"""

import dataclasses
import importlib.metadata
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlimages
from mlimages.errors import UserError
from mlimages.params import Train
from mlimages.publish import MANIFEST, sha256
from mlimages.train.files import CHECKPOINTS, newest
from mlimages.train.launch.tf_config import Cluster, host_port

PACKAGES = ("keras", "numpy", "tensorflow")
MOST_BYTES = 2**20
ANSWER_SECONDS, KNOCK_SECONDS = 5.0, 0.2
SHOWN = 3

Facts = dict[str, dict[str, Any]]


def facts(params: Train, tfrecords: Path, work: Path) -> Facts:
    """What must be the same for all workers, by what it is called and then by its parts."""
    source = Path(str(mlimages.__file__)).parent
    resumed = newest(work / CHECKPOINTS)
    return {"parameters": {f"train.{name}": value for name, value in dataclasses.asdict(params).items()},
            "code": {str(path.relative_to(source)): sha256(path)[:16] for path in sorted(source.rglob("*.py"))},
            "packages": package_versions(),
            "data": {str(MANIFEST): sha256(tfrecords / MANIFEST)[:16]},
            "checkpoint, which lies in machine.scratch on a disk that all must share":
                {"newest": resumed.name if resumed else None}}


def package_versions() -> dict[str, str]:
    """Of the packages whose arithmetic decides the weights."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def agree(cluster: Cluster, own: Facts, held: socket.socket, seconds: float) -> None:
    """Return, with `held` closed, when all workers are here and have the same facts.

    UserError, the same on all, naming the workers that did not come in so many seconds, or what differs.
    """
    ends = time.monotonic() + seconds
    try:
        missing, differing = _ask(cluster, own, held, ends) if cluster.own == 0 else _answer(cluster, own, ends)
    finally:
        held.close()
    if missing:
        raise UserError(f"{missing} did not come, or was not reached, within machine.start_timeout, {seconds:g} s; its "
                        f"own log says what it did instead")
    if differing:
        raise UserError(f"{differing}; workers must have the same")


def _ask(cluster: Cluster, own: Facts, held: socket.socket, ends: float) -> tuple[str, str]:
    """As the chief, hear all others and tell all of them who, if anyone, is missing, and what differs."""
    callers: dict[int, socket.socket] = {}
    heard: dict[int, Facts] = {0: own}
    held.settimeout(KNOCK_SECONDS)
    while len(heard) < len(cluster.addresses) and time.monotonic() < ends:
        try:
            caller, _ = held.accept()
        except TimeoutError:
            continue
        said = _receive(caller)
        if said is None or said.get("index") not in range(1, len(cluster.addresses)):
            caller.close()
            continue
        callers[said["index"]], heard[said["index"]] = caller, said["facts"]
    missing = ", ".join(f"worker {index} ({address})" for index, address in enumerate(cluster.addresses)
                        if index not in heard)
    differing = _differences(heard)
    for caller in callers.values():
        _send(caller, {"missing": missing, "differing": differing})
        _receive(caller)  # the other side closes first: else the port would stay taken for a while
        caller.close()
    return missing, differing


def _answer(cluster: Cluster, own: Facts, ends: float) -> tuple[str, str]:
    """As another worker, tell the chief and hear what it says."""
    while time.monotonic() < ends:
        try:
            with socket.create_connection(host_port(cluster.addresses[0]), ANSWER_SECONDS) as chief:
                _send(chief, {"index": cluster.own, "facts": own})
                chief.settimeout(max(ends - time.monotonic(), 0) + ANSWER_SECONDS)
                said = _receive(chief)
            if said is not None and {"missing", "differing"} <= set(said):
                return said["missing"], said["differing"]
        except OSError:
            pass
        time.sleep(KNOCK_SECONDS)
    return f"worker 0, the chief ({cluster.addresses[0]})", ""


def _differences(heard: Mapping[int, Facts]) -> str:
    """What workers have otherwise than the chief."""
    found = []
    for index, facts in sorted(heard.items()):
        for kind, expected in heard[0].items():
            here = facts.get(kind, {})
            names = [name for name in sorted({*expected, *here}) if expected.get(name) != here.get(name)]
            if names:
                shown = ", ".join(f"{name}: {here.get(name)} against {expected.get(name)}" for name in names[:SHOWN])
                found.append(f"worker {index} has other {kind} than the chief ({shown}"
                             + (f" and {len(names) - SHOWN} more)" if len(names) > SHOWN else ")"))
    return "; ".join(found)


def _send(to: socket.socket, message: dict[str, Any]) -> None:
    try:
        to.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it is gone: then it does not answer either


def _receive(source: socket.socket) -> dict[str, Any] | None:
    """One message, None where what comes is none."""
    if source.gettimeout() is None:
        source.settimeout(ANSWER_SECONDS)
    try:
        with source.makefile("rb") as lines:
            said = json.loads(lines.readline(MOST_BYTES))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None
