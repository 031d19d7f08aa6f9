"""The stage evaluate: measure the trained network on the validation records."""

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
from mlimages.core.progress import progress_bar
from mlimages.core.publish import publish, verify
from mlimages.evaluate.measure import probabilities
from mlimages.evaluate.predictions import LABELS, PREDICTIONS, open_prediction_writer
from mlimages.evaluate.tables import write_tables
from mlimages.inputs.pipeline import Records, evaluation_batches, with_user_errors
from mlimages.metrics.decisions import top_classes
from mlimages.metrics.measurement import MetricsAccumulator
from mlimages.network.load_model import MODEL, load_model


def evaluate(params: Evaluate, machine: Machine, *, model: str | Path = "data/model",
             tfrecords: str | Path = "data/tfrecords", lists: str | Path = "data/lists",
             out: str | Path = "data/evaluation") -> Path:
    """Publish metrics.json, tables by class, depth and frequency, curves, and the best classes of each image in `out`.

    Returns `out`. Raises UserError for missing or damaged inputs, for a network with other classes than the records,
    and for outputs that are not numbers.
    """
    stamps = scratch.stamps(machine)
    trained = verify(model, "train", stamps=stamps, select=MODEL.__eq__)
    manifest = verify(tfrecords, "convert", stamps=stamps,
                      select=lambda name: name == CLASSES or name.startswith("val-"))
    listed = verify(lists, "acquire", stamps=stamps, select=DICTIONARY.__eq__)["classes"]
    if not trained["classes"] == manifest["classes"] == listed:
        raise UserError(f"{model} was trained on {trained['classes']} classes, {tfrecords} holds "
                        f"{manifest['classes']}, {lists} names {listed}; run `dvc repro evaluate`")
    key = scratch.key(params, inputs=[model, tfrecords, lists], stage="evaluate")
    settings = scratch.settings(params, inputs=[model, tfrecords, lists])
    with scratch.workspace("evaluate", machine, key, out, settings) as work:
        shutil.rmtree(work / "out", ignore_errors=True)
        records = Records(tfrecords, manifest, "val")
        tree = read_tree(Path(lists) / DICTIONARY)
        accumulator = MetricsAccumulator(listed, at_k=params.at_k, threshold=params.threshold,
                                  score_threshold=params.score_threshold, parents=tree.parents)
        batches = with_user_errors(evaluation_batches(
            records, batch=params.batch, pixels=trained["pixels"], preprocessing=params.preprocessing,
            central_fraction=params.central_fraction, readers=machine.workers))
        network = load_model(model)
        scored_batches = probabilities(network.call, network.require_activation(), batches)
        with progress_bar("evaluate", total=len(records), unit=" images", machine=machine) as bar:
            labels = _measure(params, accumulator, scored_batches, records.keys(), work / "out", bar)
        write_tables(accumulator.result(), tree, records_by_class(tfrecords, "train"), params.frequency_groups,
                     work / "out")
        publish(work / "out", out, stage="evaluate", records={PREDICTIONS: len(records), LABELS: labels},
                threshold=params.threshold, score_threshold=params.score_threshold)
    return Path(out)


def _measure(params: Evaluate, accumulator: MetricsAccumulator, scored_batches: Iterable[Any], keys: np.ndarray,
             out: Path, bar: Any) -> int:
    """Count all batches and write their best classes; returns the number of labels."""
    kept = min(params.predictions_kept, accumulator.classes)
    with open_prediction_writer(out, keys.itemsize, kept) as writer:
        for scores, confidences in scored_batches:
            batch_keys = keys[accumulator.images: accumulator.images + len(scores)]
            accumulator.update(scores, confidences)
            writer.add(batch_keys, top_classes(scores, kept), scores, confidences)
            bar.update(len(scores))
        return writer.labels_written
