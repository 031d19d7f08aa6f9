"""Run work on the cores of this machine or on a Ray cluster, as `machine.engine` says, with the same results."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mlimages.core import ray_backend, tuning
from mlimages.core.params import Machine
from mlimages.core.worker_pool import Work, WorkerPool

Unit = TypeVar("Unit")
Result = TypeVar("Result")


def map_units(function: Callable[[Unit], Result], units: Iterable[Unit], *, machine: Machine,
              ahead: int) -> Iterator[Result]:
    """`ordered_map` on `machine.workers` threads or processes of a cluster, with a window of `ahead` units for each.

    On a cluster, the function, units and results are pickled, and a unit whose node is lost runs again on another one.
    """
    with contextlib.ExitStack() as stack:
        if machine.engine == "ray":
            function = stack.enter_context(ray_backend.remote_function(function, machine))
        yield from ordered_map(function, units, workers=machine.workers, window=ahead * machine.workers)


def open_worker_pool(make: Callable[[], Work], machine: Machine) -> WorkerPool:
    """A pool of `machine.workers` processes with `machine.threads` threads each, on this machine or on a cluster."""
    if machine.engine == "ray":
        return ray_backend.RayWorkerPool(make, machine)
    return WorkerPool(make, workers=machine.workers, threads=machine.threads)


def ordered_map(function: Callable[[Unit], Result], units: Iterable[Unit], *, workers: int,
                window: int) -> Iterator[Result]:
    """Yield `function(unit)` in the order of `units`, computed by `workers` threads.

    At most `window` units have begun and are not yet yielded. The first exception cancels the units that have not
    begun, and is raised. Memory that images needed stays with this process for the next ones.
    """
    tuning.keep_freed_memory(tuning.FOR_IMAGES)
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for unit in units:
            if len(pending) >= window:
                yield pending.popleft().result()
            pending.append(pool.submit(function, unit))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
