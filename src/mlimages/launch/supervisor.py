"""Starts the workers, monitors them, and restarts them from the last checkpoint when one is lost."""

import contextlib
import json
import queue
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.signals import Interrupts, TrainingStopped
from mlimages.launch.base import Launcher, WorkerProcess, resume_point, stopped_early
from mlimages.launch.environment import train_in_place
from mlimages.launch.local import LocalLauncher
from mlimages.launch.messages import ExitCode, parse_line
from mlimages.launch.ray import ray_launcher
from mlimages.launch.slurm import slurm_launcher
from mlimages.launch.worker import describe_task
from mlimages.launch.worker_state import WorkerLog, WorkerState, hung, without_first_step
from mlimages.training.jobs import TrainingJob

LOGS = "workers"
TICK_SECONDS = 0.2
# TensorFlow detects the loss of a worker within 5 to 10 s; killed processes end within a few seconds.
GRACE_SECONDS, KILL_SECONDS = 15.0, 5.0
STACK_SECONDS = 5.0  # for hung workers to write their stacks, which takes some time on busy cores


def run_trainings(jobs: Sequence[TrainingJob], machine: Machine) -> None:
    """Run trainings to the end, one after the other, in the same processes. Finished ones are left out.

    They have one `strategy`; `machine.launcher` starts the workers of `multi_worker`. Raises UserError as
    `mlimages.training.loop.fit` and `supervise` do.
    """
    if all(job.finished for job in jobs):
        return
    if jobs[0].params.strategy == "multi_worker":
        (train_in_place if machine.launcher == "environment" else supervise)(jobs, machine)
    else:
        from mlimages.training.loop import fit  # which imports TensorFlow

        fit(jobs, machine)


class WorkerLost(Exception):
    """A worker died, was stopped or hung. The message names it and its step."""


def supervise(jobs: Sequence[TrainingJob], machine: Machine) -> None:
    """Run trainings to the end with the workers of `machine.launcher`. The chief writes the results.

    The workers' logs are in the `work` of the first training.

    Raises UserError for an error of a worker, for a worker that does not connect, and if workers are lost more than
    `machine.max_restarts` times. After SIGTERM or SIGINT the chief saves a checkpoint, and it raises TrainingStopped.
    All processes have ended when it returns or raises.
    """
    task, logs = describe_task(jobs, machine), jobs[0].work / LOGS
    interrupts = Interrupts()  # entered last: Ray installs its own handler of SIGTERM
    with open_launcher(machine) as launcher, interrupts:
        for restart in range(machine.max_restarts + 1):
            with Attempt(launcher, machine, task, logs, interrupts) as attempt:
                try:
                    attempt.run()
                    return
                except WorkerLost as error:
                    attempt.end()
                    if all(job.finished for job in jobs):
                        return
                    problem = f"{error}; {resume_point(jobs)}"
                    if interrupts.received:
                        raise UserError(f"{interrupts.received} stopped the training: {problem}; run the same command "
                                        f"to continue") from None
                    attempt.show_tails()
                except TrainingStopped:
                    raise
                except UserError:
                    attempt.end()
                    attempt.show_tails()
                    raise
            if restart < machine.max_restarts:
                print(f"{problem}. All workers start again, restart {restart + 1} of {machine.max_restarts}",
                      flush=True)
        raise UserError(f"{problem}. Workers were lost {machine.max_restarts + 1} times, and machine.max_restarts is "
                        f"{machine.max_restarts}; the workers' logs are in {logs}. Run the same command to "
                        f"continue")


@contextlib.contextmanager
def open_launcher(machine: Machine) -> Iterator[Launcher]:
    """The launcher that `machine.launcher` names."""
    if machine.launcher == "ray":
        with ray_launcher(machine) as launcher:
            yield launcher
    elif machine.launcher == "slurm":
        with slurm_launcher(machine) as launcher:
            yield launcher
    else:
        yield LocalLauncher(machine)


class SupervisedWorker(WorkerState):
    """A worker with its process, its log, and its exit code after its end."""

    def __init__(self, index: int, log: WorkerLog) -> None:
        super().__init__(index)
        self.log = log
        self.process: WorkerProcess | None = None
        self.code: int | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.code is None

    def signal_process(self, number: int) -> None:
        if self.process is not None:
            self.process.signal(number)


