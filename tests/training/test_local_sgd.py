"""Local SGD: replicas take several steps by their own gradients, then average weights and velocities."""

import dataclasses
import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests.training.outcomes import as_json, assert_close
from tests.training.running import TRAINS, Running
from tests.training.test_step import CLASSES, IMAGES, LABELS, STEPS, difference

from mlimages.core.params import Machine, Train
from mlimages.train.run import train
from mlimages.training.distribution import build_strategy
from mlimages.training.step import Trainer

LOCAL, RATE = 3, 0.05

# The variables after the same steps on two replicas, and whether both have the same.
ON_TWO = """
import dataclasses, json, sys
import numpy as np, tensorflow as tf
from mlimages.core.params import Machine, Train
from mlimages.training.step import Trainer
from mlimages.training.distribution import distribute, mirrored_strategy

params, machine, data, rate, runs, out = json.loads(sys.argv[1])
data = np.load(data)
steps, images, *_ = data["images"].shape
strategy = mirrored_strategy(Machine(**machine))
found = {}
for name, (steps_per_call, changes) in runs.items():
    trainer = Trainer(dataclasses.replace(Train(**params), **changes), data["labels"].shape[-1], strategy,
                      steps_per_call=steps_per_call)
    batches = distribute(strategy, lambda context: tf.data.Dataset.from_tensor_slices(
        (data["images"], data["labels"])).unbatch().batch(images // 2))
    rates = np.full(trainer.steps_per_call, rate, np.float32)
    found[f"{name} losses"] = np.concatenate([trainer.train(batches, rates[:steps - done])
                                              for done in range(0, steps, trainer.steps_per_call)])
    for part, variables in trainer.variables.items():
        for index, variable in enumerate(variables):
            one, other = [value.numpy() for value in strategy.experimental_local_results(variable)]
            assert (one == other).all(), (name, part, index)
            found[f"{name} {part} {index}"] = one
np.savez(out, **found)
"""


@pytest.fixture(scope="module")
def parted_train(small_train: Train) -> Train:
    """A loss without exchange of labels between replicas."""
    return dataclasses.replace(small_train, loss="sigmoid", local_sgd_steps=LOCAL, ema_decay=0.9, checkpoint_steps=6)


