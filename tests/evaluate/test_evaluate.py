"""evaluate measures every validation record once, and refuses inputs that are damaged or do not fit."""

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

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import read_tree
from mlimages.convert.records import parse_sparse
from mlimages.core.errors import UserError
from mlimages.core.publish import MANIFEST, publish, read_manifest, verify
from mlimages.demo import world
from mlimages.evaluate.measure import measure
from mlimages.evaluate.predictions import read_predictions
from mlimages.evaluate.run import evaluate
from mlimages.inputs.pipeline import Records, evaluation_batches
from mlimages.network.load_model import load_keras

METRICS = {"images", "classes", "mean_average_precision_macro", "mean_average_precision_macro_error",
           "mean_average_precision_weighted", "mean_average_precision_micro", "base_rate", "base_rate_weighted",
           "base_rate_micro", "times_base_rate", "expected_calibration_error", "at_1", "at_5", "at_threshold"}
DECISIONS = {f"{mean}_{figure}" for mean in ("micro", "macro", "instance") for figure in ("precision", "recall", "f1")}


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


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def all_scores(predictions: Any) -> np.ndarray:
    """The scores of predictions that keep all classes, float32 [images, classes]."""
    scores = np.empty(predictions.best["class"].shape, np.float32)
    np.put_along_axis(scores, predictions.best["class"], predictions.best["score"], axis=1)
    return scores


def all_truths(stages: Any) -> np.ndarray:
    truths = np.zeros((len(validation_records(stages)), len(world.CLASSES)), bool)
    for row, record in zip(truths, validation_records(stages), strict=True):
        row[record["index"].numpy()[record["confidence"].numpy() >= 0.5]] = True
    return truths


def test_metrics_json_has_every_documented_metric(evaluation: Path) -> None:
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert set(metrics) == METRICS
    for cutoff in ("at_1", "at_5", "at_threshold"):
        assert set(metrics[cutoff]) == {*DECISIONS, "without_parent"}
        assert all(0 <= figure <= 1 for figure in metrics[cutoff].values())
    assert all(0 <= metrics[name] <= 1 for name in METRICS if "precision" in name or name.startswith("base_rate"))


def test_every_validation_record_is_predicted_once(evaluation: Path, small_stages: Any) -> None:
    records = validation_records(small_stages)
    predictions = read_predictions(evaluation)
    assert json.loads((evaluation / "metrics.json").read_text())["images"] == len(records) > 15
    assert predictions.best["key"].tolist() == [record["key"].numpy() for record in records]
    assert predictions.best["class"].shape == predictions.best["score"].shape == (len(records), len(world.CLASSES))
    for image, record in enumerate(records):
        labels = predictions.labels[predictions.labels["image"] == image]
        assert labels["class"].tolist() == record["index"].numpy().tolist()
        assert labels["confidence"].tolist() == record["confidence"].numpy().tolist()


def test_the_scores_are_the_probabilities_of_the_published_network(evaluation: Path, small_stages: Any) -> None:
    [record, *_] = validation_records(small_stages)
    picture = tf.io.decode_jpeg(record["encoded"], channels=3)
    picture = tf.compat.v1.image.resize_bilinear(tf.image.central_crop(picture, 0.8)[None], (32, 32)) / 127.5 - 1
    logits = load_keras(small_stages.model / "model.keras")(picture).numpy()[0]
    np.testing.assert_allclose(all_scores(read_predictions(evaluation))[0], 1 / (1 + np.exp(-logits)), rtol=1e-4)


def test_the_metrics_are_those_of_the_predictions(evaluation: Path, small_stages: Any) -> None:
    scores, truths = all_scores(read_predictions(evaluation)), all_truths(small_stages)
    metrics = json.loads((evaluation / "metrics.json").read_text())
    micro = average_precision_score(truths.ravel(), scores.ravel())
    assert metrics["mean_average_precision_micro"] == pytest.approx(micro, abs=1e-3)
    assert metrics["classes"] == truths.any(axis=0).sum()
    rows = read_csv(evaluation / "per_class.csv")
    assert [int(row["images"]) for row in rows] == truths.sum(axis=0).tolist()
    for index, row in enumerate(rows):
        exact = average_precision_score(truths[:, index], scores[:, index]) if truths[:, index].any() else None
        found = row["average_precision"]
        assert found == "" if exact is None else float(found) == pytest.approx(exact, abs=1e-6)


