"""A training ends with the same weights bit for bit, run again or killed and continued, and fails in so many words."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlimages.errors import UserError
from mlimages.params import Machine, Train
from mlimages.publish import read_manifest, verify
from mlimages.train import train
from mlimages.train.optimizer import is_decayed
from mlimages.train.step import Trainer

STEPS = 15
MEASURED = ("images_per_second",)

# Trains with the settings that come as JSON, and kills itself as soon as the row of step 10 is in the log: after the
# checkpoint of step 6, before the next one.
KILLED = """
import json, os, signal, sys
from mlimages.params import Machine, Train
from mlimages.train import train
from mlimages.train.log import TrainingLog

write = TrainingLog.row

def row(log, step, *values):
    write(log, step, *values)
    if step == 10:
        os.kill(os.getpid(), signal.SIGKILL)

TrainingLog.row = row
params, machine, tfrecords, out = json.loads(sys.argv[1])
train(Train(**params), Machine(**machine), tfrecords=tfrecords, out=out)
"""

# Trains on two replicas, first with a batch that they cannot share.
TWO_REPLICAS = """
import dataclasses, json, sys
from mlimages.errors import UserError
from mlimages.params import Machine, Train
from mlimages.train import train

params, machine, tfrecords, out = json.loads(sys.argv[1])
params = Train(**params)
try:
    train(dataclasses.replace(params, batch=9), Machine(**machine), tfrecords=tfrecords, out=out)
except UserError as error:
    print(f"UserError: {error}")
train(params, Machine(**machine), tfrecords=tfrecords, out=out)
"""

PLAIN_KERAS = """
import importlib.util, sys
import keras, numpy as np, tensorflow as tf

assert importlib.util.find_spec("mlimages") is None
folder, images, outputs = sys.argv[1:]
x = np.load(images)
model = keras.models.load_model(f"{folder}/model.keras")
saved = tf.saved_model.load(f"{folder}/saved_model")
np.savez(outputs, keras=model(x), saved=saved.serve(x))
"""


class Trained(NamedTuple):
    """A finished training."""

    out: Path
    trainers: list[Trainer]


@pytest.fixture(scope="module")
def trained(small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
            tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The tiny training, uninterrupted."""
    root = tmp_path_factory.mktemp("trained")
    trainers: list[Trainer] = []

    class Remembered(Trainer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            trainers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlimages.train.run.Trainer", Remembered)
        out = train(small_train, small_machine(root / "scratch"), tfrecords=small_tfrecords, out=root / "model")
    yield Trained(out, trainers)


def weights(folder: Path) -> list[np.ndarray]:
    return keras.models.load_model(folder / "model.keras", compile=False).get_weights()


def assert_same_weights(one: Path, other: Path) -> None:
    for first, second in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(first, second)


def log(folder: Path) -> list[dict[str, str]]:
    """The rows of the log, without what is measured by the clock."""
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name not in MEASURED} for row in csv.DictReader(file)]


def as_json(params: Train, machine: Machine, tfrecords: Path, out: Path) -> str:
    return json.dumps([dataclasses.asdict(params), dataclasses.asdict(machine), str(tfrecords), str(out)])


def test_what_is_published_is_whole(trained: Trained) -> None:
    manifest = verify(trained.out, "train")
    assert {"model.keras", "saved_model/saved_model.pb", "training.csv", "metrics.json"} <= set(manifest["files"])
    assert (manifest["architecture"], manifest["classes"], manifest["pixels"]) == ("tiny", 24, 32)
    metrics = json.loads((trained.out / "metrics.json").read_text())
    assert (metrics["steps"], metrics["images"], metrics["replicas"]) == (STEPS, STEPS * 8, 1)
    assert metrics["weights"] == sum(one.size for one in weights(trained.out))
    assert metrics["final_loss"] == pytest.approx(float(log(trained.out)[-1]["loss"]), rel=1e-4)


def test_the_log_has_the_steps_in_order_and_the_rate_of_the_schedule(trained: Trained) -> None:
    rows = log(trained.out)
    assert [int(row["step"]) for row in rows] == [5, 6, 10, 12, 15]
    assert float(rows[0]["learning_rate"]) == pytest.approx(0.5 * 0.05 * (1 + np.cos(np.pi / 12)), rel=1e-4)
    assert float(rows[-1]["epoch"]) == 5.0


def test_training_lowers_the_loss(trained: Trained) -> None:
    losses = [float(row["loss"]) for row in log(trained.out)]
    assert losses[-1] < 0.95 * losses[0]


def test_the_step_is_traced_once(trained: Trained) -> None:
    [trainer] = trained.trainers
    assert trainer.call.experimental_get_tracing_count() == 1


