"""A pool of worker processes, each with several threads. The caller assigns every task to a worker.

A worker that dies is replaced. For a map over units whose order alone matters, see `parallel`.
"""

import contextlib
import gc
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, NamedTuple

from mlimages.core import tuning
from mlimages.core.errors import UserError

Work = Callable[[Any], Any]

BLAS_THREADS = "OPENBLAS_NUM_THREADS"
MAX_KILLED_STARTS = 3  # in a row, of a worker that is killed before it accepts tasks, for example for lack of memory


class LostWorker(NamedTuple):
    """A worker process has ended. `with_node` says whether its machine was lost."""

    exit_code: int | None
    with_node: bool = False


class WorkerPool:
    """A context manager for `workers` processes with `threads` threads each.

    A process calls `make()` once. Its threads call the returned function with one task at a time. Tasks, results and
    `make` are pickled, so `make` must be in a module and not in the main script. The workers end with the block, or
    when this process dies.
    """

    def __init__(self, make: Callable[[], Work], *, workers: int, threads: int) -> None:
        self._make, self.workers, self.threads = make, workers, threads
        self._outbox: list[list[Any]] = [[] for _ in range(workers)]
        self._processes: list[Any] = [None] * workers
        self._pipes: list[Connection] = [None] * workers  # type: ignore[list-item]
        self._up = [False] * workers
        self._killed_starts = [0] * workers

    def __enter__(self) -> "WorkerPool":
        for worker in range(self.workers):
            self._start(worker)
        return self

    def __exit__(self, *exception: object) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.kill()
        for process in self._processes:
            process.join()

    def send(self, worker: int, task: Any) -> None:
        """Assign a task to a worker. The next `receive` sends it."""
        self._outbox[worker].append(task)

    def receive(self, seconds: float) -> list[tuple[int, Any]]:
        """Send the assigned tasks, and wait up to `seconds` for results.

        Returns pairs of a worker and a result or a `LostWorker`. Raises the exception of a task.
        """
        for worker, tasks in enumerate(self._outbox):
            if tasks:
                self._outbox[worker] = []
                with contextlib.suppress(OSError):  # the worker is lost, which `_take` detects
                    self._pipes[worker].send(tasks)
        results: list[tuple[int, Any]] = []
        for worker in self._ready(seconds):
            taken = self._take(worker)
            if isinstance(taken, LostWorker):
                results.append((worker, taken))
                self._replace(worker)
            else:
                results += [(worker, result) for result in taken]
                self._up[worker], self._killed_starts[worker] = True, 0
        for _, result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def is_up(self, worker: int) -> bool:
        """Whether a worker has started and accepts tasks."""
        return self._up[worker]

    def kill(self, worker: int) -> None:
        """End a worker whose task hangs. The next `receive` returns its `LostWorker`."""
        self._processes[worker].kill()

    def _replace(self, worker: int) -> None:
        self._outbox[worker] = []
        self._start(worker)

    def _start(self, worker: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self._make, self.threads, theirs), daemon=True)
        try:
            with _no_main(), _one_blas_thread():
                process.start()
        except OSError as error:
            raise UserError(f"a worker process does not start: {error}; lower machine.workers") from None
        theirs.close()
        self._pipes[worker], self._processes[worker], self._up[worker] = ours, process, False

    def _ready(self, seconds: float) -> list[int]:
        """Wait up to `seconds` for workers that have sent results or ended."""
        return [self._pipes.index(pipe) for pipe in wait(self._pipes, seconds)]  # type: ignore[arg-type]

    def _take(self, worker: int) -> list[Any] | LostWorker:
        """The results of a worker, or how it ended. Raises UserError if a new worker would not start either."""
        try:
            return receive_all(self._pipes[worker])
        except (EOFError, OSError):
            self._processes[worker].join()
            lost = LostWorker(self._processes[worker].exitcode)
        killed = lost.exit_code is not None and lost.exit_code < 0
        self._killed_starts[worker] += killed and not self._up[worker]
        if not self._up[worker] and (not killed or self._killed_starts[worker] == MAX_KILLED_STARTS):
            raise UserError(f"a worker process ended before it could work, with exit code {lost.exit_code}; see its "
                            f"message above. If memory is short, lower machine.workers")
        return lost


def receive_all(pipe: Connection) -> list[Any]:
    """Receive all messages in a pipe, and return their results in one list. Raises EOFError or OSError at its end.

    With one message for each call, the results of a busy worker would pile up while its threads wait for tasks.
    """
    results = pipe.recv()
    with contextlib.suppress(EOFError, OSError):  # the next call raises it
        while pipe.poll():
            results += pipe.recv()
    return results


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Keep a new process from importing the main script, which may have no `if __name__ == "__main__"`."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Let a new process start one OpenBLAS thread instead of one for each core: they wait by spinning."""
    before = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = "1"
    try:
        yield
    finally:
        os.environ.pop(BLAS_THREADS)
        if before is not None:
            os.environ[BLAS_THREADS] = before


def _serve(make: Callable[[], Work], threads: int, pipe: Connection) -> None:
    """Run a worker until its pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, which ends its workers
    WorkerThreads(make, threads).serve(pipe)
    os._exit(0)


class WorkerThreads:
    """The threads of a worker. See `WorkerPool` for `make`."""

    def __init__(self, make: Callable[[], Work], threads: int) -> None:
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        tuning.keep_freed_memory(tuning.FOR_IMAGES)
        work = make()
        gc.freeze()  # the garbage collector then skips the imported modules, which live as long as the worker
        for _ in range(threads):
            threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def serve(self, pipe: Connection) -> None:
        """Report that the worker has started, then accept tasks and send results until the pipe ends."""
        pipe.send([])
        threading.Thread(target=self._report, args=(pipe,), daemon=True).start()
        with contextlib.suppress(EOFError, OSError):
            while True:
                for task in pipe.recv():
                    self._tasks.put(task)

    def _report(self, pipe: Connection) -> None:
        """Send results, all that are ready in one message."""
        with contextlib.suppress(OSError):
            while True:
                batch = [self._results.get()]
                with contextlib.suppress(queue.Empty):
                    while True:
                        batch.append(self._results.get_nowait())
                pipe.send(batch)

    def _run(self, work: Work) -> None:
        while True:
            try:
                self._results.put(work(self._tasks.get()))
            except Exception as error:  # noqa: BLE001 - `receive` raises it
                self._results.put(error)