def test_the_tables_by_depth_and_by_frequency_count_each_class_once(evaluation: Path, small_stages: Any) -> None:
    classes, depths, groups = (read_csv(evaluation / name) for name in ("per_class.csv", "by_depth.csv",
                                                                        "by_frequency.csv"))
    named = [row for row in classes if row["average_precision"]]
    assert [row["depth"] for row in depths] == ["0", "1", "2", "3"]
    assert [row["train_records"] for row in groups] == ["under 10", "10 to 39", "40 or more"]
    of_groups = [[row for row in named if row["depth"] == group["depth"]] for group in depths]
    of_groups += [[row for row in named if low <= int(row["train_records"]) < high]
                  for low, high in ((0, 10), (10, 40), (40, 1000))]
    for group, rows in zip([*depths, *groups], of_groups, strict=True):
        assert int(group["classes"]) == len(rows)
        assert float(group["average_precision"]) == pytest.approx(
            np.mean([float(row["average_precision"]) for row in rows]), abs=1e-5)


def test_frequencies_are_those_of_the_training_records(evaluation: Path, small_stages: Any) -> None:
    paths = [str(path) for path in sorted(small_stages.tfrecords.glob("train-*.tfrecord"))]
    counts = np.zeros(len(world.CLASSES), int)
    for record in tf.data.TFRecordDataset(paths):
        counts[parse_sparse(record)["index"].numpy()] += 1
    assert [int(row["train_records"]) for row in read_csv(evaluation / "per_class.csv")] == counts.tolist()


def test_the_curves_reach_a_recall_of_1(evaluation: Path) -> None:
    points = read_csv(evaluation / "class_curves.csv")
    names = list(dict.fromkeys(row["name"] for row in points))
    assert len(names) == 5
    for rows in (read_csv(evaluation / "precision_recall.csv"), *([row for row in points if row["name"] == name]
                                                                  for name in names)):
        recall = [float(row["recall"]) for row in rows]
        assert recall == sorted(recall)
        assert recall[-1] == 1


def test_the_calibration_counts_every_label_decision(evaluation: Path, small_stages: Any) -> None:
    rows, truths = read_csv(evaluation / "calibration.csv"), all_truths(small_stages)
    for scale in ("probability", "log_odds"):
        some = [row for row in rows if row["scale"] == scale]
        assert sum(int(row["decisions"]) for row in some) == truths.size
        assert sum(int(row["decisions"]) * float(row["true_share"]) for row in some) == pytest.approx(
            truths.sum(), abs=0.1)
        assert all(float(row["low"]) - 1e-6 <= float(row["probability"]) <= float(row["high"]) + 1e-6 for row in some)


def test_predictions_kept_limits_the_classes_of_an_image_and_not_the_metrics(evaluation: Path, small_stages: Any,
                                                               tmp_path: Path) -> None:
    params = dataclasses.replace(small_stages.params, predictions_kept=3)
    fewer = run(small_stages._replace(params=params), tmp_path)
    found, before = (read_predictions(folder).best for folder in (fewer, evaluation))
    assert found["class"].tolist() == before["class"][:, :3].tolist()
    assert (fewer / "metrics.json").read_text() == (evaluation / "metrics.json").read_text()


def test_the_activation_of_the_training_makes_the_probabilities(small_stages: Any, tmp_path: Path) -> None:
    work = shutil.copytree(small_stages.model, tmp_path / "work", ignore=shutil.ignore_patterns(MANIFEST))
    preprocessing = json.loads((work / "preprocessing.json").read_text())
    (work / "preprocessing.json").write_text(json.dumps({**preprocessing, "activation": "softmax"}))
    publish(work, tmp_path / "model", stage="train", records={}, architecture="tiny", classes=len(world.CLASSES),
            pixels=32, activation="softmax")
    found = read_predictions(run(small_stages, tmp_path, model=tmp_path / "model")).best
    np.testing.assert_allclose(found["score"].sum(axis=1), 1, rtol=1e-5)


