"""Measure the trained network on the validation records."""

import shutil
import sys
from pathlib import Path

import numpy as np

from mlimages import scratch
from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.errors import UserError
from mlimages.evaluate import metrics
from mlimages.evaluate.predictions import Predictions, load_model, predict, write_predictions
from mlimages.params import Evaluate, Machine
from mlimages.progress import progress
from mlimages.publish import publish, verify, write_csv, write_json
from mlimages.train import augment
from mlimages.train.inputs import Records, evaluation_batches, told

THIS = sys.modules[__name__]

PREDICTIONS = "predictions.npz"
METRICS = "metrics.json"
PER_CLASS = "per_class.csv"
CURVE = "precision_recall.csv"
MODEL = "model.keras"
CURVE_POINTS = 200


def evaluate(params: Evaluate, machine: Machine, *, model: str | Path = "data/model",
             tfrecords: str | Path = "data/tfrecords", lists: str | Path = "data/lists",
             out: str | Path = "data/evaluation") -> Path:
    """Publish metrics.json, the table of the classes, the precision-recall curve and all predictions in `out`.

    Raises UserError for missing or damaged inputs, and for a network of other classes than the records.
    """
    trained, manifest = verify(model, "train"), verify(tfrecords, "convert")
    listed = verify(lists, "acquire")["classes"]
    if not trained["classes"] == manifest["classes"] == listed:
        raise UserError(f"{model} was trained on {trained['classes']} classes, {tfrecords} holds "
                        f"{manifest['classes']}, {lists} names {listed}; run `dvc repro evaluate`")
    key = scratch.key(params, inputs=[model, tfrecords, lists], code=[THIS, augment, metrics])
    with scratch.workspace("evaluate", machine, key, out) as work:
        shutil.rmtree(work / "out", ignore_errors=True)
        records = Records(tfrecords, manifest, "val")
        batches = told(evaluation_batches(
            records, batch=params.batch, pixels=trained["pixels"], preprocessing=params.preprocessing,
            central_fraction=params.central_fraction, readers=machine.workers))
        with progress("evaluate", total=len(records), unit=" images", machine=machine) as bar:
            predictions = predict(load_model(Path(model) / MODEL), batches, bar.update)
        _write(params, predictions, read_tree(Path(lists) / DICTIONARY), work / "out")
        publish(work / "out", out, verb="evaluate", records={PREDICTIONS: len(records)})
    return Path(out)


def _write(params: Evaluate, predictions: Predictions, tree: ClassTree, out: Path) -> None:
    truths = predictions.confidences >= params.threshold
    write_predictions(out / PREDICTIONS, predictions)
    figures = metrics.summary(predictions.scores, truths, params.at_k)
    write_json(out / METRICS, {**figures, "threshold": params.threshold})
    rows = metrics.per_class(predictions.scores, truths)
    write_csv(out / PER_CLASS, ("class", "name", "depth", "images", "base_rate", "average_precision"),
              [(row["class"], tree.label(row["class"]), tree.depths[row["class"]], row["images"],
                f"{row['base_rate']:.6f}", f"{row['average_precision']:.6f}" if row["images"] else "")
               for row in rows])
    precision, recall = metrics.precision_recall(predictions.scores.ravel(), truths.ravel())
    chosen = np.unique(np.searchsorted(recall, np.linspace(0, 1, CURVE_POINTS)).clip(0, len(recall) - 1))
    write_csv(out / CURVE, ("recall", "precision"),
              [(f"{recall[index]:.5f}", f"{precision[index]:.5f}") for index in chosen])
