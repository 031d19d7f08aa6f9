"""With machine.launcher: environment, each process is a worker. If one is lost, all others name it and end."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.training.fixtures import LONG_STEPS
from tests.training.outcomes import as_json, assert_close, free_addresses, log
from tests.training.running import FIRST_CHECKPOINT_SAVED, PATIENCE_SECONDS
from tests.waiting import wait_for

from mlimages.core.params import Machine, Train
from mlimages.launch.messages import ExitCode
from mlimages.launch.tf_config import ClusterTask
from mlimages.network.checkpoint_files import newest_checkpoint
from mlimages.train.run import train

pytestmark = pytest.mark.cluster

# Ends with exit code 1 and the error, as the stage does. In all processes, SIGUSR2 blocks Python for ever.
PROGRAM = """
import json, os, signal, sys, time
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.train.run import train

signal.signal(signal.SIGUSR2, lambda *_: time.sleep(1e6))
params, machine, tfrecords, out = json.loads(sys.argv[1])
try:
    print("trained", train(Train(**params), Machine(**machine), tfrecords=tfrecords, out=out), flush=True)
except UserError as error:
    print(f"UserError: {error}", flush=True)
    sys.exit(1)
"""


class Workers:
    """Processes that train together, worker 0 first, and their outputs in `folder`."""

    def __init__(self, folder: Path, programs: list[list[str]], *, chief_type: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        addresses = free_addresses(len(programs))
        self._folder, self._outputs = folder, [folder / f"output-{index}" for index in range(len(programs))]
        self.processes = []
        for index, program in enumerate(programs):
            environment = {**os.environ, "TF_CONFIG": ClusterTask(addresses, index, chief_type).as_json()}
            with self._outputs[index].open("w") as output:
                self.processes.append(subprocess.Popen(program, env=environment, stdout=output,
                                                       stderr=subprocess.STDOUT))

    def output(self, index: int) -> str:
        return self._outputs[index].read_text()

    def step(self) -> int:
        rows = [log(path.parent) for path in self._folder.glob("scratch*/train/*/training.csv")]
        return int(rows[0][-1]["step"] or 0) if rows and rows[0] else 0

    def wait_for_step(self, step: int) -> None:
        def reached() -> bool:
            assert all(process.poll() is None for process in self.processes), [self.output(0), self.output(1)]
            return self.step() >= step

        wait_for(reached, seconds=PATIENCE_SECONDS)

    def finish(self, *indices: int) -> list[tuple[int, str]]:
        """The exit codes and outputs of these workers, or of all."""
        chosen = indices or range(len(self.processes))
        return [(self.processes[index].wait(PATIENCE_SECONDS), self.output(index)) for index in chosen]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def start(small_tfrecords: Path, long_train: Train, cluster_machine: Callable[..., Machine],
          small_python: Callable[..., list[str]], tmp_path: Path) -> Iterator[Callable[..., Workers]]:
    """Start two workers of one training, which resumes from earlier ones."""
    started: list[Workers] = []

    def run(*, chief_type: bool = False, **changes: Any) -> Workers:
        machine = cluster_machine(tmp_path / "scratch", launcher="environment", **changes)
        program = small_python(PROGRAM, as_json(long_train, machine, small_tfrecords, tmp_path / "model"))
        started.append(Workers(tmp_path, [program] * 2, chief_type=chief_type))
        return started[-1]

    yield run
    for workers in started:
        workers.kill()


def test_each_process_trains_in_place_and_only_the_chief_publishes(
        small_tfrecords: Path, cluster_train: Train, cluster_machine: Callable[..., Machine],
        small_machine: Callable[..., Machine], small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    import dataclasses

    alone = train(dataclasses.replace(cluster_train, strategy="one_device"), small_machine(tmp_path / "alone"),
                  tfrecords=small_tfrecords, out=tmp_path / "straight")
    # Folders of their own show who writes what.
    machines = [cluster_machine(tmp_path / f"scratch_{index}", launcher="environment") for index in range(2)]
    workers = Workers(tmp_path, [
        small_python(PROGRAM, as_json(cluster_train, machine, small_tfrecords, tmp_path / f"model_{index}"))
        for index, machine in enumerate(machines)], chief_type=True)
    (code, chief), (other_code, other) = workers.finish()
    assert (code, other_code) == (0, 0), (chief, other)
    assert f"trained {tmp_path / 'model_0'}" in chief and f"trained {tmp_path / 'scratch_1'}" in other
    assert "worker 0 of 2: images 0 to 5 of the 12" in chief and "worker 1 of 2: images 6 to 11 of the 12" in other
    assert not (tmp_path / "model_1").exists()
    written = {path.parent.name for path in (tmp_path / "scratch_1").rglob("*") if path.is_file()}
    assert written == {"sound"}, "no more than a note of the records that it found to be sound"
    assert_close(tmp_path / "model_0", alone)


STRIKES = [
    (1, signal.SIGKILL, r"worker 1 \(\S+\) was lost (in|after) step \d+: its connection was closed"),
    (0, signal.SIGKILL, r"worker 0, the chief \(\S+\) was lost (in|after) step \d+: its connection was closed"),
    (1, signal.SIGSTOP, r"worker 1 \(\S+\) (was lost|hung) (in|after) step \d+"),
    (0, signal.SIGSTOP, r"worker 0, the chief \(\S+\) was lost (in|after) step \d+: it sent nothing"),
]


def test_a_lost_worker_is_named_by_the_other_which_ends_and_the_same_command_resumes(
        start: Callable[..., Workers], tmp_path: Path) -> None:
    step = FIRST_CHECKPOINT_SAVED
    for index, number, expected in STRIKES:
        workers = start(step_timeout=20.0)
        workers.wait_for_step(step)
        workers.processes[index].send_signal(number)
        [(code, said)] = workers.finish(1 - index)
        assert code == 1, said
        assert re.search(rf"^UserError: {expected}.*; training resumes from \S+step-\d+; run the same command on all "
                         rf"machines to continue$", said, re.M), said
        assert step == FIRST_CHECKPOINT_SAVED or "resumed after step " in said
        workers.kill()
        step = workers.step() + 5
    workers = start()
    workers.wait_for_step(step)
    workers.processes[1].send_signal(signal.SIGTERM)
    for (code, said), who in zip(workers.finish(), ("A signal to another worker", "SIGTERM"), strict=True):
        assert code == 1, said
        assert re.search(rf"UserError: {who} stopped the training after step \d+ of {LONG_STEPS}; its checkpoint is "
                         r"kept", said), said
    checkpoint = newest_checkpoint(next(tmp_path.glob("scratch/train/*/checkpoints")))
    assert checkpoint and f"after step {int(checkpoint.name.removeprefix('step-'))} of" in said


def test_a_process_that_hangs_in_python_is_named_to_all_and_ended_with_the_message(start: Callable[..., Workers],
                                                                                ) -> None:
    workers = start(step_timeout=10.0)
    workers.wait_for_step(FIRST_CHECKPOINT_SAVED)
    workers.processes[1].send_signal(signal.SIGUSR2)
    (code, said), (stuck_code, stuck) = workers.finish()
    expected = r"^UserError: .*worker 1 \(\S+\) hung (in|after) step \d+ for \d+ s; training resumes from "
    assert code == 1 and re.search(expected, said, re.M), said
    assert stuck_code == ExitCode.PEER_LOST and re.search(expected, stuck, re.M), stuck
    assert "in <lambda>" in stuck, "its output shows where it hung"
    assert not any(psutil.pid_exists(process.pid) for process in workers.processes)