def test_measure_gives_the_same_metrics_for_the_same_records(evaluation: Path, small_stages: Any) -> None:
    records = Records(small_stages.tfrecords, verify(small_stages.tfrecords, "convert"), "val")
    dataset = evaluation_batches(records, batch=6, pixels=32, preprocessing="central", central_fraction=0.8)
    rows = read_csv(evaluation / "per_class.csv")
    found = measure(small_stages.model, dataset).average_precision
    expected = [float(row["average_precision"] or "nan") for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("preprocessing, central_fraction", [("central", 0.5), ("shorter_side", 0.8)])
def test_every_parameter_is_that_of_the_measurement(evaluation: Path, small_stages: Any, tmp_path: Path,
                                                    preprocessing: Any, central_fraction: float) -> None:
    cutoffs: dict[str, Any] = {"at_k": [2], "threshold": 0.95, "score_threshold": 0.4}
    params = dataclasses.replace(small_stages.params, preprocessing=preprocessing, central_fraction=central_fraction,
                                 **cutoffs)
    out = run(small_stages._replace(params=params), tmp_path)
    records = Records(small_stages.tfrecords, verify(small_stages.tfrecords, "convert"), "val")
    dataset = evaluation_batches(records, batch=6, pixels=32, preprocessing=preprocessing,
                                 central_fraction=central_fraction)
    expected = measure(small_stages.model, dataset, parents=read_tree(small_stages.lists / DICTIONARY).parents,
                       **cutoffs).summary()
    found, before = (json.loads((folder / "metrics.json").read_text()) for folder in (out, evaluation))
    assert set(found) == set(expected) and found["base_rate"] != before["base_rate"]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name
    assert read_manifest(out, "evaluate")["threshold"] == 0.95
    assert (all_scores(read_predictions(out)) != all_scores(read_predictions(evaluation))).any()


def test_the_same_evaluation_again_publishes_the_same_bytes(evaluation: Path, small_stages: Any,
                                                            tmp_path: Path) -> None:
    assert read_manifest(run(small_stages, tmp_path), "evaluate") == verify(evaluation, "evaluate")


def test_a_network_with_other_classes_is_refused_with_both_numbers(small_stages: Any, tmp_path: Path) -> None:
    work = shutil.copytree(small_stages.model, tmp_path / "work", ignore=shutil.ignore_patterns(MANIFEST))
    preprocessing = json.loads((work / "preprocessing.json").read_text())
    (work / "preprocessing.json").write_text(json.dumps({**preprocessing, "activation": "softmax"}))
    publish(work, tmp_path / "model", stage="train", records={}, architecture="tiny", classes=7,
            pixels=32)
    classes = read_manifest(small_stages.tfrecords, "convert")["classes"]
    with pytest.raises(UserError, match=f"was trained on 7 classes.*holds {classes}, .*; run `dvc repro evaluate`"):
        run(small_stages, tmp_path, model=tmp_path / "model")
    assert not (tmp_path / "evaluation").exists()


def test_a_changed_model_is_refused_before_it_is_loaded(small_stages: Any, tmp_path: Path) -> None:
    model = shutil.copytree(small_stages.model, tmp_path / "model")
    with (model / "model.keras").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"model\.keras has \d+ bytes.*dvc repro --single-item --force train"):
        run(small_stages, tmp_path, model=model)


def test_an_evaluation_reads_only_the_files_that_it_uses(evaluation: Path, small_stages: Any, tmp_path: Path) -> None:
    model = shutil.copytree(small_stages.model, tmp_path / "model")
    shutil.rmtree(model / "saved_model")
    tfrecords = shutil.copytree(small_stages.tfrecords, tmp_path / "tfrecords")
    for path in tfrecords.glob("train-*"):
        path.unlink()
    found = run(small_stages._replace(tfrecords=tfrecords), tmp_path, model=model)
    assert read_manifest(found, "evaluate") == read_manifest(evaluation, "evaluate")


def test_a_missing_network_names_the_stage_to_run(small_stages: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `dvc repro train`"):
        run(small_stages, tmp_path, model=tmp_path / "no-model")
