"""Starts the workers, watches them from outside, and begins again from the last checkpoint when one is lost."""

import contextlib
import json
import queue
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.signals import Interrupts
from mlimages.launch.launchers import Launcher, Stopped, open_launcher, stopped_early
from mlimages.launch.worker import LEFT_ALONE, task_of
from mlimages.launch.worker_state import Worker
from mlimages.network.checkpoint_files import CHECKPOINTS, METRICS, newest_checkpoint

LOGS = "workers"
TICK_SECONDS = 0.2
# In which TensorFlow finds by itself that a worker is gone (5 to 10 s), and in which killed processes end.
GRACE_SECONDS, KILL_SECONDS = 15.0, 5.0
# A step that takes so many times as long as the slowest so far hangs, where machine.step_timeout is shorter than that.
SLOWER = 3


class Lost(Exception):
    """A worker died, was stopped or hung; the message says which, and at which step."""


def supervise(params: Train, machine: Machine, *, tfrecords: Path, work: Path) -> None:
    """Train with the workers of `machine.launcher` to the end; the chief writes to `work`, and all logs lie there.

    UserError for what a worker refuses, for one that does not come, after SIGTERM or SIGINT, which save first, and for
    a worker that was lost once more than `machine.max_restarts` times. No process is left.
    """
    task = task_of(params, machine, tfrecords=tfrecords, work=work)
    interrupts = Interrupts()  # entered last: Ray takes SIGTERM for itself
    with open_launcher(machine, interrupts) as launcher, interrupts:
        for restart in range(machine.max_restarts + 1):
            with Attempt(launcher, machine, task, work, interrupts) as attempt:
                try:
                    attempt.run()
                    return
                except Lost as error:
                    attempt.end()
                    if (work / "out" / METRICS).exists():  # all is written: whoever was lost since is not missed
                        return
                    what = f"{error}; {_resumes(work)}"
                    if interrupts.received:
                        raise UserError(f"{interrupts.received} stopped the training: {what}; run the same command to "
                                        f"continue") from None
                    attempt.show_tails()
                except UserError as error:
                    attempt.end()
                    if not isinstance(error, Stopped):
                        attempt.show_tails()
                    raise
            if restart < machine.max_restarts:
                print(f"{what}. All workers begin again, restart {restart + 1} of {machine.max_restarts}", flush=True)
        raise UserError(f"{what}. After {machine.max_restarts} restarts this is the end; the workers' logs are in "
                        f"{work / LOGS}. Run the same command to continue")


def _resumes(work: Path) -> str:
    found = newest_checkpoint(work / CHECKPOINTS)
    return f"training resumes from {found}" if found else "there is no checkpoint yet: training begins anew"


