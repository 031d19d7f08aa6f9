"""A Ray cluster on a shared file system: runs functions, and the workers of a pool, on all its nodes.

Ray is optional, and imported only where `machine.engine` is ray. What runs there uses the code of this copy of the
repository and this process's folder, so that paths mean the same on every node, and ends when this process ends.
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
STARTS = 3  # of a worker that does not come up
START_SECONDS = 180.0  # in which the cluster must find room for the workers, and those must come up
CONNECT_SECONDS = 10.0
LOOK_SECONDS = 1.0  # between looks whether Ray has lost a worker
FATE_SECONDS, FATE_TICK_SECONDS = 60.0, 0.5  # in which Ray tells whether the node of a worker is lost, too


def import_ray() -> Any:
    """The module ray; UserError where it is not installed."""
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
    """The module ray, connected until the block ends: to the cluster at `machine.ray_address`.

    null: to that of RAY_ADDRESS or, without one, the one that runs on this machine. Where none runs, and for `local`,
    one with all cores of this machine is started, and ends with the block. A connection that is there already is used
    and kept.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    _check_address(machine.ray_address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster that starts here: as local's; Ray's own is 15
    source = str(Path(mlimages.__file__).parents[1])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ray.init(machine.ray_address, runtime_env={"env_vars": {"PYTHONPATH": path}}, logging_level="WARNING",
                 include_dashboard=False)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(f"no Ray cluster takes us at machine.ray_address = {machine.ray_address or 'null'} ({error}); "
                        f"start one with `ray start --head` and the same Ray, Python and token as here, or set it to "
                        f"null to have one on this machine") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Raise UserError at once if nobody listens at the address. Ray itself takes minutes."""
    if address and ":" in address:
        host, _, port = address.partition(":")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"nobody answers at machine.ray_address = {address} ({error}); start the cluster "
                            f"there with `ray start --head --port {port}`, or set it to null") from None


@contextlib.contextmanager
def remote_function(function: Callable[[Unit], Result], machine: Machine) -> Iterator[Callable[[Unit], Result]]:
    """A function that runs `function` on some node, one core each, waits, and returns or raises what that does.

    Safe to call from many threads. A call whose process or node is lost begins again elsewhere, `RETRIES` times.
    UserError where no core is free for the first one in `START_SECONDS`.
    """
    with ray_connection(machine) as ray:
        _, waiting = ray.wait([ray.remote(num_cpus=1)(_here).remote()], timeout=START_SECONDS)
        if waiting:
            raise UserError(f"of the {ray.cluster_resources().get('CPU', 0):.0f} CPUs of the Ray cluster none became "
                            f"free in {START_SECONDS:.0f} s; `ray status` and `ray list actors` show what holds them: "
                            f"end that, or start more nodes")
        task = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_run)
        here = ray.put((os.getcwd(), function))

        def run(unit: Unit) -> Result:
            try:
                return ray.get(task.remote(here, unit))
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", error)  # what the function raised, or what befell the cluster
                if not isinstance(cause, ray.exceptions.RayError):
                    raise cause from None
                raise UserError(f"{unit} was not done on the Ray cluster, with {RETRIES} retries where its process or "
                                f"node was lost: {cause}. What was finished is kept: run the same command again, where "
                                f"memory is short with fewer CPUs for each node") from None

        yield run


def _run(here: tuple[str, Callable[[Unit], Result]], unit: Unit) -> Result:
    folder, function = here
    os.chdir(folder)
    return function(unit)


class RayWorkerPool(WorkerPool):
    """A pool whose workers are actors, spread over the nodes of a cluster. One whose node is lost restarts elsewhere.

    Ray places, watches and ends them. Tasks and results use a pipe over TCP, at a tenth of the cost of a Ray call.
    """

    def __init__(self, make: Callable[[], Work], machine: Machine) -> None:
        super().__init__(make, workers=machine.workers, threads=machine.threads)
        self._machine = machine
        self._attached = contextlib.ExitStack()
        self._key = secrets.token_bytes(32)
        self._actors: list[Any] = [None] * self.workers
        self._addresses: list[Any] = [None] * self.workers
        self._ends: list[Any] = [None] * self.workers
        self._looked_at = 0.0

    def __enter__(self) -> "RayWorkerPool":
        with contextlib.ExitStack() as attached_so_far:
            self._ray = attached_so_far.enter_context(ray_connection(self._machine))
            super().__enter__()
            self._until_up(range(self.workers))
            self._attached = attached_so_far.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in range(self.workers):
            self.kill(worker)
        self._attached.close()

    def kill(self, worker: int) -> None:
        self._ray.kill(self._actors[worker])

    def _replace(self, worker: int) -> None:
        super()._replace(worker)
        self._until_up([worker])

    def _start(self, worker: int) -> None:
        """On a node by its share of all cores; it takes none, so that its successor finds a place when one is lost."""
        cores = [node["NodeID"] for node in self._ray.nodes() if node["Alive"]
                 for _ in range(int(node["Resources"].get("CPU", 0)))]
        if not cores:
            raise UserError("the Ray cluster has no CPUs; start a node with `ray start --address`, see `ray status`")
        there = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            cores[worker * len(cores) // self.workers], soft=False)  # soft: at random, for actors without cores
        actor = self._ray.remote(num_cpus=0, max_concurrency=2, scheduling_strategy=there)(_Worker)
        self._actors[worker] = actor.remote(_here(), os.getcwd(), self._key, self._make, self.threads)
        self._addresses[worker] = self._actors[worker].address.remote()
        self._ends[worker] = self._actors[worker].serve.remote()

    def _until_up(self, workers: Iterable[int]) -> None:
        """Return when these workers, just started, can work; UserError where they cannot, or find no place."""
        down, why = list(workers), ""
        for attempt in range(STARTS):
            if attempt:
                for worker in down:
                    self._start(worker)
            _, homeless = self._ray.wait([self._addresses[worker] for worker in down], num_returns=len(down),
                                         timeout=START_SECONDS)
            if homeless:
                raise UserError(f"{len(homeless)} of {len(down)} workers did not start within {START_SECONDS:.0f} s on "
                                f"the Ray cluster, which has {self._ray.cluster_resources().get('CPU', 0):.0f} CPUs; "
                                f"look at it with `ray status`, lower machine.workers, or start more nodes")
            failures = {worker: self._connect(worker) for worker in down}
            down = [worker for worker, failure in failures.items() if failure]
            if not down:
                return
            why = failures[down[0]]
        raise UserError(f"a worker ended {STARTS} times before it could work: {why}. Where memory is short, lower "
                        f"machine.workers")

    def _connect(self, worker: int) -> str:
        """Open the pipe to a worker that has started; why that fails, or nothing."""
        try:
            address = self._ray.get(self._addresses[worker])
            self._pipes[worker] = set_no_delay(Client(address, authkey=self._key))
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ActorUnschedulableError, OSError,
                EOFError) as error:
            return str(error)  # unschedulable: its node died before it came up
        return ""

    def _ready(self, seconds: float) -> list[int]:
        """Also those whose machine is gone, which closes no pipe."""
        ready = super()._ready(seconds)
        if time.monotonic() > self._looked_at + LOOK_SECONDS:
            self._looked_at = time.monotonic()
            ended, _ = self._ray.wait(self._ends, num_returns=self.workers, timeout=0)
            gone = {self._ends.index(end) for end in ended}.difference(ready)
            for worker in gone:
                self._pipes[worker].close()
            ready += sorted(gone)
        return ready

    def _take(self, worker: int) -> list[Any] | LostWorker:
        try:
            return receive_all(self._pipes[worker])
        except (EOFError, OSError):
            self._pipes[worker].close()
            fate = self._fate(worker)
            self.kill(worker)  # it may only be out of reach
            return LostWorker(None, with_node="its node has died" in fate)

    def _fate(self, worker: int) -> str:
        """Why a worker is lost: whether with its node, Ray knows only some seconds later."""
        ends, asked = time.monotonic() + FATE_SECONDS, self._ends[worker]
        while time.monotonic() < ends:
            try:
                self._ray.get(asked, timeout=FATE_SECONDS)
                break
            except self._ray.exceptions.ActorUnavailableError:
                time.sleep(FATE_TICK_SECONDS)
                asked = self._actors[worker].address.remote()
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError) as error:
                return str(error)
        return "out of reach"


class _Worker:
    """The actor: worker threads, and a listener for the scheduler on `node`, which knows the key.

    On the same node that is an abstract socket, which leaves no file, and takes less CPU time than TCP.
    """

    def __init__(self, node: str, folder: str, key: bytes, make: Callable[[], Work], threads: int) -> None:
        os.chdir(folder)
        self._threads = WorkerThreads(make, threads)
        near = node == _here() and sys.platform == "linux"
        self._listener = Listener(f"\0mlimages-{secrets.token_hex(16)}" if near else (node_address(), 0), authkey=key)

    def address(self) -> Any:
        return self._listener.address

    def serve(self) -> None:
        """Work until the pipe ends."""
        while True:
            with contextlib.suppress(AuthenticationError, EOFError, OSError), self._listener.accept() as pipe:
                self._threads.serve(set_no_delay(pipe))
                return


def _here() -> str:
    """The id of this process's node."""
    return str(import_ray().get_runtime_context().get_node_id())


def set_no_delay(pipe: Connection) -> Connection:
    """The same pipe, which sends small messages at once also over TCP."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as same:
        if same.family != socket.AF_UNIX:
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return pipe
