"""Workers on a Ray cluster: an actor on a node starts the worker process there, and passes on its output."""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.ray_backend import ray_connection
from mlimages.launch.base import WORKER_COMMAND, ChildProcess, OnOutput, worker_environment

POLL_SECONDS, SIGNAL_SECONDS = 1.0, 3.0


class WorkerActor:
    """The actor. It runs in a process on the node and starts the worker as its child."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)  # the driver's, on the shared disk, so that relative paths name the same files
        environment = worker_environment()
        environment.pop("OMP_NUM_THREADS", None)  # which Ray sets for its own tasks
        self._output: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._child = ChildProcess(WORKER_COMMAND, environment, lambda *event: self._output.put(event))

    def poll(self) -> list[tuple[str, Any]]:
        """The output since the last call; waits up to POLL_SECONDS for some."""
        events: list[tuple[str, Any]] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._output.get(timeout=POLL_SECONDS))
            while True:
                events.append(self._output.get_nowait())
        return events

    def send(self, line: str) -> None:
        self._child.send(line)

    def signal(self, number: int) -> None:
        self._child.signal(number)


class RemoteProcess:
    """A worker process behind an actor. If the node or the actor is lost, the worker ends as if by SIGKILL."""

    def __init__(self, ray: Any, actor: Any, on_output: OnOutput) -> None:
        self._ray, self._actor = ray, actor
        threading.Thread(target=self._read, args=(on_output,), daemon=True).start()

    def send(self, line: str) -> None:
        self._actor.send.remote(line)

    def signal(self, number: int) -> None:
        self._ray.wait([self._actor.signal.remote(number)], timeout=SIGNAL_SECONDS)

    def _read(self, on_output: OnOutput) -> None:
        try:
            while True:
                for kind, content in self._ray.get(self._actor.poll.remote()):
                    on_output(kind, content)
                    if kind == "exit":
                        self._ray.kill(self._actor)
                        return
        except self._ray.exceptions.RayError as error:
            on_output("err", f"its actor, or its node, was lost: {error}")
            on_output("exit", -signal.SIGKILL)


class RayLauncher:
    """Starts `machine.train_workers` on the live nodes in turn. Workers on the same node share its resources."""

    def __init__(self, ray: Any, machine: Machine) -> None:
        self.indices = list(range(machine.train_workers))
        self._ray = ray
        self._hosts: dict[int, str] = {}

    def host(self, index: int) -> str:
        return self._hosts[index]

    def start(self, index: int, on_output: OnOutput) -> RemoteProcess:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = sorted((node for node in self._ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
        node = nodes[index % len(nodes)]
        workers = len(self.indices[index % len(nodes):: len(nodes)])  # on this node
        cpus, gpus = (node["Resources"].get(name, 0) for name in ("CPU", "GPU"))
        if gpus and gpus < workers:
            raise UserError(f"machine.train_workers is {len(self.indices)}, of which {workers} are to share the "
                            f"{gpus:g} GPUs of {node['NodeManagerAddress']}; lower it")
        self._hosts[index] = node["NodeManagerAddress"]
        actor = self._ray.remote(WorkerActor).options(
            num_cpus=cpus // workers or cpus / workers, num_gpus=gpus // workers, max_concurrency=4,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(os.getcwd())
        return RemoteProcess(self._ray, actor, on_output)


@contextlib.contextmanager
def ray_launcher(machine: Machine) -> Iterator[RayLauncher]:
    """The launcher, connected to the cluster of `machine.ray_address` until the block ends."""
    with ray_connection(machine) as ray:
        yield RayLauncher(ray, machine)