@pytest.fixture(scope="module")
def on_two(parted_train: Train, small_machine: Callable[..., Machine], small_python: Callable[..., list[str]],
           tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("on_two")
    np.savez(folder / "data.npz", images=IMAGES, labels=LABELS)
    runs = {"parted": (1, {}), "one call": (4, {}), "together": (1, {"local_sgd_steps": 1}),
            "bfloat16": (1, {"all_reduce_dtype": "bfloat16"}), "float16": (1, {"all_reduce_dtype": "float16"})}
    done = subprocess.run(small_python(ON_TWO, json.dumps([
        dataclasses.asdict(parted_train), dataclasses.asdict(small_machine(folder, 2)), str(folder / "data.npz"), RATE,
        runs, str(folder / "found.npz")])), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "found.npz") as found:
        return dict(found)


def of(found: dict[str, np.ndarray], run: str, part: str) -> list[np.ndarray]:
    return [value for name, value in found.items() if name.startswith(f"{run} {part} ")]


def test_local_sgd_sets_the_weights_to_the_mean_of_those_of_single_replicas(
        on_two: dict[str, np.ndarray], parted_train: Train, small_machine: Callable[..., Machine],
        tmp_path: Path) -> None:
    """Two processes train on the halves of every batch, and continue with the mean of both after every round."""
    trainer = Trainer(dataclasses.replace(parted_train, batch=4), CLASSES,
                      build_strategy(parted_train, small_machine(tmp_path)), steps_per_call=LOCAL)
    losses: list[Any] = []
    for first in range(0, STEPS, LOCAL):
        steps = slice(first, min(first + LOCAL, STEPS))
        start, ends = _state(trainer), []
        for half in (slice(0, 4), slice(4, 8)):
            _take_up(trainer, start)
            batches = iter(tf.data.Dataset.from_tensor_slices((IMAGES[steps, half], LABELS[steps, half])))
            losses.append(trainer.train(batches, np.full(len(IMAGES[steps]), RATE, np.float32)))
            ends.append(_state(trainer))
        _take_up(trainer, {part: [(one + other) / 2 if one.dtype.kind == "f" else one
                                  for one, other in zip(ends[0][part], ends[1][part], strict=True)] for part in start})
    expected = np.concatenate([(losses[index] + losses[index + 1]) / 2 for index in (0, 2)])
    np.testing.assert_allclose(on_two["parted losses"], expected, rtol=1e-4)
    state = _state(trainer)
    for part in ("network", "optimizer", "average"):
        assert difference(state[part], of(on_two, "parted", part)) < 1e-3, part


def _state(trainer: Trainer) -> dict[str, list[np.ndarray]]:
    return {part: [variable.numpy() for variable in variables] for part, variables in trainer.variables.items()}


def _take_up(trainer: Trainer, state: dict[str, list[np.ndarray]]) -> None:
    for part, variables in trainer.variables.items():
        for variable, value in zip(variables, state[part], strict=True):
            variable.assign(value)


def test_the_number_of_steps_in_a_call_changes_nothing(on_two: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(on_two["one call losses"], on_two["parted losses"])
    for name in ("network", "optimizer", "average"):
        for one, other in zip(of(on_two, "one call", name), of(on_two, "parted", name), strict=True):
            np.testing.assert_array_equal(one, other)


def test_local_sgd_differs_from_an_all_reduce_in_every_step(
        on_two: dict[str, np.ndarray]) -> None:
    assert on_two["parted losses"][0] == pytest.approx(on_two["together losses"][0], rel=1e-5)
    assert difference(of(on_two, "together", "network"), of(on_two, "parted", "network")) > 1e-3


@pytest.mark.parametrize("half, most", [("bfloat16", 0.02), ("float16", 0.0025)])
def test_half_precision_changes_the_average_little(on_two: dict[str, np.ndarray], half: str,
                                                           most: float) -> None:
    assert 0 < difference(of(on_two, "parted", "network"), of(on_two, half, "network")) < most


def test_a_single_replica_has_nothing_to_average(parted_train: Train, small_machine: Callable[..., Machine],
                                              tmp_path: Path) -> None:
    trainer = Trainer(parted_train, CLASSES, build_strategy(parted_train, small_machine(tmp_path)), steps_per_call=2)
    assert (trainer.local_sgd_steps, trainer.steps_per_call) == (1, 2)


@pytest.mark.cluster
def test_with_local_sgd_workers_stop_after_an_average_and_resume_exactly(
        small_tfrecords: Path, long_train: Train, cluster_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    parted = dataclasses.replace(long_train, batch_norm="local", local_sgd_steps=4, checkpoint_steps=20, steps=62)
    straight = train(parted, cluster_machine(tmp_path / "a"), tfrecords=small_tfrecords, out=tmp_path / "straight")
    machine = cluster_machine(tmp_path / "scratch")
    running = Running(small_python(TRAINS, as_json(parted, machine, small_tfrecords, tmp_path / "model")),
                      tmp_path / "scratch")
    running.wait(1, lambda: running.step() >= 5)
    running.process.send_signal(signal.SIGTERM)
    stopped = re.search(r"UserError: SIGTERM stopped the training after step (\d+) of 62", running.finish())
    assert stopped and int(stopped[1]) % 4 == 0
    out = train(parted, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    assert_close(out, straight)
    network = keras.models.load_model(out / "model.keras", compile=False)
    values = sum(int(np.prod(weight.shape)) for weight in network.trainable_variables)
    profile = json.loads((out / "profile.json").read_text())
    assert profile["exchanged_bytes"] == 2 * 4 * values / 4, "weights and velocities, every fourth step"
