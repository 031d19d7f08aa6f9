"""Workers on this machine train as one process does. If one of them fails, all end or all restart."""

import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from tests.training.fixtures import LONG_STEPS, write_tfrecords
from tests.training.outcomes import as_json, assert_close, log
from tests.training.running import FIRST_CHECKPOINT_SAVED, TRAINS, Running, with_tf_config

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.train.run import train

pytestmark = pytest.mark.cluster

# The hints and the lengths of the messages in which two workers add up six tensors of 1 MiB.
PACKS = """
import dataclasses, json, sys
import tensorflow as tf
from mlimages.core.params import Machine, Train
from mlimages.training.distribution import all_reduce, build_strategy

params, machine, changes = json.loads(sys.argv[1])
for change in changes:
    strategy = build_strategy(Train(**params), dataclasses.replace(Machine(**machine), **change))
    exchange = tf.function(lambda: strategy.run(lambda: all_reduce([tf.ones(2**18)] * 6)), autograph=False)
    found = [(one.get_attr("communication_hint").decode(), one.inputs[0].shape[0] >> 18)
             for one in exchange.get_concrete_function().graph.get_operations() if one.type == "CollectiveReduceV2"]
    print("found", json.dumps(found))
"""

# Python runs it in every process that starts with it on its path: by these signals a worker is stuck in Python for
# ever, fails in a step, or finds a weight of its replica another one, or no number.
FAULTS = """
import gc, signal, time

def stick(*_):
    time.sleep(1e6)

def fail(*_):
    # Asks for one more step than there are learning rates, of which TensorFlow finds none.
    import tensorflow as tf
    [trainer] = [one for one in gc.get_objects() if type(one).__name__ == "Trainer"]
    steps = trainer.steps_per_call
    trainer.train = lambda batches, rates, stop: trainer.call(
        batches, tf.zeros(steps), tf.constant(steps + 1), tf.constant(0.0))

def spoil(number, _):
    [trainer] = [one for one in gc.get_objects() if type(one).__name__ == "Trainer"]
    weight = trainer.model.trainable_variables[0]
    weight.assign(weight.value * {signal.SIGHUP: float("nan"), signal.SIGWINCH: 1.5}[number])

signal.signal(signal.SIGUSR2, stick)
signal.signal(signal.SIGPWR, fail)
signal.signal(signal.SIGHUP, spoil)
signal.signal(signal.SIGWINCH, spoil)
"""


@pytest.fixture(scope="module")
def uneven_tfrecords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 records in two shards, which workers cannot share evenly."""
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
    network = keras.models.load_model(out / "model.keras", compile=False)
    assert profile["exchanged_bytes"] == 4 * sum(int(np.prod(one.shape)) for one in network.trainable_variables)
    said, share = capfd.readouterr().out, 12 // workers
    for index in range(workers):
        assert f"worker {index} of {workers}: images {index * share} to {index * share + share - 1} of the 12 of " \
               f"every step, steps 1 to 10, from 2 shards" in said
        [text] = [path.read_text() for path in tmp_path.glob(f"scratch/train/*/workers/worker-{index}.log")]
        assert all(line.startswith(f"[worker {index}] ") for line in text.splitlines())
    assert "start again" not in said


STRIKES = [
    (1, signal.SIGKILL, r"worker 1 \(\S+\) was killed by SIGKILL (in|after) step \d+; training resumes from .*step-0"),
    (0, signal.SIGKILL, r"worker 0, the chief \(\S+\) was killed by SIGKILL (in|after) step \d+; training resumes"),
    (1, signal.SIGSTOP, r"worker 1 \(\S+\) was stopped or hung (in|after) step \d+"),
    (0, signal.SIGSTOP, r"worker 0, the chief \(\S+\) was stopped or hung (in|after) step \d+"),
    (1, signal.SIGTERM, r"worker 1 \S+ was ended by SIGTERM (in|after) step \d+"),
    (0, signal.SIGTERM, r"worker 0, the chief \S+ was ended by SIGTERM (in|after) step \d+"),
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
    running, step = Running(command, tmp_path / "scratch"), FIRST_CHECKPOINT_SAVED

    for start, (index, number, _) in enumerate(STRIKES, start=1):
        running.wait(start, lambda: running.step() >= step)  # noqa: B023
        running.strike(index, number)
        assert running.seconds_to_end(start) < 60
        step = running.step() + 5
    running.wait(len(STRIKES) + 1, lambda: running.step() >= step)
    running.process.send_signal(signal.SIGTERM)
    said = running.finish()
    for expected in (*(message for _, _, message in STRIKES), f"restart {len(STRIKES)} of {len(STRIKES)}",
                     r"the end of .*worker-1.log\n\[worker 1\] ",
                     rf"UserError: SIGTERM stopped the training after step \d+ of {LONG_STEPS}; .*run the same "):
        assert re.search(expected, said), (expected, said[-6000:])
    assert "in stick" in running.log(1), "the log shows where it hung"
    resumed = [int(step) for step in re.findall(r"resumed after step (\d+)", running.log(0))]
    assert len(resumed) == len(STRIKES) and 0 < resumed[0] and resumed == sorted(resumed)

    # What one worker fails by, differs, or is no number on one replica, stops all, and is not tried again.
    for number, expected in [(signal.SIGPWR, r"worker 1 failed by itself: .*slice index"),
                             (signal.SIGWINCH, r"the workers have different weights after step \d+"),
                             # Between the last step before a checkpoint and that, it is the weights that are found out.
                             (signal.SIGHUP, r"the (loss is nan|weights are no longer finite) at step \d+, .*last good "
                                             r"checkpoint is kept")]:
        step, running = running.step(), Running(command, tmp_path / "scratch")
        running.wait(1, lambda: running.step() > step)  # noqa: B023
        running.strike(1, number)
        said = running.finish()
        assert re.search(f"UserError: {expected}", said), said
        assert "start again" not in said

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


def test_a_worker_that_dies_at_every_start_ends_the_training_after_max_restarts(
        small_tfrecords: Path, cluster_train: Train, cluster_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    with pytest.raises(UserError, match="exit code 1 before its first step; there is no checkpoint.*lost 2 times"):
        train(cluster_train, cluster_machine(tmp_path / "scratch", max_restarts=1), tfrecords=small_tfrecords,
              out=tmp_path / "model")
    assert "restart 1 of 1" in (said := capfd.readouterr().out) and "nonsense" in said, "the log's end tells why"


def test_gradients_are_sent_in_messages_of_the_given_size_by_the_given_communication(
        cluster_train: Train, cluster_machine: Callable[..., Machine], small_python: Callable[..., list[str]],
        tmp_path: Path) -> None:
    changes = [{"all_reduce": "ring", "all_reduce_pack_mib": 0}, {"all_reduce": "auto", "all_reduce_pack_mib": 3}]
    task = json.dumps([dataclasses.asdict(cluster_train), dataclasses.asdict(cluster_machine(tmp_path)), changes])
    for said in with_tf_config([small_python(PACKS, task)] * 2):
        found = [json.loads(line.removeprefix("found ")) for line in said.splitlines() if line.startswith("found ")]
        # A message ends with what makes it longer than that.
        assert found == [[["ring", 6]], [["auto", 4], ["auto", 2]]]
