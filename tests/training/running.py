"""A training of workers in another process, which a test can interrupt."""

import csv
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from tests.training.fixtures import LONG_CHECKPOINT_STEPS
from tests.training.outcomes import free_addresses

from mlimages.launch.tf_config import ClusterTask
from mlimages.training.loop import LOGGED_STEPS

PATIENCE_SECONDS = 600.0
# A row of the log precedes the checkpoint after the same step; the next row shows that the checkpoint is complete.
FIRST_CHECKPOINT_SAVED = LONG_CHECKPOINT_STEPS + LOGGED_STEPS

TRAINS = """
import json, os, sys
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.train.run import train

params, machine, tfrecords, out = json.loads(sys.argv[1])
try:
    print("trained", train(Train(**params), Machine(**machine), tfrecords=tfrecords, out=out))
except UserError as error:
    print(f"UserError: {error}")
"""

# Reports what a worker reports, and runs its program of `sys.argv[1:]`.
ACTOR = """
import json, os, pathlib, signal, sys, threading, time
from mlimages.launch.worker import report

task = json.loads(sys.stdin.readline())
work, index = pathlib.Path(task["jobs"][0]["work"]), task["index"]
print("worker", index, "starts")

def join():
    report(address=f"here:{index + 1}")
    json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    report(plan=f"plan of {index}")

def step(*numbers):
    for number in numbers:
        report(entered=number)

# A supervisor has received all that a worker sent before a line in the worker's log.
def logged(index, line):
    path = work / "workers" / f"worker-{index}.log"
    return path.read_text().count(f"] {line}\\n") if path.exists() else 0

def barrier():
    ready = logged(index, "ready") + 1  # earlier ones are of earlier starts
    print("ready", flush=True)
    while not all(logged(index, "ready") >= ready for index in range(len(sys.argv) - 1)):
        time.sleep(0.02)

def sleep():
    time.sleep(60)

exec(sys.argv[1 + index])
"""


class Running:
    """A training of two workers in `scratch`, by `command`, which runs `TRAINS`."""

    def __init__(self, command: list[str], scratch: Path) -> None:
        self._scratch = scratch
        self._before = len(self.pids(0))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def pids(self, index: int) -> list[int]:
        """The processes of worker `index`, the current one last."""
        return [int(pid) for pid in re.findall(r"process (\d+) of ", self.log(index))]

    def step(self) -> int:
        rows = [list(csv.DictReader(path.open())) for path in self._scratch.glob("train/*/training.csv")]
        return int(rows[0][-1]["step"]) if rows and rows[0] else 0

    def written(self, name: str) -> int:
        """The time when a file of the result was written; 0 if it was not."""
        return max((path.stat().st_mtime_ns for path in self._scratch.glob(f"train/*/out/{name}")), default=0)

    def wait(self, start: int, condition: Callable[[], bool]) -> None:
        """Return when the workers have been started this number of times, and a condition holds."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while any(len(self.pids(index)) < self._before + start for index in range(2)) or not condition():
            assert time.monotonic() < ends and self.process.poll() is None, self.finish()
            time.sleep(0.02)

    def log(self, index: int) -> str:
        return "".join(path.read_text() for path in self._scratch.glob(f"train/*/workers/worker-{index}.log"))

    def strike(self, index: int, number: signal.Signals) -> None:
        os.kill(self.pids(index)[-1], number)

    def seconds_to_end(self, start: int) -> float:
        """The seconds until all processes of the start of this number have ended."""
        began, pids = time.monotonic(), [self.pids(index)[self._before + start - 1] for index in range(2)]
        self.wait(start, lambda: not any(map(psutil.pid_exists, pids)))
        return time.monotonic() - began

    def finish(self) -> str:
        said = self.process.communicate(timeout=PATIENCE_SECONDS)[0]
        assert not any(psutil.pid_exists(pid) for index in range(2) for pid in self.pids(index))
        return said


def with_tf_config(commands: list[list[str]]) -> list[str]:
    """What as many workers as commands say, each of which finds its place in TF_CONFIG."""
    addresses = free_addresses(len(commands))
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, "TF_CONFIG": ClusterTask(addresses, index).as_json()})
               for index, command in enumerate(commands)]
    return [worker.communicate(timeout=PATIENCE_SECONDS)[0] for worker in workers]
