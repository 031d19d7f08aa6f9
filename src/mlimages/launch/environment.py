"""Trains in this process, as the worker that TF_CONFIG describes (`machine.launcher: environment`).

Kubernetes' training operator, srun or a person starts a process on each machine. When a worker is lost, all others end
with an error that names it. When they are started again, the same command resumes from the last checkpoint.

In some of these cases TensorFlow itself would wait forever. So the connections of the agreement stay open: every worker
reports its progress to the chief, and both sides send a message at least every PING_SECONDS.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.signals import Interrupts, TrainingStopped
from mlimages.launch.agreement import agree, close, facts
from mlimages.launch.base import resume_point, stopped_early
from mlimages.launch.connection import Peer
from mlimages.launch.messages import ExitCode, WorkerReport, parse_json
from mlimages.launch.tf_config import ClusterTask, host_port, read_environment, reserve_port
from mlimages.launch.worker_state import WorkerState, hung, without_first_step
from mlimages.training.jobs import TrainingJob, WorkerRole

PING_SECONDS, POLL_SECONDS = 1.0, 0.05
SILENT_SECONDS = 20.0  # without a message, after which a worker is lost
LATE_SECONDS = 5.0  # without a message, after which a worker is the cause if all hang
VERDICT_SECONDS = SILENT_SECONDS + 10.0  # until the lost worker is named, after TensorFlow failed
ABORT_SECONDS = 10.0  # for the training to end by an exception; then the process exits
_unfinished: list[Any] = []  # iterators of batches: destroying an active one can hang


def train_in_place(jobs: Sequence[TrainingJob], machine: Machine) -> None:
    """Run trainings to the end as one of the workers of TF_CONFIG. The chief writes the results.

    Raises UserError on all workers if they differ, or if one does not connect, fails or is lost. After SIGTERM or
    SIGINT to any worker, the chief saves a checkpoint, and all raise TrainingStopped.
    """
    task = read_environment()
    if _tensorflow_is_initialized():
        raise UserError("TensorFlow was already used in this process, and cannot join other workers any more; restart "
                        "the kernel, and run the same command on all machines")
    own = facts(jobs, machine)
    with Interrupts() as interrupts:
        listener = reserve_port(host_port(task.addresses[task.index])[1], f"worker {task.index}")
        peers = agree(task, own, listener, machine.start_timeout, lambda: interrupts.received)
        if interrupts.received:
            close(peers, task)
            raise stopped_early(interrupts)
    with Monitor(task, peers, machine, jobs) as monitor:
        _train(jobs, machine, monitor)


def _train(jobs: Sequence[TrainingJob], machine: Machine, monitor: "Monitor") -> None:
    import tensorflow as tf

    from mlimages.training.distribution import first_line, own_failure
    from mlimages.training.loop import fit

    role = WorkerRole(monitor.task.index, len(monitor.task.addresses), monitor.report)
    monitor.wait_for_all()
    try:
        _unfinished.append(fit(jobs, machine, role))
        monitor.finish()
    except TrainingStopped:
        monitor.finish()
        raise
    except UserError as error:
        monitor.fail(str(error))
        raise
    except tf.errors.OpError as error:
        if all(job.finished for job in jobs):  # all is written, so the loss does not matter
            monitor.finish()
            return
        if message := own_failure(error, role):
            monitor.fail(message)
            raise UserError(message) from None
        raise UserError(monitor.wait_for_failure(default=f"worker {role.index} lost the others: {first_line(error)}")
                        ) from None


class Monitor:
    """Monitors the other workers over the connections of the agreement, until the block ends.

    The chief detects a loss and sends an error to all workers. Each worker then aborts TensorFlow's collective
    operations, so that its training ends by an exception. If that has no effect, the process prints the error and ends.
    """

    def __init__(self, task: ClusterTask, peers: list[Peer], machine: Machine, jobs: Sequence[TrainingJob]) -> None:
        self.task = task
        self._peers, self._machine, self._jobs = peers, machine, jobs
        self._workers = [WorkerState(index, address) for index, address in enumerate(task.addresses)]
        self._ready = {task.index}  # workers that have loaded TensorFlow
        self._received: dict[int, float] = {}  # the time of each other worker's last message
        self._all_ready, self._connected, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._failed = threading.Event()
        self._failure = ""
        self._lock = threading.Lock()

    def __enter__(self) -> "Monitor":
        threads = [threading.Thread(target=self._read, args=[peer], daemon=True) for peer in self._peers]
        threads.append(threading.Thread(target=self._ping, daemon=True))
        if self.task.index == 0:
            threads.append(threading.Thread(target=self._check_progress, daemon=True))
        for thread in threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()
        for peer in self._peers:
            peer.connection.close()

    def wait_for_all(self) -> None:
        """Return when all workers have loaded TensorFlow: the first to use it would block while it waits for others.

        Raises UserError if one is lost before that.
        """
        deadline = time.monotonic() + self._machine.start_timeout
        if self.task.index:
            self._send(ready=True)
        while not self._all_ready.wait(POLL_SECONDS) and not self._failed.is_set():
            if len(self._ready) == len(self._workers):
                self._all_ready.set()
                self._send(all_ready=True)
            if time.monotonic() > deadline:
                self.fail(f"a worker did not load TensorFlow within machine.start_timeout, "
                          f"{self._machine.start_timeout:g} s")
        if self._failed.is_set():
            raise UserError(self._failure)
        # While TensorFlow waits for another worker, no Python code could end this process.
        faulthandler.dump_traceback_later(self._machine.start_timeout, exit=True, file=sys.__stderr__ or 2)

    def report(self, **fields: Any) -> None:
        """Report the progress of this worker to the chief."""
        report = WorkerReport(**fields)
        if report.plan:  # TensorFlow has found all workers
            faulthandler.cancel_dump_traceback_later()
            self._connected.set()
            print(report.plan, flush=True)
        self._workers[self.task.index].update(report)
        if self.task.index:
            self._send(report=report.as_json())

    def finish(self) -> None:
        """Send to the other workers that this one has finished, so that they do not report it as lost."""
        self._closed.set()
        self._send(finished=True)

    def fail(self, message: str) -> None:
        """End the training of all workers with this error. The caller raises it in this process."""
        with self._lock:
            if self._failed.is_set() or self._closed.is_set():
                return
            self._failure = message
            self._failed.set()
        self._send(failure=message)

    def wait_for_failure(self, default: str) -> str:
        """The error that names the lost worker; `default` if none arrives within VERDICT_SECONDS."""
        return self._failure if self._failed.wait(VERDICT_SECONDS) else self._with_advice(default)

    def _send(self, **message: Any) -> None:
        for peer in self._peers:
            peer.connection.send(**message)

    def _ping(self) -> None:
        while not self._closed.wait(PING_SECONDS):
            self._send(connected=self._connected.is_set())

    def _read(self, peer: Peer) -> None:
        """Process the messages of another worker until its end."""
        seconds = self._machine.start_timeout
        while (message := peer.connection.receive(seconds)) is not None and not self._closed.is_set():
            self._received[peer.worker] = time.monotonic()
            if message.get("connected"):  # until then, TensorFlow may block its threads
                seconds = SILENT_SECONDS
            if "report" in message and (report := parse_json(message["report"])):
                self._workers[peer.worker].update(report)
            elif "ready" in message:
                self._ready.add(peer.worker)
            elif "all_ready" in message:
                self._all_ready.set()
            elif "finished" in message:
                return
            elif "failure" in message:
                self._abort(message["failure"])
                return
        chief_writes = self.task.index == 0 and all(worker.trained for worker in self._workers)
        if not self._closed.is_set() and not chief_writes:
            how = "its connection was closed" if peer.connection.lost else f"it sent nothing for {seconds:g} s"
            self._lose(f"{self.task.name(peer.worker)} was lost {self._where(peer.worker)}: {how}; see its own "
                       f"output")

    def _where(self, index: int) -> str:
        """The step of a worker, as text for errors. Workers other than the chief know only their own step."""
        return self._workers[index if self.task.index == 0 else self.task.index].where

    def _check_progress(self) -> None:
        """As the chief, find workers that hang."""
        timeout = self._machine.start_timeout
        while not self._closed.wait(PING_SECONDS) and not self._failed.is_set():
            if late := without_first_step(self._workers, timeout):
                self._lose(f"{', '.join(map(str, late))} did not end a first step within machine.start_timeout, "
                           f"{timeout:g} s")
                continue
            blamed, seconds = hung(self._workers, self._machine)
            if blamed:
                now = time.monotonic()
                late = [worker for worker in self._workers[1:] if now - self._received[worker.index] > LATE_SECONDS]
                blamed = late or blamed
                self._lose(f"{', '.join(map(str, blamed))} hung {blamed[0].where} for {seconds:.0f} s")

    def _lose(self, message: str) -> None:
        self._abort(self._with_advice(message))

    def _with_advice(self, message: str) -> str:
        return f"{message}; {resume_point(self._jobs)}; run the same command on all machines to continue"

    def _abort(self, message: str) -> None:
        """End the training of this worker, and as the chief, of all."""
        self.fail(message)
        if self._connected.is_set():
            from tensorflow.python.eager import context
            from tensorflow.python.framework import errors

            # TensorFlow's own health checks call this function.
            context.context().abort_collective_ops(errors.UNAVAILABLE, message)
        if not self._closed.wait(ABORT_SECONDS):
            faulthandler.dump_traceback(sys.__stderr__ or 2)
            print(f"{UserError.__name__}: {self._failure}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(ExitCode.PEER_LOST)


def _tensorflow_is_initialized() -> bool:
    """Whether TensorFlow has initialized its devices in this process. Importing TensorFlow does not."""
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    threads = tf.config.threading.get_inter_op_parallelism_threads()
    try:
        tf.config.threading.set_inter_op_parallelism_threads(threads + 1)  # an error once it is initialized
    except RuntimeError:
        return True
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return False
