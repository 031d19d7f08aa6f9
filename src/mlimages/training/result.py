"""The files that a training publishes: the network, how to use it, its log, its metrics and the record of the run."""

import dataclasses
import math
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlimages.core.publish import write_csv, write_json
from mlimages.network.checkpoint_files import (
    CHECKPOINTS,
    HEADLINE,
    METRICS,
    PROFILE,
    checkpoint_folders,
    checkpoint_name,
)
from mlimages.network.model_files import ClassTable, Preprocessing
from mlimages.network.resnet import build
from mlimages.network.serving import save_network
from mlimages.training.jobs import TrainingJob
from mlimages.training.metrics_log import LOG, ValidationScores, as_text, read_log
from mlimages.training.run_record import environment, write_card
from mlimages.training.step import Trainer

MEASURED_ROUNDS = 5  # of the all-reduce
INPUT_STEPS = 4
RUN = "run.json"
CARD = "model_card.md"
# The rows of the log with a validation: a plot of all rows would draw no line between them.
VALIDATION = "validation.csv"
SCORE_COLUMNS = {name: f"validation_{name}" for name in ValidationScores._fields}


@dataclasses.dataclass(frozen=True)
class FinishedTraining:
    """A training after its last step, as the chief publishes it.

    `data` has the sha256 of the manifest of the records and the numbers of classes and images, `machine` the numbers of
    workers and readers. `published_step` is the step of the trainer's weights. `stopped_early` is a sentence about
    early stopping, or None. `wall_seconds` is the duration of the training over all runs, `exchange_seconds` that of
    the all-reduce of a step, `input_seconds` that of making a batch.
    """

    job: TrainingJob
    trainer: Trainer
    classes: ClassTable
    data: Mapping[str, Any]
    machine: Mapping[str, int]
    published_step: int
    stopped_early: str | None
    wall_seconds: float
    exchange_seconds: float
    input_seconds: float


def write_result(training: FinishedTraining) -> None:
    """Write all files, the metrics last: where they exist, the result is complete. Then remove the checkpoints.

    Of a comparison, the checkpoint with the weights of the result is kept.
    """
    job, out = training.job, training.job.out
    if job.comparison:
        out.mkdir(parents=True, exist_ok=True)
    else:
        _write_network(training, out)
    shutil.copyfile(job.work / LOG, out / LOG)
    rows = read_log(job.work / LOG)
    write_csv(out / VALIDATION, ("step", *SCORE_COLUMNS),
              [[as_text(row[name]) for name in ("step", *SCORE_COLUMNS.values())]
               for row in rows if not math.isnan(row["validation_loss"])])
    metrics = _metrics(training, rows)
    warning = divergence(rows)
    if warning and not job.comparison:
        print(f"WARNING: {warning}", flush=True)
    write_json(out / PROFILE, _profile(training, metrics["images_per_second"]))
    run = _run_record(training, metrics, warning)
    write_json(out / RUN, run)
    write_card(out / CARD, run)
    write_json(out / HEADLINE, {"images_per_second": metrics["images_per_second"]})
    write_json(out / METRICS, metrics)
    for folder in checkpoint_folders(job.work / CHECKPOINTS):
        if not job.comparison or folder.name != checkpoint_name(training.published_step):
            shutil.rmtree(folder)


def divergence(rows: Sequence[Mapping[str, float]]) -> str | None:
    """A warning if the training loss or the validation loss is higher at the end of the log than in its first row.

    Such a training is published nevertheless, as long as its loss is finite.
    """
    for name, what in (("loss", "training"), ("validation_loss", "validation")):
        values = [row[name] for row in rows if not math.isnan(row[name])]
        if values and values[-1] > values[0]:
            return (f"the {what} loss ended at {values[-1]:.4g}, above the {values[0]:.4g} of its first row: this "
                    f"training diverged, or learnt nothing; lower train.learning_rate, or lengthen train.warmup")
    return None


def _write_network(training: FinishedTraining, out: Path) -> None:
    params = training.job.params
    network = build(params.architecture, len(training.classes), batch_norm_momentum=params.batch_norm_momentum,
                    stock=True)
    network.set_weights(training.trainer.weights())
    preprocessing = Preprocessing(params.pixels, "central", params.validation_fraction, params.activation)
    save_network(network, training.classes, preprocessing, out)


def _metrics(training: FinishedTraining, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    steps = np.diff([row["step"] for row in rows], prepend=0.0)
    speeds = np.array([row["images_per_second"] for row in rows])
    images = steps * training.job.params.batch
    [published] = [row for row in rows if row["step"] == training.published_step]
    return {
        "steps": int(rows[-1]["step"]), "published_step": training.published_step, "images": int(images.sum()),
        "weights": training.trainer.model.count_params(), "replicas": training.trainer.strategy.num_replicas_in_sync,
        "final_loss": rows[-1]["loss"],
        **{name: None if math.isnan(published[name]) else published[name] for name in SCORE_COLUMNS.values()},
        "images_per_second": float(np.median(speeds)), "training_seconds": round(float((images / speeds).sum()), 1),
        "wall_seconds": round(training.wall_seconds, 1)}


def _profile(training: FinishedTraining, images_per_second: float) -> dict[str, Any]:
    """The seconds of a step, of its all-reduce alone and of its input alone, and the bytes that a step exchanges."""
    trainer = training.trainer
    replicas = trainer.strategy.num_replicas_in_sync
    values = sum(int(np.prod(shape)) for shape in trainer.exchanged_shapes) if replicas > 1 else 0
    return {"step_seconds": training.job.params.batch / images_per_second,
            "exchange_seconds": training.exchange_seconds, "input_seconds": training.input_seconds,
            "replicas": replicas, "exchanged_bytes": values * trainer.exchanged.size / trainer.local_sgd_steps}


def _run_record(training: FinishedTraining, metrics: Mapping[str, Any], warning: str | None) -> dict[str, Any]:
    loaded, params = training.trainer.loaded, training.job.params
    return {"params": dataclasses.asdict(params), "data": training.data, "activation": params.activation,
            "initialized": loaded and loaded._asdict(),
            "machine": training.machine, "environment": environment(), "xla": training.trainer.compiled,
            "metrics": metrics, "stopped_early": training.stopped_early, "warning": warning}


def exchange_seconds(trainer: Trainer) -> float:
    """The seconds that the all-reduce takes, per step: the median of MEASURED_ROUNDS. Every worker must call this."""

    def exchange() -> Any:
        return [total[..., :1] for total in trainer.exchange([tf.zeros(shape) for shape in trainer.exchanged_shapes])]

    run = tf.function(lambda: trainer.strategy.run(exchange), autograph=False)
    run()  # traces
    seconds = []
    for _ in range(MEASURED_ROUNDS):
        began = time.monotonic()
        run()
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds) / trainer.local_sgd_steps


def input_seconds(batches: Iterable[Any]) -> float:
    """The seconds that this worker takes for its part of a batch, if it does nothing else: a mean of INPUT_STEPS."""
    began = time.monotonic()
    for _ in batches:
        pass
    return (time.monotonic() - began) / INPUT_STEPS
