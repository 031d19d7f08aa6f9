"""Worker processes: their results, their end, and the reports about those that end too early."""

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlimages.core.errors import UserError
from mlimages.core.worker_pool import LostWorker, WorkerPool

PATIENCE_SECONDS = 240.0


def _square(number: Any) -> Any:
    if number == "raise":
        raise UserError("no square")
    if number == "pid":
        return os.getpid()
    if number == "sleep":
        time.sleep(3600)
    if number == "die":
        os._exit(7)
    return number * number


def _make(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return work


def _pages_for(rounds: Any) -> int:
    """The number of page faults while three blocks of 10 MiB are filled and freed `rounds` times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        blocks = [bytes([number]) * (10 * 2**20) for number in (1, 2, 3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _blas_threads(_: Any) -> Any:
    """The worker's setting for OpenBLAS, and the number of its threads beside its own three."""
    return os.environ["OPENBLAS_NUM_THREADS"], psutil.Process().num_threads() - 3


def _broken() -> Callable[[Any], Any]:
    os._exit(3)


def collect(pool: WorkerPool, count: int) -> list[tuple[int, Any]]:
    results: list[tuple[int, Any]] = []
    ends = time.monotonic() + PATIENCE_SECONDS
    while len(results) < count:
        assert time.monotonic() < ends, results
        results += pool.receive(1.0)
    return results


MAKE = partial(_make, _square)


def test_every_task_has_one_result_of_its_worker() -> None:
    with WorkerPool(MAKE, workers=2, threads=3) as pool:
        for number in range(100):
            pool.send(number % 2, number)
        results = collect(pool, 100)
    assert sorted(results) == sorted((number % 2, number * number) for number in range(100))


def test_threads_work_at_the_same_time() -> None:
    with WorkerPool(MAKE, workers=1, threads=3) as pool:
        for task in ("sleep", "sleep", 5):
            pool.send(0, task)
        assert collect(pool, 1) == [(0, 25)]


def test_an_error_in_a_worker_is_raised_here() -> None:
    with WorkerPool(MAKE, workers=1, threads=1) as pool, pytest.raises(UserError, match="no square"):
        pool.send(0, "raise")
        collect(pool, 1)


def test_a_worker_that_dies_is_reported_and_replaced() -> None:
    with WorkerPool(MAKE, workers=2, threads=1) as pool:
        pool.send(1, "die")
        assert collect(pool, 1) == [(1, LostWorker(7))]
        pool.send(1, 3)
        assert collect(pool, 1) == [(1, 9)]


def test_a_worker_that_hangs_can_be_killed() -> None:
    with WorkerPool(MAKE, workers=1, threads=1) as pool:
        pool.send(0, 2)
        assert collect(pool, 1) == [(0, 4)]
        pool.send(0, "sleep")
        pool.receive(0.1)
        pool.kill(0)
        assert collect(pool, 1) == [(0, LostWorker(-signal.SIGKILL))]


def test_a_worker_that_cannot_start_is_an_error() -> None:
    with (WorkerPool(_broken, workers=1, threads=1) as pool,
          pytest.raises(UserError, match="ended before it could work, with exit code 3")):
        collect(pool, 1)


def test_a_worker_that_is_killed_before_it_accepts_tasks_is_replaced_twice() -> None:
    with WorkerPool(MAKE, workers=1, threads=1) as pool:
        for _ in range(2):
            pool.kill(0)
            assert collect(pool, 1) == [(0, LostWorker(-signal.SIGKILL))]
        pool.send(0, 3)
        assert collect(pool, 1) == [(0, 9)]
    with WorkerPool(MAKE, workers=1, threads=1) as pool, pytest.raises(UserError, match="exit code -9"):
        for _ in range(3):
            pool.kill(0)
            collect(pool, 1)


def test_no_process_is_left_at_the_end() -> None:
    with WorkerPool(MAKE, workers=2, threads=1) as pool:
        for worker in range(2):
            pool.send(worker, "pid")
        pids = [pid for _, pid in collect(pool, 2)]
        pool.send(0, "sleep")
        pool.receive(0.1)
    assert not any(psutil.pid_exists(pid) for pid in pids)


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_worker_pool import MAKE, collect
from mlimages.core.worker_pool import WorkerPool
with WorkerPool(MAKE, workers=2, threads=1) as pool:
    for worker in range(2):
        pool.send(worker, "pid")
    print(*[pid for _, pid in collect(pool, 2)], flush=True)
    pool.send(0, "sleep")
    pool.receive(3600)
"""


def test_workers_end_after_their_scheduler_was_killed() -> None:
    here = Path(__file__).parent
    source = here.parents[1] / "src"
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(here)], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(source)})
    assert process.stdout
    workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    assert psutil.wait_procs(workers, PATIENCE_SECONDS)[1] == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_a_worker_reuses_freed_memory() -> None:
    with WorkerPool(partial(_make, _pages_for), workers=1, threads=2) as pool:
        pool.send(0, 10)
        [(_, pages)] = collect(pool, 1)
    assert pages * resource.getpagesize() < 2 * 3 * 10 * 2**20


def test_a_script_needs_no_main_guard() -> None:
    script = """
from functools import partial
from operator import methodcaller
from mlimages.core.worker_pool import WorkerPool
with WorkerPool(partial(methodcaller, "upper"), workers=2, threads=1) as pool:
    pool.send(0, "done")
    results = []
    while not results:
        results = pool.receive(1.0)
    print(results)
"""
    known = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    ended = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True,
                           timeout=PATIENCE_SECONDS, env=known)
    assert (ended.stdout, ended.stderr) == ("[(0, 'DONE')]\n", "")


@pytest.mark.parametrize("before", [None, "5"])
def test_workers_start_no_threads_for_linear_algebra(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if before:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
    with WorkerPool(partial(_make, _blas_threads), workers=1, threads=1) as pool:
        pool.send(0, None)
        assert collect(pool, 1) == [(0, ("1", 0))]
    assert os.environ.get("OPENBLAS_NUM_THREADS") == before
