"""Workers on a Ray cluster: an actor on a node starts the same process as elsewhere, and passes on what it says."""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.ray_backend import attached
from mlimages.launch.launchers import COMMAND, Child, Heard, Process, own_environment

HEAR_SECONDS, SIGNAL_SECONDS = 1.0, 3.0


class Host:
    """The actor: lives in a process of the node, and has the worker as its child."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)  # the driver's, on the shared disk, so that paths mean the same
        environment = own_environment()
        environment.pop("OMP_NUM_THREADS", None)  # which Ray sets for its own tasks
        self._said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._child = Child(COMMAND, environment, lambda kind, what: self._said.put((kind, what)))

    def hear(self) -> list[tuple[str, Any]]:
        """What the worker said since; waits a moment for the first."""
        said: list[tuple[str, Any]] = []
        with contextlib.suppress(queue.Empty):
            said.append(self._said.get(timeout=HEAR_SECONDS))
            while True:
                said.append(self._said.get_nowait())
        return said

    def send(self, line: str) -> None:
        self._child.send(line)

    def signal(self, number: int) -> None:
        self._child.signal(number)


class Remote:
    """A worker on another node; a node that is lost is as if the worker was killed."""

    def __init__(self, ray: Any, actor: Any, heard: Heard) -> None:
        self._ray, self._actor = ray, actor
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def send(self, line: str) -> None:
        self._actor.send.remote(line)

    def signal(self, number: int) -> None:
        self._ray.wait([self._actor.signal.remote(number)], timeout=SIGNAL_SECONDS)

    def _listen(self, heard: Heard) -> None:
        try:
            while True:
                for kind, what in self._ray.get(self._actor.hear.remote()):
                    heard(kind, what)
                    if kind == "exit":
                        self._ray.kill(self._actor)
                        return
        except self._ray.exceptions.RayError as error:
            heard("err", f"its actor, or its node, was lost: {error}")
            heard("exit", -signal.SIGKILL)


class OnRay:
    """`machine.train_workers` in turn over the nodes that are alive at a start, which share what those have."""

    def __init__(self, ray: Any, machine: Machine) -> None:
        self.indices = list(range(machine.train_workers))
        self._ray = ray
        self._hosts: dict[int, str] = {}

    def host(self, index: int) -> str:
        return self._hosts[index]

    def start(self, index: int, heard: Heard) -> Process:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = sorted((node for node in self._ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
        node = nodes[index % len(nodes)]
        here = len(self.indices[index % len(nodes):: len(nodes)])  # workers on this node
        cpus, gpus = (node["Resources"].get(name, 0) for name in ("CPU", "GPU"))
        if gpus and gpus < here:
            raise UserError(f"machine.train_workers is {len(self.indices)}, of which {here} are to share the "
                            f"{gpus:g} GPUs of {node['NodeManagerAddress']}; lower it")
        self._hosts[index] = node["NodeManagerAddress"]
        actor = self._ray.remote(Host).options(
            num_cpus=cpus // here or cpus / here, num_gpus=gpus // here, max_concurrency=4,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(os.getcwd())
        return Remote(self._ray, actor, heard)


@contextlib.contextmanager
def on_ray(machine: Machine) -> Iterator[OnRay]:
    """The launcher, connected to the cluster of `machine.ray_address` until the block ends."""
    with attached(machine) as ray:
        yield OnRay(ray, machine)
