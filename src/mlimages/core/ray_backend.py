"""Runs functions, and the workers of a pool, on all nodes of a Ray cluster with a shared file system.

Ray is optional, and imported only if `machine.engine` is ray. All nodes use the code of this repository and the current
folder of this process, so that relative paths name the same files. Their work ends when this process ends.
"""

import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, TypeVar

import mlimages
from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.worker_pool import LostWorker, Work, WorkerPool, WorkerThreads, receive_all

Unit = TypeVar("Unit")
Result = TypeVar("Result")

RETRIES = 3  # of a unit whose process or node is lost
START_ATTEMPTS = 3  # of a worker
START_SECONDS = 180.0  # for the cluster to place the workers, and for these to start
CONNECT_SECONDS = 10.0
CHECK_SECONDS = 1.0  # between two checks whether Ray has lost a worker
LOSS_SECONDS, LOSS_RETRY_SECONDS = 60.0, 0.5  # for Ray to report that a worker was lost


def import_ray() -> Any:
    """Import Ray. Raises UserError if it is not installed."""
    try:
        import ray
    except ImportError:
        raise UserError("machine.engine, or machine.launcher, is ray, but Ray is not installed: run `pip install -r "
                        "requirements-ray.txt` on every node, or set it to local") from None
    return ray


def node_address() -> str:
    """This machine's IP address, as the other nodes know it."""
    return import_ray().util.get_node_ip_address()


@contextlib.contextmanager
def ray_connection(machine: Machine) -> Iterator[Any]:
    """Connect to the cluster at `machine.ray_address` until the block ends. Yields the module ray.

    null means the address in RAY_ADDRESS or, without it, the cluster that runs on this machine. If none runs, and for
    `local`, a cluster with all cores of this machine starts, and ends with the block. If this process is connected
    already, it uses that connection and leaves it open.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    _check_address(machine.ray_address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as with engine: local; Ray's default is 15
    source = str(Path(mlimages.__file__).parents[1])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ray.init(machine.ray_address, runtime_env={"env_vars": {"PYTHONPATH": path}}, logging_level="WARNING",
                 include_dashboard=False)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(f"cannot connect to a Ray cluster at machine.ray_address = {machine.ray_address or 'null'} "
                        f"({error}); start one with `ray start --head` and the same Ray, Python and token as here, or "
                        f"set it to null to have one on this machine") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Raise UserError at once if no process listens at the address. Ray itself takes minutes."""
    if address and ":" in address:
        host, _, port = address.partition(":")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"nothing listens at machine.ray_address = {address} ({error}); start the cluster "
                            f"there with `ray start --head --port {port}`, or set it to null") from None


@contextlib.contextmanager
def remote_function(function: Callable[[Unit], Result], machine: Machine) -> Iterator[Callable[[Unit], Result]]:
    """Yield a function that runs `function` on one core of any node, and returns its result or raises its error.

    It may be called from many threads. If a call's process or node is lost, the call runs again on another one, up to
    RETRIES times. Raises UserError if no core becomes free within START_SECONDS.
    """
    with ray_connection(machine) as ray:
        _, waiting = ray.wait([ray.remote(num_cpus=1)(_here).remote()], timeout=START_SECONDS)
        if waiting:
            raise UserError(f"none of the {ray.cluster_resources().get('CPU', 0):.0f} CPUs of the Ray cluster became "
                            f"free in {START_SECONDS:.0f} s; `ray status` and `ray list actors` show what uses them: "
                            f"end that, or start more nodes")
        task = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_run)
        here = ray.put((os.getcwd(), function))

        def run(unit: Unit) -> Result:
            try:
                return ray.get(task.remote(here, unit))
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", error)  # the error of the function, or of the cluster
                if not isinstance(cause, ray.exceptions.RayError):
                    raise cause from None
                raise UserError(f"the Ray cluster did not finish {unit}, with {RETRIES} retries after the loss of its "
                                f"process or node: {cause}. Finished work is kept: run the same command again and, if "
                                f"memory is short, with fewer CPUs for each node") from None

        yield run


def _run(here: tuple[str, Callable[[Unit], Result]], unit: Unit) -> Result:
    folder, function = here
    os.chdir(folder)
    return function(unit)