def test_batch_norm_parameters_are_not_decayed(trained: Trained) -> None:
    [trainer] = trained.trainers
    decayed = {variable.path.rsplit("/", 1)[-1] for variable in trainer.model.trainable_variables
               if is_decayed(variable)}
    assert decayed == {"kernel", "bias"}


def test_the_same_training_again_ends_with_the_same_weights_bit_for_bit(
        trained: Trained, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        tmp_path: Path) -> None:
    again = train(small_train, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")
    assert_same_weights(again, trained.out)
    assert log(again) == log(trained.out)


def test_another_seed_ends_with_other_weights(trained: Trained, small_tfrecords: Path, small_train: Train,
                                              small_machine: Callable[..., Machine], tmp_path: Path) -> None:
    params = dataclasses.replace(small_train, seed=4)
    other = train(params, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")
    assert any((first != second).any() for first, second in zip(weights(other), weights(trained.out), strict=True))


def test_a_finished_training_is_published_again_without_a_step(
        trained: Trained, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(trained.out, "train")
    shutil.rmtree(trained.out)
    monkeypatch.setattr("mlimages.train.run.Trainer", None)
    train(small_train, small_machine(trained.out.parent / "scratch"), tfrecords=small_tfrecords, out=trained.out)
    assert verify(trained.out, "train") == manifest


def test_a_killed_training_continues_to_the_same_weights_bit_for_bit(
        trained: Trained, small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    machine, out = small_machine(tmp_path / "scratch"), tmp_path / "model"
    killed = subprocess.run(small_python(KILLED, as_json(small_train, machine, small_tfrecords, out)),
                            capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    [work] = tmp_path.glob("scratch/train/*")
    assert [row["step"] for row in log(work)] == ["5", "6", "10"]
    assert [path.name for path in (work / "checkpoints").iterdir()] == ["step-00000006"]
    capfd.readouterr()
    train(small_train, machine, tfrecords=small_tfrecords, out=out)
    assert "resumed after step 6" in capfd.readouterr().out
    assert_same_weights(out, trained.out)
    assert log(out) == log(trained.out)


def test_two_replicas_train_and_refuse_a_batch_that_they_cannot_share(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    arguments = as_json(small_train, small_machine(tmp_path / "scratch", 2), small_tfrecords, tmp_path / "model")
    done = subprocess.run(small_python(TWO_REPLICAS, arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "UserError: train.batch is 9, which 2 replicas cannot share evenly" in done.stdout
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert (metrics["replicas"], metrics["images"]) == (2, STEPS * 8)
    losses = [float(row["loss"]) for row in log(tmp_path / "model")]
    assert losses[-1] < 0.95 * losses[0]
    assert all(np.isfinite(one).all() for one in weights(tmp_path / "model"))


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_checkpoint(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path) -> None:
    params = dataclasses.replace(small_train, learning_rate=100.0, weight_decay=1.0, warmup=0.0, epochs=20.0,
                                 checkpoint_steps=1)
    for _ in range(2):  # the second time from the checkpoint
        with pytest.raises(UserError, match="no longer finite at step.*last good.*lower train.learning_rate"):
            train(params, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")
        assert not (tmp_path / "model").exists()
        [work] = tmp_path.glob("scratch/train/*")
        newest = tf.train.load_checkpoint(max((work / "checkpoints").glob("step-*")) / "variables")
        kept = [newest.get_tensor(name) for name, dtype in newest.get_variable_to_dtype_map().items()
                if dtype.is_floating]
        assert kept and all(np.isfinite(one).all() for one in kept)


def test_damaged_records_are_refused_and_named(small_tfrecords: Path, small_train: Train,
                                               small_machine: Callable[..., Machine], tmp_path: Path) -> None:
    damaged = shutil.copytree(small_tfrecords, tmp_path / "tfrecords")
    shard = sorted(damaged.glob("train-*"))[1]
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 1
    shard.write_bytes(body)
    with pytest.raises(UserError, match=f"{shard.name}.*dvc repro --force convert"):
        train(small_train, small_machine(tmp_path / "scratch"), tfrecords=damaged, out=tmp_path / "model")


def test_the_network_loads_with_plain_keras_and_equals_the_saved_model(trained: Trained, tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", PLAIN_KERAS, trained.out, tmp_path / "images.npy",
                           tmp_path / "outputs.npz"], cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert outputs["keras"].shape == (3, 24)
        np.testing.assert_allclose(outputs["keras"], outputs["saved"], rtol=1e-5, atol=1e-5)
        # The network that was trained, with its fused batch norm, says the same.
        np.testing.assert_allclose(outputs["keras"], trained.trainers[0].model(images), rtol=1e-4, atol=1e-4)
