"""How a worker is started and ended: on this machine, on the nodes of a SLURM allocation, or as TF_CONFIG says."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import mlimages
from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.signals import Interrupts

COMMAND = [sys.executable, "-u", "-m", "mlimages.launch.worker"]
# What a process says: ("out", line), ("err", line), and at last ("exit", its code, negative for a signal).
Heard = Callable[[str, Any], None]
SIGNALLED = 128  # by which srun's exit code is more than the signal that ended what it ran
# In which one of SLURM's commands answers, and a process ends whose work has ended.
TOOL_SECONDS, END_SECONDS = 30.0, 5.0


class Stopped(UserError):
    """A signal ends the training."""


def stopped_early(interrupts: Interrupts) -> Stopped:
    """What to raise where the signal came before the training's first step, with nothing to save."""
    return Stopped(f"{interrupts.received} stopped the training before its first step")


class Process(Protocol):
    """A worker that was started."""

    def send(self, line: str) -> None:
        """Write a line to its input."""

    def signal(self, number: int) -> None:
        """Send it a signal; nothing, where it has ended."""


class Launcher(Protocol):
    """Starts the workers `indices`, each of which the others reach at its host; None: TF_CONFIG says where."""

    indices: list[int]

    def host(self, index: int) -> str | None: ...

    def start(self, index: int, heard: Heard) -> Process: ...


class Child:
    """A process of this machine, in a session of its own: Ctrl-C is for its supervisor alone."""

    def __init__(self, command: list[str], environment: dict[str, str], heard: Heard) -> None:
        self._popen = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE,  # noqa: S603
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                                       start_new_session=True)
        self.pid = self._popen.pid
        threads = [threading.Thread(target=_read, args=(pipe, kind, heard), daemon=True)
                   for kind, pipe in (("out", self._popen.stdout), ("err", self._popen.stderr))]

        def end() -> None:
            for thread in threads:
                thread.join()
            heard("exit", self._popen.wait())

        for thread in [*threads, threading.Thread(target=end, daemon=True)]:
            thread.start()

    def send(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it is gone, as its end tells
            print(line, file=self._popen.stdin, flush=True)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def ends(self, seconds: float) -> bool:
        """Whether it has ended, or does so in this time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return self._popen.returncode is not None


def _read(pipe: Any, kind: str, heard: Heard) -> None:
    for line in pipe:
        heard(kind, line.rstrip("\n"))


class Local:
    """`machine.train_workers` on this machine, which share its GPUs, or else its cores, evenly."""

    def __init__(self, machine: Machine) -> None:
        self.indices = list(range(machine.train_workers))
        self._cores = sorted(os.sched_getaffinity(0))
        self._gpus = _gpus()
        if self._gpus and len(self._gpus) % len(self.indices):
            raise UserError(f"machine.train_workers is {len(self.indices)}, which cannot share {len(self._gpus)} GPUs "
                            f"evenly")

    def host(self, index: int) -> str:
        return "127.0.0.1"

    def start(self, index: int, heard: Heard) -> Process:
        workers = len(self.indices)
        environment = own_environment()
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[index::workers])
        child = Child(COMMAND, environment, heard)
        if not self._gpus and len(self._cores) >= workers:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(child.pid, self._cores[index::workers])
        return child


class Step(Child):
    """A step of a SLURM job. A signal that cannot be caught would end srun, and not what it runs."""

    def __init__(self, command: list[str], environment: dict[str, str], heard: Heard) -> None:
        self._name = ""

        def listen(kind: str, what: Any) -> None:
            if kind == "exit" and what - SIGNALLED in [*signal.Signals]:
                what = SIGNALLED - what
            if kind == "out" and (match := re.search(r'"step": "(\d+)"', what)):
                self._name = f"{os.environ['SLURM_JOB_ID']}.{match[1]}"
            heard(kind, what)

        super().__init__(command, environment, listen)

    def signal(self, number: int) -> None:
        if not self._name:
            super().signal(number)
            return
        try:
            tool("scancel", f"--signal={signal.Signals(number).name.removeprefix('SIG')}", self._name)
        except UserError:
            if not self.ends(END_SECONDS):
                raise


class Slurm:
    """One on each node of the allocation in which this runs."""

    def __init__(self, machine: Machine) -> None:
        nodes = os.environ.get("SLURM_JOB_NODELIST")
        if not nodes or shutil.which("srun") is None:
            raise UserError("machine.launcher is slurm, but this is no SLURM allocation (SLURM_JOB_NODELIST is not "
                            "set, or srun is missing); submit cluster/train.slurm with sbatch, or begin with salloc")
        self._nodes = tool("scontrol", "show", "hostnames", nodes).split()
        self.indices = list(range(len(self._nodes)))

    def host(self, index: int) -> str:
        shown = tool("scontrol", "--oneliner", "show", "node", self._nodes[index])
        match = re.search(r"\bNodeAddr=(\S+)", shown)
        return match[1] if match else self._nodes[index]

    def start(self, index: int, heard: Heard) -> Process:
        srun = ["srun", "--nodes=1", "--ntasks=1", "--overlap", "--unbuffered", "--cpu-bind=none",
                f"--nodelist={self._nodes[index]}", f"--job-name=worker-{index}"]
        return Step([*srun, *COMMAND], own_environment(), heard)


@contextlib.contextmanager
def open_launcher(machine: Machine, interrupts: Interrupts) -> Iterator[Launcher]:
    """What `machine.launcher` names."""
    if machine.launcher == "ray":
        from mlimages.launch.ray_launcher import on_ray

        with on_ray(machine) as launcher:
            yield launcher
    elif machine.launcher == "environment":
        from mlimages.launch.on_tf_config import on_tf_config

        with on_tf_config(machine, interrupts) as launcher:
            yield launcher
    else:
        kinds: dict[str, Callable[[Machine], Launcher]] = {"local": Local, "slurm": Slurm}
        yield kinds[machine.launcher](machine)


def own_environment() -> dict[str, str]:
    """That of this process, in which a worker finds this copy of the code."""
    source = str(Path(str(mlimages.__file__)).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])}


def tool(*command: str) -> str:
    """The output of one of SLURM's commands; UserError with its own words where it fails, or for none in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TOOL_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise UserError(f"`{' '.join(command)}` did not answer within {TOOL_SECONDS:g} s; run the same command to "
                        f"continue once `scontrol ping` says that SLURM's controller is up") from None
    if done.returncode:
        raise UserError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without taking them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
