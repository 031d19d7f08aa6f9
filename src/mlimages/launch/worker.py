"""A worker process that a supervisor starts. It compares itself with the other workers, then trains with them.

    python -m mlimages.launch.worker

The supervisor writes two lines of JSON to its standard input: its task and, once all workers have reported their
addresses, the list of these. The worker ends when its input ends. Its reports are lines of its output (messages.py).
"""

import dataclasses
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.signals import TrainingStopped
from mlimages.launch.agreement import Facts, agree, close, facts
from mlimages.launch.messages import ExitCode, WorkerReport
from mlimages.launch.tf_config import NAME, ClusterTask, reserve_port
from mlimages.training.jobs import TrainingJob, WorkerRole


def report(**fields: Any) -> None:
    """Print a report for the supervisor."""
    found = WorkerReport(**fields)
    if found.entered or found.trained:
        faulthandler.cancel_dump_traceback_later()
    print(found.as_line(), flush=True)


def describe_task(jobs: Sequence[TrainingJob], machine: Machine) -> dict[str, Any]:
    """A worker's task as JSON values, without its index and its host."""
    return {"jobs": [job.as_json() for job in jobs], "machine": dataclasses.asdict(machine)}


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    task = json.loads(sys.stdin.readline())
    jobs, machine = [TrainingJob.from_json(job) for job in task["jobs"]], Machine(**task["machine"])
    try:
        place = _join(task["index"], task["host"], facts(jobs, machine), machine)
        os.environ[NAME] = place.as_json()
        # While TensorFlow waits for another worker, no Python code could end this process.
        faulthandler.dump_traceback_later(machine.start_timeout, exit=True)
        _train(jobs, machine, WorkerRole(place.index, len(place.addresses), report))
    except UserError as error:
        report(error=str(error))
        _exit(ExitCode.REFUSED)


def _join(index: int, host: str, own: Facts, machine: Machine) -> ClusterTask:
    """Report the address of this worker, receive those of all, and agree with the others."""
    listener = reserve_port(0, f"worker {index}")
    address = f"{host}:{listener.getsockname()[1]}"
    report(address=address, slurm_step=os.environ.get("SLURM_STEP_ID"))
    print(f"process {os.getpid()} of {socket.gethostname()} is at {address}", flush=True)
    place = ClusterTask(json.loads(sys.stdin.readline() or sys.exit(1)), index)
    threading.Thread(target=_exit_with_supervisor, daemon=True).start()
    close(agree(place, own, listener, machine.start_timeout), place)
    return place


def _train(jobs: Sequence[TrainingJob], machine: Machine, role: WorkerRole) -> NoReturn:
    # Keras imports these if they are installed, which takes a third of its time to start. No training uses them.
    sys.modules.update(dict.fromkeys(("matplotlib", "scipy", "sklearn")))  # type: ignore[arg-type]
    import tensorflow as tf

    from mlimages.training.distribution import first_line, own_failure
    from mlimages.training.loop import fit

    try:
        kept = fit(jobs, machine, role)  # noqa: F841
    except TrainingStopped as stopped:
        report(stopped=str(stopped), signal=stopped.signal)
        _exit(ExitCode.STOPPED)
    except tf.errors.OpError as error:
        print(error, file=sys.stderr)
        if message := own_failure(error, role):
            raise UserError(message) from None
        report(lost=first_line(error))
        _exit(ExitCode.PEER_LOST)
    _exit(0)


def _exit(code: int) -> NoReturn:
    """End this process at once. Otherwise TensorFlow would wait for other workers and for unused batches."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_with_supervisor() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