class Attempt:
    """All workers, from their start to their end or to the loss of one of them."""

    def __init__(self, launcher: Launcher, machine: Machine, task: dict[str, Any], logs: Path,
                 interrupts: Interrupts) -> None:
        self._launcher, self._machine, self._task, self._interrupts = launcher, machine, task, interrupts
        self._events: queue.SimpleQueue[tuple[SupervisedWorker, str, Any]] = queue.SimpleQueue()
        self._logs = logs
        self._workers: list[SupervisedWorker] = []
        self._signalled = self._joined = False
        self._deadline = float("inf")  # for the others to end by themselves, after one has ended

    def __enter__(self) -> "Attempt":
        self._logs.mkdir(parents=True, exist_ok=True)
        self._workers = [SupervisedWorker(index, WorkerLog(index, self._logs / f"worker-{index}.log"))
                         for index in self._launcher.indices]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.end()
        for worker in self._workers:
            worker.log.close()

    def run(self) -> None:
        """Return when all workers have finished. Raises WorkerLost or UserError if they do not finish."""
        for worker in self._workers:
            self._start(worker)
        for worker in self._workers:  # the start of all may have taken long
            worker.reported = time.monotonic()
        while any(worker.code is None for worker in self._workers) and time.monotonic() < self._deadline:
            self._process_events()
            self._send_addresses()
            self._forward_signal()
            self._check_progress()
        self._check_results()

    def end(self) -> None:
        """Kill the running workers, and wait until they have ended."""
        for worker in self._running():
            worker.signal_process(signal.SIGKILL)
        self._process_events_for(KILL_SECONDS)

    def show_tails(self) -> None:
        """Print the last lines of each worker's log."""
        for worker in self._workers:
            print(f"--- the end of {worker.log.path}")
            print("\n".join(worker.log.tail), flush=True)

    def _start(self, worker: SupervisedWorker) -> None:
        worker.process = self._launcher.start(worker.index, lambda *event: self._events.put((worker, *event)))
        worker.process.send(json.dumps({**self._task, "index": worker.index,
                                        "host": self._launcher.host(worker.index)}))

    def _running(self) -> list[SupervisedWorker]:
        return [worker for worker in self._workers if worker.running]

    def _process_events(self) -> None:
        """Process the output since the last call; wait up to TICK_SECONDS for some."""
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=TICK_SECONDS)
            while True:
                self._process(*event)
                event = self._events.get_nowait()

    def _process_events_for(self, seconds: float) -> None:
        """Process the output for some time, or until no worker runs."""
        deadline = time.monotonic() + seconds
        while self._running() and time.monotonic() < deadline:
            self._process_events()

    def _process(self, worker: SupervisedWorker, kind: str, content: Any) -> None:
        if kind == "exit":
            worker.code = content
            self._deadline = min(self._deadline, time.monotonic() + self._grace)
        elif kind == "out" and (report := parse_line(content)):
            worker.update(report)
            if report.plan:
                print(report.plan, flush=True)
        else:
            worker.log.write(content)
            if kind == "out" and content.strip() and worker is self._workers[0]:
                print(content, flush=True)

    @property
    def _grace(self) -> float:
        """How long the others may run after one has ended, in seconds. The chief may still write the result."""
        chief_writes = self._workers[0].code is None and all(worker.trained for worker in self._workers)
        return self._machine.start_timeout if chief_writes else GRACE_SECONDS

    def _send_addresses(self) -> None:
        """Once all workers have reported their addresses, send the list to each."""
        if not self._joined and all(worker.address for worker in self._workers):
            self._joined = True
            addresses = json.dumps([worker.address for worker in self._workers])
            for worker in self._running():
                worker.process.send(addresses)  # type: ignore[union-attr]

    def _forward_signal(self) -> None:
        if not self._interrupts.received or self._signalled:
            return
        self._signalled = True
        if not all(worker.entered for worker in self._workers):
            raise stopped_early(self._interrupts)
        for worker in self._running():
            worker.signal_process(signal.SIGTERM)

    def _check_progress(self) -> None:
        """Raises UserError for workers that did not connect, and WorkerLost for workers that hang."""
        if self._deadline < float("inf"):
            return
        timeout = self._machine.start_timeout
        # Once all workers are connected, one that waits for others names them itself.
        late = [worker for worker in without_first_step(self._workers, timeout + GRACE_SECONDS * self._joined)
                if worker in self._running()]
        if late and not self._joined:
            missing = ", ".join(str(worker) for worker in self._workers if not worker.address)
            raise UserError(f"{missing} did not connect within machine.start_timeout, {timeout:g} s; the logs are in "
                            f"{self._logs}")
        if late:
            raise WorkerLost(f"{', '.join(map(str, late))} did not end a first step within machine.start_timeout, "
                             f"{timeout:g} s")
        blamed, seconds = hung(self._workers, self._machine)
        if blamed:
            for worker in self._running():
                worker.signal_process(signal.SIGUSR1)  # it writes its stack to its log
            self._process_events_for(STACK_SECONDS)
            raise WorkerLost(f"{', '.join(map(str, blamed))} hung {blamed[0].where} for {seconds:.0f} s")

    def _check_results(self) -> None:
        """Return if all workers finished. Raises the error of the worker that caused the end."""
        for worker in self._workers:
            if worker.error is not None:
                raise UserError(worker.error)
        signalled = [worker for worker in self._workers if worker.signal]
        if signalled and (self._signalled or len(signalled) == len(self._workers)):
            raise TrainingStopped(signalled[0].stopped or "", signalled[0].signal)
        if signalled:  # the signal was for one worker, not for the training
            raise WorkerLost(f"{signalled[0]} was ended by {signalled[0].signal} {signalled[0].where}")
        failed = [worker for worker in self._workers if worker.code != 0]
        silent = [worker for worker in failed if worker.code is None]
        if silent:
            raise WorkerLost(f"{', '.join(map(str, silent))} was stopped or hung {silent[0].where}, while the others "
                             f"ended")
        # The cause is rarely a worker that lost another one, or one that TensorFlow aborted.
        order = {int(ExitCode.PEER_LOST): 2, -int(signal.SIGABRT): 1}
        for worker in sorted(failed, key=lambda one: order.get(one.code or 0, 0)):
            if worker.code == ExitCode.PEER_LOST:
                raise WorkerLost(f"{worker} lost the others {worker.where}: {worker.lost or ''}")
            raise WorkerLost(f"{worker} {_exit_text(worker.code or 0)} {worker.where}")


def _exit_text(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
