"""Before the training, all workers check that they have the same parameters, code, packages, data and weights.

The chief listens at the address that TensorFlow uses later, so TF_CONFIG is the only setting. A worker that does not
connect is named before TensorFlow waits for it.
"""

import dataclasses
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlimages
from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.publish import MANIFEST, sha256
from mlimages.core.tuning import ONEDNN, onednn_setting, package_versions
from mlimages.launch.connection import (
    ANSWER_SECONDS,
    Peer,
    accept_workers,
    chief_absence,
    connect_to_chief,
)
from mlimages.launch.tf_config import ClusterTask
from mlimages.network.checkpoint_files import CHECKPOINTS, initial_weight_files, newest_checkpoint
from mlimages.network.initial_weights import find_initial_weights
from mlimages.training.jobs import TrainingJob

# The parameters of `machine` that must be equal on all workers: they decide the order of collective operations.
COLLECTIVE_PARAMETERS = ("all_reduce", "all_reduce_pack_mib", "steps_per_call")
SHOWN = 3  # differences in an error

Facts = dict[str, dict[str, Any]]


def facts(jobs: Sequence[TrainingJob], machine: Machine) -> Facts:
    """What must be the same on all workers: a dictionary by kind, and by name within a kind.

    Of several trainings, which differ in their initial weights, the parameters are those of the first one.
    """
    source = Path(str(mlimages.__file__)).parent
    starts = [start for job in jobs if (start := find_initial_weights(job.params, machine)) is not None]
    resumed = {f"newest{' of the comparison' * job.comparison}": newest_checkpoint(job.work / CHECKPOINTS)
               for job in jobs}
    return {"parameters": {**{f"train.{name}": value for name, value in dataclasses.asdict(jobs[0].params).items()},
                           **{f"machine.{name}": getattr(machine, name) for name in COLLECTIVE_PARAMETERS}},
            "code": {str(path.relative_to(source)): sha256(path)[:16] for path in sorted(source.rglob("*.py"))},
            "packages": package_versions(),
            "arithmetic": {ONEDNN: onednn_setting()},
            "data": {str(MANIFEST): sha256(jobs[0].tfrecords / MANIFEST)[:16]},
            "weights to start from": {path.name: sha256(path)[:16]
                                      for start in starts for path in initial_weight_files(start)},
            "trainings": {"number": len(jobs)},
            "checkpoint, which lies in machine.scratch on a disk that all must share":
                {name: folder.name if folder else None for name, folder in resumed.items()}}


def agree(task: ClusterTask, own: Facts, listener: socket.socket, seconds: float,
          stopped: Callable[[], Any] = bool) -> list[Peer]:
    """Wait for all workers and compare their facts. Closes `listener`, which listens at this worker's port.

    Returns open connections: from the chief to all other workers, and from another worker to the chief. If `stopped`
    returns something true, it returns early, without an error, and with the connections so far.

    Raises the same UserError on all workers. It names the workers that did not connect within `seconds`, two processes
    that claim the same index, or what differs.
    """
    peers: list[Peer] = []
    try:
        problem = (_compare(task, own, listener, seconds, stopped, peers) if task.index == 0
                   else _submit(task, own, seconds, stopped, peers))
    finally:
        listener.close()
    if problem and not stopped():
        close(peers, task)
        raise UserError(problem)
    return peers


def close(peers: list[Peer], task: ClusterTask) -> None:
    """Close the connections. The chief's side closes last, since its port would otherwise stay in use for a while."""
    for peer in peers:
        if task.index == 0:
            peer.connection.receive(ANSWER_SECONDS)
        peer.connection.close()


def _compare(task: ClusterTask, own: Facts, listener: socket.socket, seconds: float, stopped: Callable[[], Any],
             peers: list[Peer]) -> str:
    """As the chief, compare the facts of all workers. Sends the problem, or "", to all of them, and returns it."""
    problem = accept_workers(task, listener, seconds, peers, stopped)
    problem = problem or _differences({0: own} | {peer.worker: peer.hello["facts"] for peer in peers})
    if not stopped():
        for peer in peers:
            peer.connection.send(problem=problem)
    return problem


def _submit(task: ClusterTask, own: Facts, seconds: float, stopped: Callable[[], Any], peers: list[Peer]) -> str:
    """As another worker, send the facts to the chief. Returns the problem that the chief sends, or ""."""
    connection = connect_to_chief(task, seconds, stopped, facts=own)
    if connection is None:
        return chief_absence(task, seconds)
    peers.append(Peer(0, connection, "the chief", {}))
    answer = connection.wait(time.monotonic() + seconds + ANSWER_SECONDS, stopped)
    return str(answer["problem"]) if answer else chief_absence(task, seconds)


def _differences(found: Mapping[int, Facts]) -> str:
    """What differs between the chief and other workers; "" if nothing does."""
    problems = []
    for index, facts in sorted(found.items()):
        for kind, expected in found[0].items():
            here = facts.get(kind, {})
            names = [name for name in sorted({*expected, *here}) if expected.get(name) != here.get(name)]
            if names:
                shown = ", ".join(f"{name}: {here.get(name)} against {expected.get(name)}" for name in names[:SHOWN])
                problems.append(f"worker {index} has other {kind} than the chief ({shown}"
                                + (f" and {len(names) - SHOWN} more)" if len(names) > SHOWN else ")"))
    return f"{'; '.join(problems)}; workers must have the same" if problems else ""
