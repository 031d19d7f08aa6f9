"""Before the training, all workers find that they have the same parameters, code, data and weights.

The chief listens for the others at the very address where TensorFlow will: so this needs nothing but TF_CONFIG, and
who does not come is known before TensorFlow would wait for it.
"""

import dataclasses
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlimages
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.publish import MANIFEST, sha256
from mlimages.core.tuning import ONEDNN, onednn_choice, package_versions
from mlimages.launch.gathering import ANSWER_SECONDS, Caller, call, chief_absence, gather
from mlimages.launch.tf_config import Cluster
from mlimages.network.checkpoint_files import CHECKPOINTS, initial_weight_files, newest_checkpoint
from mlimages.network.initial_weights import find_initial_weights

# By which workers exchange, and after which steps.
EXCHANGE = ("all_reduce", "all_reduce_pack_mib", "steps_per_call")
PURPOSE = "agree"
SHOWN = 3

Facts = dict[str, dict[str, Any]]


def facts(params: Train, machine: Machine, tfrecords: Path, work: Path) -> Facts:
    """What must be the same for all workers, by what it is called and then by its parts."""
    source = Path(str(mlimages.__file__)).parent
    start = find_initial_weights(params, machine)
    first = initial_weight_files(start) if start is not None else []
    resumed = newest_checkpoint(work / CHECKPOINTS)
    return {"parameters": {**{f"train.{name}": value for name, value in dataclasses.asdict(params).items()},
                           **{f"machine.{name}": getattr(machine, name) for name in EXCHANGE}},
            "code": {str(path.relative_to(source)): sha256(path)[:16] for path in sorted(source.rglob("*.py"))},
            "packages": package_versions(),
            "arithmetic": {ONEDNN: onednn_choice()},
            "data": {str(MANIFEST): sha256(tfrecords / MANIFEST)[:16]},
            "weights to start from": {path.name: sha256(path)[:16] for path in first},
            "checkpoint, which lies in machine.scratch on a disk that all must share":
                {"newest": resumed.name if resumed else None}}


def agree(cluster: Cluster, own: Facts, held: socket.socket, seconds: float) -> None:
    """Return, with `held` closed, when all workers are here and have the same facts.

    UserError, the same on all, naming the workers that did not come in so many seconds, two that say they are the same
    one, or what differs.
    """
    try:
        refused = _ask(cluster, own, held, seconds) if cluster.own == 0 else _answer(cluster, own, seconds)
    finally:
        held.close()
    if refused:
        raise UserError(refused)


def _ask(cluster: Cluster, own: Facts, held: socket.socket, seconds: float) -> str:
    """As the chief, hear all others and tell all of them what, if anything, is wrong."""
    callers: list[Caller] = []
    refused = gather(cluster, held, PURPOSE, range(1, len(cluster.addresses)), seconds, callers)
    refused = refused or _differences({0: own} | {caller.worker: caller.said["facts"] for caller in callers})
    for caller in callers:
        caller.line.send(refused=refused)
        caller.line.receive(ANSWER_SECONDS)  # the other side closes first: else the port would stay taken for a while
        caller.line.close()
    return refused


def _answer(cluster: Cluster, own: Facts, seconds: float) -> str:
    """As another worker, tell the chief and hear what it says."""
    line = call(cluster, PURPOSE, seconds, facts=own)
    said = line and line.receive(seconds + ANSWER_SECONDS)
    if line:
        line.close()
    return str(said["refused"]) if said else chief_absence(cluster, seconds)


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
    return f"{'; '.join(found)}; workers must have the same" if found else ""
