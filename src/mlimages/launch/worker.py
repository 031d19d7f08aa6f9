"""One worker: agrees with the others, then trains with them.

    python -m mlimages.launch.worker

Its supervisor writes a line of JSON to its input: what to do, and, once all have told their addresses, another: where
all are. When the input ends, so does the worker. What it tells its supervisor are lines of its output with MARK.
"""

import dataclasses
import faulthandler
import json
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.launch.agreement import agree, facts
from mlimages.launch.tf_config import NAME, Cluster, hold, host_port, read_environment
from mlimages.training.distribution import WorkerRole

MARK = "\x1emlimages "
# How a worker ends: by a mistake of the user, because another worker is lost, because it was told to stop.
REFUSED, LEFT_ALONE, STOPPED = 2, 3, 4
# What TensorFlow writes above an error of a graph, and what begins one that came from an exchange.
TRACE = re.compile(r"^(Graph execution error:|Detected at node .*| +File .*)$", re.MULTILINE)
ABORTED = "Collective ops is aborted by"


def tell(**facts: Any) -> None:
    """One line for the supervisor."""
    if facts.keys() & {"entered", "trained"}:
        faulthandler.cancel_dump_traceback_later()
    print(f"\n{MARK}{json.dumps(facts)}", flush=True)


def task_of(params: Train, machine: Machine, *, tfrecords: Path, work: Path) -> dict[str, Any]:
    """What a worker is told to do, but for its index and the host at which the others reach it."""
    return {"params": dataclasses.asdict(params), "machine": dataclasses.asdict(machine),
            "tfrecords": str(tfrecords.resolve()), "work": str(work.resolve())}


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    task = json.loads(sys.stdin.readline())
    params, machine = Train(**task["params"]), Machine(**task["machine"])
    tfrecords, work = Path(task["tfrecords"]), Path(task["work"])
    try:
        cluster = _join(task["index"], task["host"], facts(params, machine, tfrecords, work), machine)
        os.environ[NAME] = cluster.as_json()
        # While TensorFlow waits for another worker, nothing else in Python could end this one.
        faulthandler.dump_traceback_later(machine.start_timeout, exit=True)
        _train(params, machine, tfrecords, work, WorkerRole(cluster.own, len(cluster.addresses), tell))
    except UserError as error:
        tell(error=str(error))
        _leave(REFUSED)


def _join(index: int, host: str | None, own: Any, machine: Machine) -> Cluster:
    """Find the others, and agree with them."""
    if host is None:
        cluster = read_environment()
        held = hold(host_port(cluster.addresses[cluster.own])[1], f"worker {cluster.own}")
        _introduce(cluster.addresses[cluster.own])
    else:
        held = hold(0, f"worker {index}")
        _introduce(f"{host}:{held.getsockname()[1]}")
        cluster = Cluster(json.loads(sys.stdin.readline() or sys.exit(1)), index)
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    agree(cluster, own, held, machine.start_timeout)
    return cluster


def _introduce(address: str) -> None:
    tell(address=address, step=os.environ.get("SLURM_STEP_ID"))
    print(f"process {os.getpid()} of {socket.gethostname()} is at {address}", flush=True)


def _train(params: Train, machine: Machine, tfrecords: Path, work: Path, role: WorkerRole) -> None:
    import tensorflow as tf

    from mlimages.training.loop import Stopped, fit

    try:
        kept = fit(params, machine, tfrecords=tfrecords, work=work, role=role)  # noqa: F841
        _leave(0)
    except Stopped as told:
        tell(stopped=str(told))
        _leave(STOPPED)
    except tf.errors.OpError as error:
        print(error, file=sys.stderr)
        what = TRACE.sub("", str(error.message)).strip().partition("\n")[0]
        # What aborts the exchange on one worker may reach the others as the same error.
        own = isinstance(error, (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError))
        if own and ABORTED not in what:
            raise UserError(f"worker {role.index} failed by itself: {what}; where it is memory that it lacks, lower "
                            f"train.batch or raise train.gradient_accumulation, else please report this with its "
                            f"log") from None
        tell(lost=what)
        _leave(LEFT_ALONE)


def _leave(code: int) -> None:
    """End this process at once: TensorFlow would wait for others that have ended, and for batches that nobody needs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with_supervisor() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
