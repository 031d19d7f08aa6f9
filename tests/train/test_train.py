"""A training repeats to the bit, publishes what it says, and fails with a clear message."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests.training.outcomes import Trained, as_json, assert_same_weights, log, weights

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.publish import read_manifest, sha256, verify
from mlimages.network.load_weights import released_name
from mlimages.network.resnet import build
from mlimages.train.run import train
from mlimages.training.jobs import TrainingJob
from mlimages.training.loop import fit
from mlimages.training.optimizer import is_batch_norm
from mlimages.training.schedule import build_schedule
from mlimages.training.step import Trainer

pytestmark = pytest.mark.usefixtures("no_saved_model")

# Trains twice, then draws a random number without a seed, which determinism does not allow.
DETERMINISTIC = """
import dataclasses, json, sys
from pathlib import Path
import tensorflow as tf
from mlimages.core.params import Machine, Train
from mlimages.train.run import train

params, machine, tfrecords, out = json.loads(sys.argv[1])
for name in ("a", "b"):
    train(Train(**params), dataclasses.replace(Machine(**machine), scratch=f"{out}/{name}"), tfrecords=tfrecords,
          out=Path(out) / f"model_{name}")
tf.random.set_seed(None)
try:
    tf.random.uniform([2])
except RuntimeError as error:
    print(f"refused: {error}")
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


def test_class_weights_come_from_the_table_of_the_records(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        capfd: pytest.CaptureFixture[str]) -> None:
    tfrecords = shutil.copytree(small_tfrecords, tmp_path / "tfrecords")
    rows = "".join(f"{number},{1 + 99 * (number % 2)},class {number}\n" for number in range(24))
    (tfrecords / "classes.csv").write_text(f"class,train_records,name\n{rows}")
    losses = []
    for rule in (None, "inverse_frequency"):
        params = dataclasses.replace(small_train, loss="softmax", class_weights=rule, epochs=None, steps=1, warmup=0.0,
                                     validation_images=0)
        fit([TrainingJob(params, tfrecords, tmp_path / str(rule))], small_machine(tmp_path / "scratch"))
        losses += [float(row["loss"]) for row in log(tmp_path / str(rule))]
    assert losses[0] != pytest.approx(losses[1], rel=0.01)
    assert "WARNING: train.loss is softmax" in capfd.readouterr().out, "24 images, 1,212 classes by the table"


def test_the_best_checkpoint_is_published_where_asked(small_tfrecords: Path, small_train: Train,
                                                      small_machine: Callable[..., Machine], tmp_path: Path) -> None:
    # From step 6 on the rate is absurd, so that the first checkpoint is the best.
    params = dataclasses.replace(small_train, publish="best", steps=30, epochs=None, learning_rate=5.0, warmup=29.0)
    machine = dataclasses.replace(small_machine(tmp_path / "scratch"), checkpoints_kept=1)
    out = train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    tried = {int(row["step"]): float(row["validation_loss"]) for row in log(out) if row["validation_loss"]}
    best = min(tried, key=lambda step: tried[step])
    metrics = json.loads((out / "metrics.json").read_text())
    assert best < 30
    assert (metrics["published_step"], metrics["validation_loss"]) == (best, pytest.approx(tried[best]))


