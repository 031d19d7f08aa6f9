"""Measure the trained network on the validation records."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import read_tree
from mlimages.convert.records import CLASSES, records_by_class
from mlimages.core import scratch
from mlimages.core.errors import UserError
from mlimages.core.params import Evaluate, Machine
from mlimages.core.progress import progress
from mlimages.core.publish import publish, verify
from mlimages.evaluate.network import MODEL, load_network, probabilities
from mlimages.evaluate.predictions import LABELS, PREDICTIONS, writing_predictions
from mlimages.evaluate.tables import write_tables
from mlimages.inputs.pipeline import Records, evaluation_batches, with_user_errors
from mlimages.metrics.decisions import best
from mlimages.metrics.measurement import Measurement


def evaluate(params: Evaluate, machine: Machine, *, model: str | Path = "data/model",
             tfrecords: str | Path = "data/tfrecords", lists: str | Path = "data/lists",
             out: str | Path = "data/evaluation") -> Path:
    """Publish metrics.json, tables by class, depth and frequency, curves, and each image's best classes in `out`.

    Scores are counted, not kept. Raises UserError for missing or damaged inputs, for a network of other classes
    than the records, and for one that gives no numbers.
    """
    stamps = scratch.stamps(machine)
    trained = verify(model, "train", stamps=stamps, uses=MODEL.__eq__)
    manifest = verify(tfrecords, "convert", stamps=stamps, uses=lambda name: name == CLASSES or name.startswith("val-"))
    listed = verify(lists, "acquire", stamps=stamps, uses=DICTIONARY.__eq__)["classes"]
    if not trained["classes"] == manifest["classes"] == listed:
        raise UserError(f"{model} was trained on {trained['classes']} classes, {tfrecords} holds "
                        f"{manifest['classes']}, {lists} names {listed}; run `dvc repro evaluate`")
    key = scratch.key(params, inputs=[model, tfrecords, lists], stage="evaluate")
    with scratch.workspace("evaluate", machine, key, out) as work:
        shutil.rmtree(work / "out", ignore_errors=True)
        records = Records(tfrecords, manifest, "val")
        tree = read_tree(Path(lists) / DICTIONARY)
        measured = Measurement(listed, at_k=params.at_k, threshold=params.threshold,
                               score_threshold=params.score_threshold, parents=tree.parents)
        batches = with_user_errors(evaluation_batches(
            records, batch=params.batch, pixels=trained["pixels"], preprocessing=params.preprocessing,
            central_fraction=params.central_fraction, readers=machine.workers))
        scored = probabilities(*load_network(model), batches)
        with progress("evaluate", total=len(records), unit=" images", machine=machine) as bar:
            labels = _measure(params, measured, scored, records.keys(), work / "out", bar)
        write_tables(measured.figures(), tree, records_by_class(tfrecords, "train"), params.frequency_groups,
                     work / "out")
        publish(work / "out", out, verb="evaluate", records={PREDICTIONS: len(records), LABELS: labels},
                threshold=params.threshold, score_threshold=params.score_threshold)
    return Path(out)


def _measure(params: Evaluate, measured: Measurement, scored: Iterable[Any], keys: np.ndarray, out: Path,
             bar: Any) -> int:
    """Measure all batches and write down their best classes; returns how many labels they have."""
    kept = min(params.predictions_kept, measured.classes)
    with writing_predictions(out, keys.itemsize, kept) as writer:
        for scores, confidences in scored:
            some = keys[measured.images: measured.images + len(scores)]
            measured.update(scores, confidences)
            writer.add(some, best(scores, kept), scores, confidences)
            bar.update(len(scores))
        return writer.labels_written
