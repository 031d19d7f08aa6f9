"""Workers on the nodes of a SLURM allocation, each in its own job step."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.signals import TrainingStopped
from mlimages.launch.base import WORKER_COMMAND, ChildProcess, OnOutput, worker_environment
from mlimages.launch.messages import parse_line

# srun's exit code for a step that a signal ended is this plus the signal's number.
SIGNAL_EXIT = 128
TOOL_SECONDS, END_SECONDS = 30.0, 5.0  # for a command of SLURM to answer; for srun to end after its step
# The variable names a file. It is created if SIGTERM stopped the training: cluster/train.slurm then requeues its job.
STOPPED_FILE = "MLIMAGES_STOPPED_FILE"


class SrunProcess(ChildProcess):
    """A worker that srun runs as a job step.

    Signals are sent to the step with scancel: SIGKILL to srun would leave the worker running.
    """

    def __init__(self, command: list[str], environment: dict[str, str], on_output: OnOutput) -> None:
        self._step = ""

        def convert(kind: str, content: Any) -> None:
            if kind == "exit" and content - SIGNAL_EXIT in [*signal.Signals]:
                content = SIGNAL_EXIT - content
            if kind == "out" and (report := parse_line(content)) and report.slurm_step:
                self._step = f"{os.environ['SLURM_JOB_ID']}.{report.slurm_step}"
            on_output(kind, content)

        super().__init__(command, environment, convert)

    def signal(self, number: int) -> None:
        if not self._step:
            super().signal(number)
            return
        try:
            run_tool("scancel", f"--signal={signal.Signals(number).name.removeprefix('SIG')}", self._step)
        except UserError:
            if not self.has_ended(END_SECONDS):
                raise


class SlurmLauncher:
    """Starts one worker on each node of the allocation in which this process runs."""

    def __init__(self) -> None:
        nodes = os.environ.get("SLURM_JOB_NODELIST")
        if not nodes or shutil.which("srun") is None:
            raise UserError("machine.launcher is slurm, but this is no SLURM allocation (SLURM_JOB_NODELIST is not "
                            "set, or srun is missing); submit cluster/train.slurm with sbatch, or begin with salloc")
        self._nodes = run_tool("scontrol", "show", "hostnames", nodes).split()
        self.indices = list(range(len(self._nodes)))

    def host(self, index: int) -> str:
        """The node's communication address, NodeAddr."""
        addresses = run_tool("sinfo", "--noheader", f"--nodes={self._nodes[index]}", "--format=%o").split()
        return addresses[0] if addresses else self._nodes[index]

    def start(self, index: int, on_output: OnOutput) -> SrunProcess:
        srun = ["srun", "--nodes=1", "--ntasks=1", "--overlap", "--unbuffered", "--cpu-bind=none",
                f"--nodelist={self._nodes[index]}", f"--job-name=worker-{index}"]
        return SrunProcess([*srun, *WORKER_COMMAND], worker_environment(), on_output)


@contextlib.contextmanager
def slurm_launcher(machine: Machine) -> Iterator[SlurmLauncher]:
    """The launcher. If SIGTERM stops the training in the block, it creates the file that STOPPED_FILE names."""
    try:
        yield SlurmLauncher()
    except TrainingStopped as stopped:
        path = os.environ.get(STOPPED_FILE)
        if path and stopped.signal == signal.SIGTERM.name:
            Path(path).touch()
        raise


def run_tool(*command: str) -> str:
    """The output of a command of SLURM. Raises UserError, with its error output, if it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TOOL_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise UserError(f"`{' '.join(command)}` did not answer within {TOOL_SECONDS:g} s; run the same command to "
                        f"continue once `scontrol ping` says that SLURM's controller is up") from None
    if done.returncode:
        raise UserError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