def test_a_training_starts_from_a_released_checkpoint(small_tfrecords: Path, small_train: Train, trained: Trained,
                                                      small_machine: Callable[..., Machine], tmp_path: Path,
                                                      capfd: pytest.CaptureFixture[str]) -> None:
    network = build("tiny", 5)
    names = [released_name(variable.path) for variable in network.variables]
    tensors = [tf.fill(variable.shape, 0.5) for variable in network.variables]
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "released"), tensor_names=[*names, "global_step"],
                      shape_and_slices=[""] * (len(names) + 1), tensors=[*tensors, tf.constant(1, tf.int64)])
    params = dataclasses.replace(small_train, initialize_from=str(tmp_path / "released"), steps=1, epochs=None,
                                 learning_rate=1e-9, warmup=0.0)
    with pytest.raises(UserError, match="has 5 classes, the network has 24"):
        train(params, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")
    params = dataclasses.replace(params, initialize_logits=False)
    capfd.readouterr()
    out = train(params, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")
    logits = ["logits/dense/bias", "logits/dense/kernel"]
    assert (f"released: {len(names) - 2} variables loaded; 3 (global_step, {', '.join(logits)}) of the checkpoint "
            f"ignored, 2 ({', '.join(logits)}) of the network kept") in capfd.readouterr().out
    assert json.loads((out / "run.json").read_text())["initialized"] == {
        "loaded": sorted(set(names) - set(logits)), "ignored": ["global_step", *logits], "kept": logits,
        "files": {path.name: sha256(path) for path in sorted(tmp_path.glob("released.*"))}}
    kernel = keras.models.load_model(out / "model.keras").get_layer("init_conv").get_weights()[0]
    np.testing.assert_allclose(kernel, 0.5, rtol=1e-5)
    with pytest.raises(UserError, match="elsewhere holds no weights to start from"):
        train(dataclasses.replace(params, initialize_from=str(tmp_path / "elsewhere")),
              small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")


def test_training_lowers_the_loss(trained: Trained) -> None:
    losses = [float(row["loss"]) for row in log(trained.out)]
    assert losses[-1] < 0.95 * losses[0]


def test_one_replica_exchanges_nothing(trained: Trained) -> None:
    profile = json.loads((trained.out / "profile.json").read_text())
    assert (profile["replicas"], profile["exchanged_bytes"]) == (1, 0)


def test_the_step_is_traced_once(trained: Trained) -> None:
    [trainer] = trained.trainers
    assert trainer.call.experimental_get_tracing_count() == 1


def test_batch_norm_parameters_are_not_decayed(trained: Trained) -> None:
    [trainer] = trained.trainers
    decayed = {variable.path.rsplit("/", 1)[-1] for variable in trainer.model.trainable_variables
               if not is_batch_norm(variable)}
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
    monkeypatch.setattr("mlimages.training.loop.Trainer", None)
    train(small_train, small_machine(trained.out.parent / "scratch"), tfrecords=small_tfrecords, out=trained.out)
    assert verify(trained.out, "train") == manifest


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_checkpoint(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path) -> None:
    params = dataclasses.replace(small_train, learning_rate=100.0, weight_decay=1.0, warmup=0.0, epochs=20.0,
                                 checkpoint_steps=1)
    for _ in range(2):  # the second time from the checkpoint
        with pytest.raises(UserError, match="with the learning rate .*last good.*lower train.learn") as error:
            train(params, small_machine(tmp_path / "scratch"), tfrecords=small_tfrecords, out=tmp_path / "model")
        began = re.search(r"-S train\.initialize_from=(\S+)`$", str(error.value))
        assert began
        [step] = re.findall(r"the .* at step (\d+), with", str(error.value))
        assert not (tmp_path / "model").exists()
        [work] = tmp_path.glob("scratch/train/*")
        folder = max((work / "checkpoints").glob("step-*"))
        assert folder.name == f"step-{int(step) - 1:08d}" and Path(began[1]) == folder
        newest = tf.train.load_checkpoint(folder / "variables")
        kept = [newest.get_tensor(name) for name, dtype in newest.get_variable_to_dtype_map().items()
                if dtype.is_floating]
        assert kept and all(np.isfinite(one).all() for one in kept)


def test_the_step_of_a_call_whose_loss_is_not_finite_is_named_with_its_rate(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    params = dataclasses.replace(small_train, warmup=4.0, validation_images=0)
    machine = dataclasses.replace(small_machine(tmp_path / "scratch"), steps_per_call=4)
    monkeypatch.setattr("mlimages.training.step.Trainer.train",
                        lambda *arguments, **options: np.array([1.0, 2.0, np.nan, np.inf], np.float32))
    rate = float(build_schedule(params, records=24)(2))
    with pytest.raises(UserError, match=f"the loss is nan at step 3, with the learning rate {rate:.3g}; the last good"):
        train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")


@pytest.mark.parametrize("steps_per_call", [1, 6])
def test_float16_gradients_that_overflow_at_any_loss_scale_stop_the_training(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, steps_per_call: int) -> None:
    class Steep(Trainer):
        """Logits and loss are float32 and finite, but the gradient before them overflows float16."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            kernel = self.model.get_layer("logits").kernel
            kernel.assign(1e7 * kernel)

    monkeypatch.setattr("mlimages.training.loop.Trainer", Steep)
    params = dataclasses.replace(small_train, precision="mixed_float16", epochs=10.0, validation_images=0)
    machine = dataclasses.replace(small_machine(tmp_path / "scratch"), steps_per_call=steps_per_call)
    # Fifteen steps halve the scale from 2 ** 15 to 1.
    with pytest.raises(UserError, match="float16 gradients are not finite.* at step 16, .*last good.*mixed_bfloat16"):
        train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    assert [path.name for path in sorted(tmp_path.glob("scratch/train/*/checkpoints/*"))] == [
        "step-00000006", "step-00000012"]


@pytest.mark.parametrize("steps_per_call, calls", [(4, [4, 4, 4, 1, 1]), (1000, [13, 1])])
def test_a_row_of_the_log_has_the_mean_loss_of_all_steps_since_the_one_before_however_many_a_call_takes(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, steps_per_call: int, calls: list[int]) -> None:
    params = dataclasses.replace(small_train, steps=14, epochs=None, checkpoint_steps=13)
    machine = dataclasses.replace(small_machine(tmp_path / "scratch"), steps_per_call=steps_per_call)
    losses, taken, real = list[float](), list[int](), Trainer.train

    def remembered(*arguments: Any, **options: Any) -> np.ndarray:
        found = real(*arguments, **options)
        losses.extend(found.tolist())
        taken.append(len(found))
        return found

    monkeypatch.setattr(Trainer, "train", remembered)
    rows = log(train(params, machine, tfrecords=small_tfrecords, out=tmp_path / "model"))
    ends = [int(row["step"]) for row in rows]
    assert taken == calls
    assert ends == [5, 10, 13, 14]
    assert [bool(row["validation_loss"]) for row in rows] == [False, False, True, True]
    rates = build_schedule(params, records=24)(np.array(ends) - 1).tolist()
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(rates, rel=1e-5)
    expected = [np.mean(losses[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    assert [float(row["loss"]) for row in rows] == pytest.approx(expected, rel=1e-4)


def test_damaged_records_are_refused_and_named(small_tfrecords: Path, small_train: Train,
                                               small_machine: Callable[..., Machine], tmp_path: Path) -> None:
    damaged = shutil.copytree(small_tfrecords, tmp_path / "tfrecords")
    shard = sorted(damaged.glob("train-*"))[1]
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 1
    shard.write_bytes(body)
    with pytest.raises(UserError, match=f"{shard.name}.*dvc repro --single-item --force convert"):
        train(small_train, small_machine(tmp_path / "scratch"), tfrecords=damaged, out=tmp_path / "model")


def test_the_network_loads_with_plain_keras_and_equals_the_saved_model(trained: Trained, tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", PLAIN_KERAS, trained.out, tmp_path / "images.npy",
                           tmp_path / "outputs.npz"], cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    weights = next((trained.out / "saved_model" / "variables").glob("variables.data-*"))
    assert weights.stat().st_size < 1.5 * 4 * trained.trainers[0].model.count_params(), "each weight once"
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert outputs["keras"].shape == (3, 24)
        np.testing.assert_allclose(outputs["keras"], outputs["saved"], rtol=1e-5, atol=1e-5)
        # The network that was trained, with its fused batch norm, says the same.
        np.testing.assert_allclose(outputs["keras"], trained.trainers[0].model(images), rtol=1e-4, atol=1e-4)


def test_in_deterministic_mode_tensorflow_refuses_what_does_not_repeat_and_two_runs_are_equal(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    params = dataclasses.replace(small_train, deterministic=True, epochs=2.0)
    arguments = as_json(params, small_machine(tmp_path), small_tfrecords, tmp_path)
    done = subprocess.run(small_python(DETERMINISTIC, arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "refused: Random ops require a seed" in done.stdout
    assert_same_weights(tmp_path / "model_a", tmp_path / "model_b")


def test_the_manifest_and_the_initial_weights_are_hashed_once(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    start = tmp_path / "start.keras"
    build("tiny", 3).save(start)
    hashed: list[Path] = []

    def count(path: Path) -> str:
        hashed.append(path)
        return sha256(path)

    def stop(*arguments: Any, **options: Any) -> None:
        raise UserError("the training would begin")

    monkeypatch.setattr("mlimages.core.scratch.sha256", count)
    monkeypatch.setattr("mlimages.train.run.run_trainings", stop)
    params = dataclasses.replace(small_train, initialize_from=str(start))
    with pytest.raises(UserError, match="the training would begin"):
        train(params, small_machine(tmp_path), tfrecords=small_tfrecords, out=tmp_path / "model")
    assert hashed == [small_tfrecords / "manifest.json", start]
