"""Workers on this machine train as one process would; whatever happens to one of them, all end or go on together."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.train.conftest import write_tfrecords
from tests.train.outcomes import as_json, assert_close, free_addresses, log

from mlimages.errors import UserError
from mlimages.params import Machine, Train
from mlimages.train import train
from mlimages.train.launch.tf_config import Cluster

pytestmark = pytest.mark.cluster
PATIENCE_SECONDS = 240.0
LONG_STEPS = 150

TRAINS = """
import json, os, sys
from mlimages.errors import UserError
from mlimages.params import Machine, Train
from mlimages.train import train

params, machine, tfrecords, out = json.loads(sys.argv[1])
try:
    print("trained", train(Train(**params), Machine(**machine), tfrecords=tfrecords, out=out))
except UserError as error:
    print(f"UserError: {error}")
"""

# The hints and the lengths of the messages in which two workers add up six tensors of 1 MiB.
PACKS = """
import dataclasses, json, sys
import tensorflow as tf
from mlimages.params import Machine, Train
from mlimages.train.strategy import all_reduce, build_strategy

params, machine, changes = json.loads(sys.argv[1])
for change in changes:
    strategy = build_strategy(Train(**params), dataclasses.replace(Machine(**machine), **change))
    exchange = tf.function(lambda: strategy.run(lambda: all_reduce([tf.ones(2**18)] * 6)), autograph=False)
    found = [(one.get_attr("communication_hint").decode(), one.inputs[0].shape[0] >> 18)
             for one in exchange.get_concrete_function().graph.get_operations() if one.type == "CollectiveReduceV2"]
    print("found", json.dumps(found))
"""

# Python runs it in every process that starts with it on its path: by these signals a worker is stuck in Python for
# ever, or finds a weight of its replica another one, or no number.
FAULTS = """
import gc, signal, time

def stick(*_):
    time.sleep(1e6)

def spoil(number, _):
    [trainer] = [one for one in gc.get_objects() if type(one).__name__ == "Trainer"]
    weight = trainer.model.trainable_variables[0]
    weight.assign(weight.value * {signal.SIGHUP: float("nan"), signal.SIGWINCH: 1.5}[number])

signal.signal(signal.SIGUSR2, stick)
signal.signal(signal.SIGHUP, spoil)
signal.signal(signal.SIGWINCH, spoil)
"""


@pytest.fixture(scope="module")
def cluster_train(small_train: Train) -> Train:
    """10 steps of 12 images, which two and three workers share alike; small ones, which keep roundings small."""
    return dataclasses.replace(small_train, strategy="multi_worker", batch=12, batch_norm="synchronized",
                               learning_rate=0.01)


@pytest.fixture(scope="module")
def long_train(cluster_train: Train) -> Train:
    """Long enough for a test to look at, and to strike."""
    return dataclasses.replace(cluster_train, epochs=None, steps=LONG_STEPS, checkpoint_steps=10, learning_rate=0.01,
                               validation_images=0)


@pytest.fixture(scope="module")
def cluster_machine(small_machine: Callable[..., Machine]) -> Callable[..., Machine]:
    def build(scratch: Path, **changes: Any) -> Machine:
        return dataclasses.replace(small_machine(scratch), **{"start_timeout": 200.0, **changes})

    return build


@pytest.fixture(scope="module")
def uneven_tfrecords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 records in two shards, which no number of workers shares evenly."""
    return write_tfrecords(tmp_path_factory.mktemp("uneven_tfrecords"), [13, 10])


