"""The log of a training, its TensorBoard, its run record and its model card."""

import csv
import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import cast

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.training.outcomes import Trained, log, weights

from mlimages.core.params import Params, Train
from mlimages.core.publish import read_manifest, sha256, verify
from mlimages.core.tuning import onednn_enabled
from mlimages.inputs.pipeline import Records, evaluation_batches
from mlimages.metrics.decisions import common_classes
from mlimages.network.model_files import ClassTable, read_classes
from mlimages.training.losses import SigmoidLoss
from mlimages.training.metrics_log import NO_VALIDATION, captioned, read_log
from mlimages.training.result import divergence
from mlimages.training.run_record import environment, model_card
from mlimages.training.step import Trainer
from mlimages.training.validation import Validation, ValidationResult

STEPS = 15


def classes(count: int) -> ClassTable:
    """Classes without a tree."""
    return ClassTable([""] * count, [-1] * count, [f"class {number}" for number in range(count)])


@pytest.fixture
def validation_records(small_tfrecords: Path) -> Records:
    return Records(small_tfrecords, read_manifest(small_tfrecords, "convert"), "val")


def test_the_published_folder_is_complete(trained: Trained) -> None:
    manifest = verify(trained.out, "train")
    assert {"model.keras", "saved_model/saved_model.pb", "training.csv", "metrics.json", "run.json",
            "model_card.md"} <= set(manifest["files"])
    assert manifest["activation"] == "sigmoid"
    assert (manifest["architecture"], manifest["classes"], manifest["pixels"]) == ("tiny", 24, 32)
    metrics = json.loads((trained.out / "metrics.json").read_text())
    assert (metrics["steps"], metrics["images"], metrics["replicas"]) == (STEPS, STEPS * 8, 1)
    assert metrics["weights"] == sum(one.size for one in weights(trained.out))
    assert metrics["final_loss"] == pytest.approx(float(log(trained.out)[-1]["loss"]), rel=1e-4)


def test_the_record_says_what_made_the_model(trained: Trained, small_train: Train, small_tfrecords: Path,
                                              params: Params) -> None:
    run = json.loads((trained.out / "run.json").read_text())
    assert run["params"] == dataclasses.asdict(small_train)
    assert run["data"] == {"manifest_sha256": sha256(small_tfrecords / "manifest.json"), "classes": 24, "images": 24}
    assert run["metrics"] == json.loads((trained.out / "metrics.json").read_text())
    assert run["metrics"]["training_seconds"] > 0
    assert run["environment"]["packages"]["tensorflow"] == tf.__version__
    assert run["initialized"] is None
    assert run["metrics"]["wall_seconds"] > run["metrics"]["training_seconds"]
    assert run["machine"] == {"workers": 1, "readers": params.machine.workers}
    cores = len(os.sched_getaffinity(0))
    assert (run["environment"]["cores"], run["environment"]["gpus"]) == (cores, [])
    assert run["environment"]["processor"] in Path("/proc/cpuinfo").read_text()
    assert run["environment"]["onednn"] == onednn_enabled()
    assert run["environment"]["intra_op_threads"] == cores, "all that this process may use"
    assert run["environment"]["devices"] == ["/device:CPU:0"]
    card = (trained.out / "model_card.md").read_text()
    code, data = run["environment"]["git"], run["data"]["manifest_sha256"]
    for text in ("# tiny, 24 classes", "| train.learning_rate | 0.05 |", "| steps | 15 |", "sigmoid gives prob",
                 "| seed | 3 |", f"| data | `{data}` |", "| devices | /device:CPU:0 |", f"tensorflow {tf.__version__}",
                 f"| hardware | {run['environment']['processor']}, {cores} cores |", "| workers | 1, each with ",
                 f"| code | {code['revision'] if code else 'outside a git repository'}"):
        assert text in card


