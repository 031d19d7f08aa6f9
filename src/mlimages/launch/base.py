"""The interface of a launcher, which starts the worker processes and passes on their output and exit codes.

The launchers are the modules local, slurm and ray. Another cluster manager needs a module like these, a name in
`open_launcher` of the supervisor, and a value of `machine.launcher`.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import mlimages
from mlimages.core.signals import Interrupts, TrainingStopped
from mlimages.network.checkpoint_files import CHECKPOINTS, newest_checkpoint
from mlimages.training.jobs import TrainingJob

WORKER_COMMAND = [sys.executable, "-u", "-m", "mlimages.launch.worker"]
# Receives the output of a process, ("out", line) and ("err", line), and at its end ("exit", code), with the negative
# number of a signal that ended it.
OnOutput = Callable[[str, Any], None]


class WorkerProcess(Protocol):
    """A worker process that was started."""

    def send(self, line: str) -> None:
        """Write a line to its standard input."""

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""


class Launcher(Protocol):
    """Starts the workers of these indices."""

    indices: list[int]

    def host(self, index: int) -> str:
        """The host name or address at which the other workers reach a worker that was started."""

    def start(self, index: int, on_output: OnOutput) -> WorkerProcess:
        """Start a worker. `on_output` is called from other threads."""


class ChildProcess:
    """A process on this machine, in its own session, so that Ctrl-C reaches only the supervisor."""

    def __init__(self, command: list[str], environment: dict[str, str], on_output: OnOutput) -> None:
        self._popen = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE,  # noqa: S603
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                                       start_new_session=True)
        self.pid = self._popen.pid
        readers = [threading.Thread(target=_read, args=(pipe, kind, on_output), daemon=True)
                   for kind, pipe in (("out", self._popen.stdout), ("err", self._popen.stderr))]

        def wait() -> None:
            for reader in readers:
                reader.join()
            on_output("exit", self._popen.wait())

        for thread in [*readers, threading.Thread(target=wait, daemon=True)]:
            thread.start()

    def send(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it has ended, which its exit code says
            print(line, file=self._popen.stdin, flush=True)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def has_ended(self, seconds: float) -> bool:
        """Whether the process has ended. Waits for that up to `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return self._popen.returncode is not None


def _read(pipe: IO[str] | None, kind: str, on_output: OnOutput) -> None:
    for line in pipe or ():
        on_output(kind, line.rstrip("\n"))


def worker_environment() -> dict[str, str]:
    """The environment of this process, in which a worker imports this copy of the code."""
    source = str(Path(str(mlimages.__file__)).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])}


def resume_point(jobs: Sequence[TrainingJob]) -> str:
    """The checkpoint from which the first unfinished training resumes, as text for errors."""
    job = next((job for job in jobs if not job.finished), jobs[-1])
    found = newest_checkpoint(job.work / CHECKPOINTS)
    return f"training resumes from {found}" if found else "there is no checkpoint yet: training starts at step 1"


def stopped_early(interrupts: Interrupts) -> TrainingStopped:
    """The error for a signal before the first step, when there is nothing to save."""
    return TrainingStopped(f"{interrupts.received} stopped the training before its first step", interrupts.received)