@pytest.fixture(scope="module")
def alone(uneven_tfrecords: Path, cluster_train: Train, small_machine: Callable[..., Machine],
          tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by one process."""
    root = tmp_path_factory.mktemp("alone")
    return train(dataclasses.replace(cluster_train, strategy="one_device"), small_machine(root / "scratch"),
                 tfrecords=uneven_tfrecords, out=root / "model")


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_take_the_steps_of_one_process_also_where_there_are_fewer_shards_than_workers(
        alone: Path, uneven_tfrecords: Path, cluster_train: Train, cluster_machine: Callable[..., Machine],
        tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int) -> None:
    out = train(cluster_train, cluster_machine(tmp_path / "scratch", train_workers=workers), tfrecords=uneven_tfrecords,
                out=tmp_path / "model")
    assert_close(out, alone)
    losses, expected = ([float(row["loss"]) for row in log(folder)] for folder in (out, alone))
    np.testing.assert_allclose(losses, expected, rtol=1e-2)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["replicas"], metrics["steps"]) == (workers, 10)
    profile = json.loads((out / "profile.json").read_text())
    assert all(profile[f"{name}_seconds"] > 0 for name in ("step", "exchange", "input"))
    said, share = capfd.readouterr().out, 12 // workers
    for index in range(workers):
        assert f"worker {index} of {workers}: images {index * share} to {index * share + share - 1} of the 12 of " \
               f"every step, steps 1 to 10, from 2 shards" in said
        [text] = [path.read_text() for path in tmp_path.glob(f"scratch/train/*/workers/worker-{index}.log")]
        assert all(line.startswith(f"[worker {index}] ") for line in text.splitlines())
    assert "begin again" not in said


class Running:
    """A training of two workers in a process of its own, at which a test may strike."""

    def __init__(self, command: list[str], scratch: Path) -> None:
        self._scratch = scratch
        self._before = len(self.pids(0))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def pids(self, index: int) -> list[int]:
        """The processes that were worker `index`, the present one last."""
        return [int(pid) for pid in re.findall(r"process (\d+) of ", self.log(index))]

    def step(self) -> int:
        rows = [list(csv.DictReader(path.open())) for path in self._scratch.glob("train/*/training.csv")]
        return int(rows[0][-1]["step"]) if rows and rows[0] else 0

    def written(self, name: str) -> int:
        """When a file of the result was written, 0 where it was not."""
        return max((path.stat().st_mtime_ns for path in self._scratch.glob(f"train/*/out/{name}")), default=0)

    def wait(self, start: int, condition: Callable[[], bool]) -> None:
        """Return when the workers are in their start of this number, and something holds."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while any(len(self.pids(index)) < self._before + start for index in range(2)) or not condition():
            assert time.monotonic() < ends and self.process.poll() is None, self.finish()
            time.sleep(0.02)

    def log(self, index: int) -> str:
        return "".join(path.read_text() for path in self._scratch.glob(f"train/*/workers/worker-{index}.log"))

    def strike(self, index: int, number: signal.Signals) -> None:
        os.kill(self.pids(index)[-1], number)

    def finish(self) -> str:
        said = self.process.communicate(timeout=PATIENCE_SECONDS)[0]
        assert not any(psutil.pid_exists(pid) for index in range(2) for pid in self.pids(index))
        return said


STRIKES = [
    (1, signal.SIGKILL, r"worker 1 \(\S+\) was killed by SIGKILL (in|after) step \d+; training resumes from .*step-0"),
    (0, signal.SIGKILL, r"worker 0, the chief \(\S+\) was killed by SIGKILL (in|after) step \d+; training resumes"),
    (1, signal.SIGSTOP, r"worker 1 \(\S+\) was stopped or hung (in|after) step \d+"),
    (0, signal.SIGSTOP, r"worker 0, the chief \(\S+\) was stopped or hung (in|after) step \d+"),
    (1, signal.SIGTERM, r"worker 1 \S+ was told to end: SIGTERM stopped the training after step \d+"),
    (0, signal.SIGTERM, r"worker 0, the chief \S+ was told to end: SIGTERM stopped the training after step \d+"),
    (1, signal.SIGUSR2, r"worker 1 \(\S+\) hung (in|after) step \d+ for \d+ s")]


def test_whatever_happens_to_a_worker_all_begin_again_and_end_with_the_weights_of_a_straight_training(
        small_tfrecords: Path, long_train: Train, cluster_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = train(long_train, cluster_machine(tmp_path / "a"), tfrecords=small_tfrecords, out=tmp_path / "straight")
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    machine = cluster_machine(tmp_path / "scratch", max_restarts=len(STRIKES), step_timeout=20.0)
    out = tmp_path / "model"
    command = small_python(TRAINS, as_json(long_train, machine, small_tfrecords, out))
    running, step = Running(command, tmp_path / "scratch"), 10

    for start, (index, number, _) in enumerate(STRIKES, start=1):
        running.wait(start, lambda: running.step() >= step)  # noqa: B023
        running.strike(index, number)
        step = running.step() + 5
    running.wait(len(STRIKES) + 1, lambda: running.step() >= step)
    running.process.send_signal(signal.SIGTERM)
    said = running.finish()
    for expected in (*(message for _, _, message in STRIKES), f"restart {len(STRIKES)} of {len(STRIKES)}",
                     r"the end of .*worker-1.log\n\[worker 1\] ",
                     rf"UserError: SIGTERM stopped the training after step \d+ of {LONG_STEPS}; .*run the same "):
        assert re.search(expected, said), (expected, said[-6000:])
    assert "in stick" in running.log(1), "the log tells where it hung"

    # What differs, or is no number, on one replica stops all, and is not tried again.
    for number, expected in [(signal.SIGWINCH, r"the workers have different weights after step \d+"),
                             (signal.SIGHUP, r"the loss is nan at step \d+, .*last good checkpoint is kept")]:
        step, running = running.step(), Running(command, tmp_path / "scratch")
        running.wait(1, lambda: running.step() > step)  # noqa: B023
        running.strike(1, number)
        said = running.finish()
        assert re.search(f"UserError: {expected}", said), said
        assert "begin again" not in said

    # The chief may not end before all is written; what happens to another one then is no matter.
    running = Running(command, tmp_path / "scratch")
    running.wait(1, lambda: running.written("model.keras") > 0)
    running.strike(0, signal.SIGKILL)
    killed = running.written("model.keras")
    running.wait(2, lambda: running.written("model.keras") > killed)
    running.strike(1, signal.SIGSTOP)
    running.wait(2, lambda: running.written("metrics.json") > 0)
    running.strike(1, signal.SIGKILL)
    said = running.finish()
    assert re.search(rf"the chief \S+ was killed by SIGKILL after step {LONG_STEPS}; .* restart 1 of", said), said
    assert "restart 2 of" not in said and f"trained {out}" in said, said
    assert log(out)[-1]["step"] == str(LONG_STEPS)
    assert_close(out, straight)


def test_a_worker_that_dies_at_every_start_ends_the_training_after_so_many_restarts(
        small_tfrecords: Path, cluster_train: Train, cluster_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    with pytest.raises(UserError, match="exit code 1 before its first step; there is no checkpoint.*After 1 restarts"):
        train(cluster_train, cluster_machine(tmp_path / "scratch", max_restarts=1), tfrecords=small_tfrecords,
              out=tmp_path / "model")
    assert "restart 1 of 1" in (said := capfd.readouterr().out) and "nonsense" in said, "the log's end tells why"


def test_where_tf_config_tells_of_the_workers_only_the_chief_publishes(
        alone: Path, uneven_tfrecords: Path, cluster_train: Train, cluster_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    addresses = free_addresses(2)
    # Folders of their own show who writes what.
    machines = [cluster_machine(tmp_path / f"scratch_{index}", launcher="environment") for index in range(2)]
    commands = [small_python(TRAINS, as_json(cluster_train, machine, uneven_tfrecords, tmp_path / f"model_{index}"))
                for index, machine in enumerate(machines)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             env={**os.environ, "TF_CONFIG": Cluster(addresses, index).as_json()})
            for index, command in enumerate(commands)]
    said = [one.communicate(timeout=PATIENCE_SECONDS)[0] for one in both]
    assert f"trained {tmp_path / 'model_0'}" in said[0], said[0]
    assert f"trained {tmp_path / 'scratch_1'}" in said[1], said[1]
    assert not (tmp_path / "model_1").exists()
    assert [path.name for path in (tmp_path / "scratch_1").rglob("*") if path.is_file()] == ["worker-1.log"]
    assert_close(tmp_path / "model_0", alone)


def test_gradients_travel_in_messages_of_so_many_mebibytes_by_the_communication_that_is_asked_for(
        cluster_train: Train, cluster_machine: Callable[..., Machine], small_python: Callable[..., list[str]],
        tmp_path: Path) -> None:
    changes = [{"collective": "ring", "pack_mib": 0}, {"collective": "auto", "pack_mib": 3}]
    task = json.dumps([dataclasses.asdict(cluster_train), dataclasses.asdict(cluster_machine(tmp_path)), changes])
    addresses = free_addresses(2)
    both = [subprocess.Popen(small_python(PACKS, task), stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "TF_CONFIG": Cluster(addresses, index).as_json()})
            for index in range(2)]
    for one in both:
        said = one.communicate(timeout=PATIENCE_SECONDS)[0].splitlines()
        found = [json.loads(line.removeprefix("found ")) for line in said if line.startswith("found ")]
        # A message ends with what makes it longer than that.
        assert found == [[["ring", 6]], [["auto", 4], ["auto", 2]]]