def test_a_loss_above_that_of_the_first_row_gives_a_warning(trained: Trained) -> None:
    rows = [{"loss": 3.0, "validation_loss": float("nan")}, {"loss": 2.0, "validation_loss": 5.0},
            {"loss": 1.0, "validation_loss": 4.0}]
    assert divergence(rows) is None and divergence(rows[:1]) is None
    assert "training loss ended at 7.6e+15, above the 3 of its first row" in str(
        divergence([*rows, {"loss": 7.6e15, "validation_loss": float("nan")}]))
    assert "validation loss ended at 6, above the 5 of" in str(
        divergence([*rows, {"loss": 0.5, "validation_loss": 6.0}]))
    run = json.loads((trained.out / "run.json").read_text())
    assert run["warning"] is None and "Warning" not in model_card(run)
    assert "**Warning:** it diverged.\n\nA pre-activation" in model_card({**run, "warning": "it diverged"})


def test_the_speed_and_the_time_of_the_record_are_those_of_the_log(trained: Trained) -> None:
    rows = read_log(trained.out / "training.csv")
    metrics = json.loads((trained.out / "metrics.json").read_text())
    speeds = [row["images_per_second"] for row in rows]
    assert metrics["images_per_second"] == pytest.approx(np.median(speeds))
    steps = np.diff([row["step"] for row in rows], prepend=0.0)
    assert metrics["training_seconds"] == pytest.approx((8 * steps / speeds).sum(), abs=0.06)


def test_the_record_names_the_commit_and_whether_it_was_changed(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git"] is None
    (tmp_path / "file").write_text("one")
    (tmp_path / "dvc.lock").write_text("one")
    who = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm1"]):
        subprocess.run(["git", *command], check=True)
    revision = environment()["git"]
    assert len(revision["revision"]) == 40 and not revision["dirty"]
    (tmp_path / "dvc.lock").write_text("as DVC writes it, stage by stage, before train runs")
    assert environment()["git"] == revision
    (tmp_path / "file").write_text("two")
    assert environment()["git"] == {**revision, "dirty": True}


def test_tensorboard_begins_with_what_is_learnt_and_shows_images_with_their_predictions(
        trained: Trained, validation_records: Records) -> None:
    [folder] = trained.out.parent.glob("scratch/train/*/tensorboard")
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    tags = sorted(events.Tags()["tensors"])
    assert tags == [
        "does it learn/training loss", "does it learn/validation loss",
        "does it learn/validation mean average precision", "does it learn/validation top 1",
        "learning rate and speed/images per second", "learning rate and speed/learning rate",
        "loss counters/batches_absent", "loss counters/batches_present", "predictions/validation images"]
    assert len(events.Tensors(tags[0])) == 5
    _, _, *pictures = events.Tensors(tags[-1])[-1].tensor_proto.string_val
    positions = validation_records.evenly_spaced(6)
    [(images, labels, _)] = evaluation_batches(validation_records, batch=6, pixels=32, preprocessing="central",
                                               central_fraction=0.8, positions=positions)
    probabilities = tf.sigmoid(keras.models.load_model(trained.out / "model.keras")(images)).numpy()
    shown = ValidationResult(NO_VALIDATION, images.numpy()[:4], labels.numpy()[:4], probabilities[:4],
                             read_classes(trained.out / "classes.csv"), common_classes(labels.numpy().sum(axis=0), 6))
    assert len(pictures) == 4
    for picture, image, caption in zip(pictures, shown.images, shown.captions(), strict=True):
        found = tf.io.decode_png(picture).numpy()
        np.testing.assert_allclose(found[::5, :160:5], (image + 1) * 127.5, atol=1)
        np.testing.assert_array_equal(found, captioned(image, caption))
        assert found[:, 160:].min() < 128, "no text"


def test_the_caption_of_an_image_leaves_out_ancestors_and_what_is_true_of_nearly_every_image() -> None:
    tree = ClassTable([""] * 9, [-1, 0, 1, 0, 3, 4, -1, 0, 0], [
        "thing", "animal", "cat, kitten", "vehicle", "car", "racing car", "image", "plant", "shadow"])
    common = np.arange(9) == 6
    labels = np.array([[1, 1, 0.9, 0, 0, 0, 1, 0.3, -1], [0, 0, 0, 0.9, 0.8, 0, 1, 0, 0]], np.float32)
    scores = np.array([[0.9, 0.9, 0.7, 0.8, 0.6, 0.1, 1, 0.4, 0.9], [0.6, 0.1, 0.1, 0.1, 0.2, 0.51, 1, np.nan, 0.1]],
                      np.float32)
    result = ValidationResult(NO_VALIDATION, np.zeros((2, 4, 4, 3)), labels, scores, tree, common)
    assert result.captions() == [
        [("cat: right 0.70", "green"), ("car: wrong 0.60", "firebrick")],
        [("racing car: wrong 0.51", "firebrick"), ("car: missed 0.20", "darkorange")]]


def test_validation_scores_are_those_of_the_published_network(trained: Trained, validation_records: Records) -> None:
    rows = [row for row in log(trained.out) if row["validation_loss"]]
    assert len(rows) == 3, "at every checkpoint"
    metrics = json.loads((trained.out / "metrics.json").read_text())
    [(images, labels, _)] = evaluation_batches(validation_records, batch=6, pixels=32, preprocessing="central",
                                               central_fraction=0.8, positions=validation_records.evenly_spaced(6))
    logits = keras.models.load_model(trained.out / "model.keras")(images)
    named = labels.numpy().any(axis=0)
    assert named.sum() == 6
    precision = average_precision_score(labels.numpy()[:, named], tf.sigmoid(logits).numpy()[:, named])
    for name, expected in (("validation_loss", float(SigmoidLoss(12.0)(labels, logits))),
                           ("validation_mean_average_precision", precision),
                           ("validation_top_1", float(labels.numpy()[range(6), tf.argmax(logits, 1)].mean()))):
        assert metrics[name] == pytest.approx(float(rows[-1][name])) == pytest.approx(expected, rel=1e-3)
    with (trained.out / "validation.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"step": row["step"], "loss": row["validation_loss"],
             "mean_average_precision": row["validation_mean_average_precision"], "top_1": row["validation_top_1"]}
            for row in rows]