class Attempt:
    """All workers, from one start to its end."""

    def __init__(self, launcher: Launcher, machine: Machine, task: dict[str, Any], work: Path,
                 interrupts: Interrupts) -> None:
        self._launcher, self._machine, self._task, self._interrupts = launcher, machine, task, interrupts
        self._heard: queue.SimpleQueue[tuple[Worker, str, Any]] = queue.SimpleQueue()
        self._logs = work / LOGS
        self._workers: list[Worker] = []
        self._files = contextlib.ExitStack()
        self._passed_on = self._joined = False
        self._ends = float("inf")  # of the time that workers have to end by themselves

    def __enter__(self) -> "Attempt":
        self._logs.mkdir(parents=True, exist_ok=True)
        for index in self._launcher.indices:
            log = (self._logs / f"worker-{index}.log").open("a", encoding="utf-8")
            self._workers.append(Worker(index, self._files.enter_context(log)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.end()
        self._files.close()

    def run(self) -> None:
        """Until all workers have ended well; Lost or UserError where they have not."""
        for worker in self._workers:
            def heard(kind: str, what: Any, worker: Worker = worker) -> None:
                self._heard.put((worker, kind, what))

            worker.process = self._launcher.start(worker.index, heard)
            worker.process.send(json.dumps({**self._task, "index": worker.index,
                                            "host": self._launcher.host(worker.index)}))
        for worker in self._workers:  # whom it took long to start
            worker.spoke = time.monotonic()
        while any(worker.code is None for worker in self._workers) and time.monotonic() < self._ends:
            self._listen()
            self._join()
            self._pass_on_signal()
            self._find_silence()
        self._judge()

    def end(self) -> None:
        """Kill what still runs, and hear it end."""
        ends = time.monotonic() + KILL_SECONDS
        for worker in self._running():
            worker.process.signal(signal.SIGKILL)  # type: ignore[union-attr]
        while self._running() and time.monotonic() < ends:
            self._listen()

    def show_tails(self) -> None:
        """Print how the log of each worker ends."""
        for worker in self._workers:
            print(f"--- the end of {self._logs / f'worker-{worker.index}.log'}")
            print("\n".join(worker.tail), flush=True)

    def _running(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.process is not None and worker.code is None]

    def _listen(self) -> None:
        """Take in what was said since; wait a moment where it is nothing."""
        with contextlib.suppress(queue.Empty):
            worker, kind, what = self._heard.get(timeout=TICK_SECONDS)
            while True:
                self._take(worker, kind, what)
                worker, kind, what = self._heard.get_nowait()

    def _take(self, worker: Worker, kind: str, what: Any) -> None:
        if kind == "exit":
            worker.code = what
            self._ends = min(self._ends, time.monotonic() + self._grace)
            return
        told = worker.hear(kind, what)
        if "plan" in told:
            print(told["plan"], flush=True)
        if kind == "out" and what.strip() and not told and worker is self._workers[0]:
            print(what, flush=True)

    @property
    def _grace(self) -> float:
        """How long the others may go on after the end of a worker: the chief without any, once all have trained."""
        alone = self._workers[0].code is None and all("trained" in worker.told for worker in self._workers)
        return self._machine.start_timeout if alone else GRACE_SECONDS

    def _join(self) -> None:
        """Once all have come, tell each where the others are."""
        if not self._joined and all(worker.address for worker in self._workers):
            self._joined = True
            addresses = json.dumps([worker.address for worker in self._workers])
            for worker in self._workers:
                if self._launcher.host(worker.index) is not None:
                    worker.process.send(addresses)  # type: ignore[union-attr]

    def _pass_on_signal(self) -> None:
        if not self._interrupts.received or self._passed_on:
            return
        self._passed_on = True
        if not all(worker.entered for worker in self._workers):
            raise stopped_early(self._interrupts)
        for worker in self._running():
            worker.process.signal(signal.SIGTERM)  # type: ignore[union-attr]

    def _find_silence(self) -> None:
        """UserError for workers that did not come, Lost for those that hang."""
        if self._ends < float("inf"):
            return
        now = time.monotonic()
        # Where a worker itself waits for others, it tells who is missing.
        patience = self._machine.start_timeout + (GRACE_SECONDS if self._joined else 0.0)
        late = [worker for worker in self._running() if not worker.under_way and now - worker.spoke > patience]
        if late and not self._joined:
            missing = ", ".join(str(worker) for worker in self._workers if not worker.address)
            raise UserError(f"{missing} did not come within machine.start_timeout, {self._machine.start_timeout:g} s; "
                            f"the logs are in {self._logs}")
        if late:
            raise Lost(f"{', '.join(map(str, late))} did not end a first step within machine.start_timeout, "
                       f"{self._machine.start_timeout:g} s")
        patience = max(self._machine.step_timeout, SLOWER * max(worker.slowest for worker in self._workers))
        if self._workers[0].writing:
            patience = self._machine.start_timeout
        if all(worker.under_way for worker in self._workers) and \
                now - max(worker.spoke for worker in self._workers) > patience:
            for worker in self._running():
                worker.process.signal(signal.SIGUSR1)  # type: ignore[union-attr]  # its log tells where it is
            self._listen()
            behind = min(worker.progress for worker in self._workers)
            hung = [worker for worker in self._workers if worker.progress == behind]
            raise Lost(f"{', '.join(map(str, hung))} hung {hung[0].where} for {patience:.0f} s")

    def _judge(self) -> None:
        """Return where all ended well, else say who is to blame."""
        for worker in self._workers:
            if "error" in worker.told:
                raise UserError(worker.told["error"])
        signalled = [worker for worker in self._workers if worker.told.get("stopped", "").startswith("SIG")]
        if signalled and (self._passed_on or len(signalled) == len(self._workers)):
            raise Stopped(signalled[0].told["stopped"])  # not one of them is to end, but the training
        if signalled:
            raise Lost(f"{signalled[0]} was told to end: {signalled[0].told['stopped'].partition(';')[0]}")
        bad = [worker for worker in self._workers if worker.code != 0]
        silent = [worker for worker in bad if worker.code is None]
        if silent:
            raise Lost(f"{', '.join(map(str, silent))} was stopped or hung {silent[0].where}, while the others ended")
        # Who only lost another is not to blame, nor whom TensorFlow itself ended.
        guilt = {LEFT_ALONE: 2, -signal.SIGABRT: 1}
        for worker in sorted(bad, key=lambda one: guilt.get(one.code or 0, 0)):
            if worker.code == LEFT_ALONE:
                raise Lost(f"{worker} lost the others {worker.where}: {worker.told.get('lost', '')}")
            raise Lost(f"{worker} {_end(worker.code or 0)} {worker.where}")


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