class RayWorkerPool(WorkerPool):
    """A pool of actors, spread over the nodes of a cluster. A worker whose node is lost restarts on another node.

    Ray places, monitors and ends the workers. Tasks and results go through a pipe, which takes a tenth of the time of a
    call by Ray.
    """

    def __init__(self, make: Callable[[], Work], machine: Machine) -> None:
        super().__init__(make, workers=machine.workers, threads=machine.threads)
        self._machine = machine
        self._connection = contextlib.ExitStack()
        self._key = secrets.token_bytes(32)
        self._actors: list[Any] = [None] * self.workers
        self._nodes: list[Any] = [None] * self.workers
        self._addresses: list[Any] = [None] * self.workers
        self._ends: list[Any] = [None] * self.workers
        self._checked_at = 0.0

    def __enter__(self) -> "RayWorkerPool":
        with contextlib.ExitStack() as connection:
            self._ray = connection.enter_context(ray_connection(self._machine))
            super().__enter__()
            self._until_up(range(self.workers))
            self._connection = connection.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in range(self.workers):
            self.kill(worker)
        self._connection.close()

    def kill(self, worker: int) -> None:
        self._ray.kill(self._actors[worker])

    def _replace(self, worker: int) -> None:
        super()._replace(worker)
        self._until_up([worker])

    def _start(self, worker: int) -> None:
        """Start a worker, in proportion to the nodes' cores. It reserves no core, so it can restart anywhere."""
        cores = [node["NodeID"] for node in self._live_nodes() for _ in range(int(node["Resources"].get("CPU", 0)))]
        if not cores:
            raise UserError("the Ray cluster has no CPUs; start a node with `ray start --address`, see `ray status`")
        self._nodes[worker] = cores[worker * len(cores) // self.workers]
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._nodes[worker], soft=False)  # soft=True places actors without cores at random
        actor = self._ray.remote(num_cpus=0, max_concurrency=2, scheduling_strategy=strategy)(_Worker)
        self._actors[worker] = actor.remote(_here(), os.getcwd(), self._key, self._make, self.threads)
        self._addresses[worker] = self._actors[worker].address.remote()
        self._ends[worker] = self._actors[worker].serve.remote()

    def _until_up(self, workers: Iterable[int]) -> None:
        """Return when newly started workers accept tasks. Raises UserError if they fail or find no node."""
        down, why = list(workers), ""
        for attempt in range(START_ATTEMPTS):
            if attempt:
                for worker in down:
                    self._start(worker)
            _, waiting = self._ray.wait([self._addresses[worker] for worker in down], num_returns=len(down),
                                        timeout=START_SECONDS)
            if waiting:
                raise UserError(f"{len(waiting)} of {len(down)} workers did not start within {START_SECONDS:.0f} s on "
                                f"the Ray cluster, which has {self._ray.cluster_resources().get('CPU', 0):.0f} CPUs; "
                                f"see `ray status`, lower machine.workers, or start more nodes")
            failures = {worker: self._connect(worker) for worker in down}
            down = [worker for worker, failure in failures.items() if failure]
            if not down:
                return
            why = failures[down[0]]
        raise UserError(f"a worker ended {START_ATTEMPTS} times before it could work: {why}. If memory is short, "
                        f"lower machine.workers")

    def _connect(self, worker: int) -> str:
        """Open the pipe to a worker that has started. Returns the reason if that fails, otherwise ""."""
        try:
            address = self._ray.get(self._addresses[worker])
            self._pipes[worker] = set_no_delay(Client(address, authkey=self._key))
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ActorUnschedulableError, OSError,
                EOFError) as error:
            return str(error)  # unschedulable: its node died before it came up
        return ""

    def _ready(self, seconds: float) -> list[int]:
        """Include workers whose machine was lost: their pipes stay open."""
        ready = super()._ready(seconds)
        if time.monotonic() > self._checked_at + CHECK_SECONDS:
            self._checked_at = time.monotonic()
            ended, _ = self._ray.wait(self._ends, num_returns=self.workers, timeout=0)
            lost = {self._ends.index(end) for end in ended}.difference(ready)
            for worker in lost:
                self._pipes[worker].close()
            ready += sorted(lost)
        return ready

    def _take(self, worker: int) -> list[Any] | LostWorker:
        try:
            return receive_all(self._pipes[worker])
        except (EOFError, OSError):
            self._pipes[worker].close()
            self._wait_for_loss(worker)
            self.kill(worker)  # it may still run, without a connection
            live = [node["NodeID"] for node in self._live_nodes()]
            return LostWorker(None, with_node=self._nodes[worker] not in live)

    def _wait_for_loss(self, worker: int) -> None:
        """Return when Ray knows that a worker was lost, which takes seconds if its node was; or after LOSS_SECONDS."""
        ends, asked = time.monotonic() + LOSS_SECONDS, self._ends[worker]
        while time.monotonic() < ends:
            try:
                self._ray.get(asked, timeout=LOSS_SECONDS)
                return
            except self._ray.exceptions.ActorUnavailableError:
                time.sleep(LOSS_RETRY_SECONDS)
                asked = self._actors[worker].address.remote()
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError):
                return

    def _live_nodes(self) -> list[Any]:
        return [node for node in self._ray.nodes() if node["Alive"]]


class _Worker:
    """The actor: worker threads, and a listener for the scheduler on `node`, which has the key.

    On the same node the listener is an abstract socket, which needs less CPU time than TCP and leaves no file.
    """

    def __init__(self, node: str, folder: str, key: bytes, make: Callable[[], Work], threads: int) -> None:
        os.chdir(folder)
        self._threads = WorkerThreads(make, threads)
        same_node = node == _here() and sys.platform == "linux"
        self._listener = Listener(f"\0mlimages-{secrets.token_hex(16)}" if same_node else (node_address(), 0),
                                  authkey=key)

    def address(self) -> Any:
        return self._listener.address

    def serve(self) -> None:
        """Run tasks until the pipe ends."""
        while True:
            with contextlib.suppress(AuthenticationError, EOFError, OSError), self._listener.accept() as pipe:
                self._threads.serve(set_no_delay(pipe))
                return


def _here() -> str:
    """The id of this process's node."""
    return str(import_ray().get_runtime_context().get_node_id())


def set_no_delay(pipe: Connection) -> Connection:
    """Switch off Nagle's algorithm of a TCP pipe, so that it sends small messages at once. Returns the pipe."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as same:
        if same.family != socket.AF_UNIX:
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return pipe