def test_validation_scores_do_not_depend_on_the_batch(
        trained: Trained, small_train: Train, validation_records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for batch in (50, 5):  # all at once, or five and the last one
        monkeypatch.setattr("mlimages.training.validation.BATCH", batch)
        softmax = dataclasses.replace(small_train, loss="softmax")
        validation = Validation(validation_records, classes(24), softmax, readers=1)
        found.append(validation.run(trained.trainers[0], lambda **facts: None))
    assert found[0].scores == pytest.approx(found[1].scores, rel=1e-5)
    np.testing.assert_allclose(found[0].probabilities.sum(axis=1), 1, rtol=1e-5)


def test_validation_uses_evenly_spaced_records(validation_records: Records,
                                                            small_records: Records) -> None:
    assert validation_records.evenly_spaced(4).tolist() == [[0, 0], [0, 2], [0, 4], [0, 6]]
    assert small_records.evenly_spaced(6).tolist() == [[shard, number] for shard in range(3) for number in (0, 4)]
    assert small_records.evenly_spaced(100).tolist() == small_records.positions().tolist()


class Answering:
    """Gives the logits it was made with, of all images that it is asked for."""

    def __init__(self, logits: Callable[[np.ndarray], np.ndarray]) -> None:
        self._logits = logits

    def evaluate(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[float, tf.Tensor]:
        return 1.0, tf.constant(self._logits(labels.numpy()), tf.float32)


@pytest.mark.parametrize("logits, expected, top_1", [
    (lambda labels: 4 * labels - 2, 1.0, 1.0), (lambda labels: -labels, 1 / 6, 0.0),
    (lambda labels: labels * np.nan, np.nan, np.nan)])
def test_the_mean_average_precision_is_over_the_classes_of_the_validation_images(
        validation_records: Records, small_train: Train, logits: Callable[[np.ndarray], np.ndarray],
        expected: float, top_1: float) -> None:
    validation = Validation(validation_records, classes(24), small_train, readers=1)
    trainer = cast(Trainer, Answering(logits))
    found = validation.run(trainer, lambda **facts: None).scores
    assert found[1:] == pytest.approx((expected, top_1), nan_ok=True)


def test_the_log_has_the_steps_in_order_and_the_rate_of_the_schedule(trained: Trained) -> None:
    rows = log(trained.out)
    assert [int(row["step"]) for row in rows] == [5, 6, 10, 12, 15]
    assert float(rows[0]["learning_rate"]) == pytest.approx(0.5 * 0.05 * (1 + np.cos(np.pi / 12)), rel=1e-4)
    assert float(rows[-1]["epoch"]) == 5.0
