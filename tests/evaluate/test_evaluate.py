"""evaluate measures every validation record once, and refuses what does not fit or is damaged."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score

from mlimages.convert.records import parse_sparse
from mlimages.demo import world
from mlimages.errors import UserError
from mlimages.evaluate import evaluate
from mlimages.evaluate.predictions import load_model, read_predictions
from mlimages.publish import MANIFEST, publish, read_manifest, verify

AT_K = {"precision", "recall", "f1", "instance_precision", "instance_recall", "instance_f1"}


@pytest.fixture(scope="module")
def evaluation(small_stages: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(small_stages, tmp_path_factory.mktemp("evaluation"))


def run(stages: Any, root: Path, **changed: Any) -> Path:
    inputs = {"model": stages.model, "tfrecords": stages.tfrecords, "lists": stages.lists, **changed}
    machine = dataclasses.replace(stages.machine, scratch=str(root / "scratch"))
    return evaluate(stages.params, machine, out=root / "evaluation", **inputs)


def validation_records(stages: Any) -> list[dict[str, Any]]:
    paths = [str(path) for path in sorted(stages.tfrecords.glob("val-*.tfrecord"))]
    return [parse_sparse(one) for one in tf.data.TFRecordDataset(paths)]


def test_metrics_json_has_what_is_promised(evaluation: Path) -> None:
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert set(metrics) == {"images", "classes", "mean_average_precision_macro", "mean_average_precision_micro",
                            "base_rate", "base_rate_micro", "at_1", "at_5", "threshold"}
    assert set(metrics["at_1"]) == set(metrics["at_5"]) == AT_K
    assert metrics["threshold"] == 0.5
    figures = [metrics["mean_average_precision_macro"], metrics["base_rate"], *metrics["at_5"].values()]
    assert all(0 <= figure <= 1 for figure in figures)


def test_every_validation_record_is_predicted_once(evaluation: Path, small_stages: Any) -> None:
    records = validation_records(small_stages)
    predictions = read_predictions(evaluation / "predictions.npz")
    assert json.loads((evaluation / "metrics.json").read_text())["images"] == len(records) > 15
    assert predictions.keys.tolist() == [record["key"].numpy().decode() for record in records]
    assert predictions.scores.shape == predictions.confidences.shape == (len(records), len(world.CLASSES))
    for row, record in zip(predictions.confidences, records, strict=True):
        assert np.flatnonzero(row).tolist() == record["index"].numpy().tolist()
        assert row[row > 0].tolist() == record["confidence"].numpy().tolist()


def test_the_scores_are_the_probabilities_of_the_published_network(evaluation: Path, small_stages: Any) -> None:
    [record, *_] = validation_records(small_stages)
    picture = tf.io.decode_jpeg(record["encoded"], channels=3, dct_method="INTEGER_ACCURATE")
    picture = tf.image.resize(tf.image.central_crop(picture, 0.8), (32, 32)) / 127.5 - 1
    logits = load_model(small_stages.model / "model.keras")(picture[None]).numpy()[0]
    scores = read_predictions(evaluation / "predictions.npz").scores[0]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-4)


def test_the_metrics_are_those_of_the_predictions(evaluation: Path) -> None:
    predictions = read_predictions(evaluation / "predictions.npz")
    truths = predictions.confidences >= 0.5
    metrics = json.loads((evaluation / "metrics.json").read_text())
    micro = average_precision_score(truths.ravel(), predictions.scores.ravel())
    assert metrics["mean_average_precision_micro"] == pytest.approx(micro)
    assert metrics["classes"] == truths.any(axis=0).sum()
    with (evaluation / "per_class.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["images"]) for row in table] == truths.sum(axis=0).tolist()
    assert [row["average_precision"] == "" for row in table] == (~truths.any(axis=0)).tolist()


def test_the_curve_goes_from_no_recall_to_all_of_it(evaluation: Path) -> None:
    with (evaluation / "precision_recall.csv").open(encoding="utf-8", newline="") as file:
        recall = [float(row["recall"]) for row in csv.DictReader(file)]
    assert recall == sorted(recall)
    assert recall[0] < 0.1 and recall[-1] == 1


def test_the_same_evaluation_again_publishes_the_same_bytes(evaluation: Path, small_stages: Any,
                                                            tmp_path: Path) -> None:
    assert read_manifest(run(small_stages, tmp_path), "evaluate") == verify(evaluation, "evaluate")


def test_a_network_of_other_classes_is_refused_with_both_numbers(small_stages: Any, tmp_path: Path) -> None:
    work = shutil.copytree(small_stages.model, tmp_path / "work", ignore=shutil.ignore_patterns(MANIFEST))
    publish(work, tmp_path / "model", verb="train", records={}, architecture="tiny", classes=7,
            pixels=32)
    classes = read_manifest(small_stages.tfrecords, "convert")["classes"]
    with pytest.raises(UserError, match=f"was trained on 7 classes.*holds {classes}, .*; run `dvc repro evaluate`"):
        run(small_stages, tmp_path, model=tmp_path / "model")
    assert not (tmp_path / "evaluation").exists()


def test_a_model_changed_since_is_refused_before_it_is_loaded(small_stages: Any, tmp_path: Path) -> None:
    model = shutil.copytree(small_stages.model, tmp_path / "model")
    with (model / "model.keras").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"model\.keras has \d+ bytes.*dvc repro --force train"):
        run(small_stages, tmp_path, model=model)


def cut(body: bytes) -> bytes:
    return body[: len(body) // 2]


def garbage(body: bytes) -> bytes:
    return b"<!DOCTYPE html>" + bytes(len(body))


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[: middle - 500] + bytes(255 - byte for byte in body[middle - 500 : middle + 500]) + body[middle + 500 :]


def flipped_config(body: bytes) -> bytes:
    start = body.index(b"config.json") + 60
    return body[:start] + bytes(255 - byte for byte in body[start : start + 200]) + body[start + 200 :]


@pytest.mark.parametrize("damage", [cut, garbage, flipped, flipped_config])
def test_a_damaged_network_is_refused_with_its_path_and_the_command_that_mends_it(
        damage: Any, small_stages: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(damage((small_stages.model / "model.keras").read_bytes()))
    with pytest.raises(UserError, match=r"model\.keras is no network that can be loaded.*dvc repro --force train"):
        load_model(path)


def test_a_missing_network_names_the_stage_to_run(small_stages: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `dvc repro train`"):
        run(small_stages, tmp_path, model=tmp_path / "no-model")
