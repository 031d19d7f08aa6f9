"""Workers on this machine."""

import contextlib
import os
from pathlib import Path

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.launch import base
from mlimages.launch.base import ChildProcess, OnOutput, worker_environment


class LocalLauncher:
    """Starts `machine.train_workers` on this machine. They share its GPUs, or else its cores, evenly."""

    def __init__(self, machine: Machine) -> None:
        self.indices = list(range(machine.train_workers))
        self._cores = sorted(os.sched_getaffinity(0))
        self._gpus = _visible_gpus()
        if self._gpus and len(self._gpus) % len(self.indices):
            raise UserError(f"machine.train_workers is {len(self.indices)}, which cannot share {len(self._gpus)} GPUs "
                            f"evenly")

    def host(self, index: int) -> str:
        return "127.0.0.1"

    def start(self, index: int, on_output: OnOutput) -> ChildProcess:
        workers = len(self.indices)
        environment = worker_environment()
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[index::workers])
        child = ChildProcess(base.WORKER_COMMAND, environment, on_output)
        if not self._gpus and len(self._cores) >= workers:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(child.pid, self._cores[index::workers])
        return child


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES. Does not use TensorFlow, which would
    reserve them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
