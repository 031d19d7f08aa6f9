"""Train the network on the record shards, resuming from the last checkpoint, and publish it."""

import math
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from mlimages import scratch
from mlimages.convert import example as record_formats
from mlimages.errors import UserError
from mlimages.params import Machine, Train
from mlimages.progress import progress
from mlimages.publish import publish, verify, write_json
from mlimages.train import augment, checkpoint, draws, inputs, loss, order, resnet, schedule, step
from mlimages.train.checkpoint import Checkpoints
from mlimages.train.inputs import Records, told, training_batches
from mlimages.train.log import TrainingLog, read_log
from mlimages.train.resnet import build
from mlimages.train.schedule import build_schedule
from mlimages.train.step import Trainer
from mlimages.train.strategy import mirrored_strategy, replica_batch

THIS = sys.modules[__name__]

MODEL = "model.keras"
SAVED_MODEL = "saved_model"
LOG = "training.csv"
METRICS = "metrics.json"
LOGGED_STEPS = 5


def train(params: Train, machine: Machine, *, tfrecords: str | Path = "data/tfrecords",
          out: str | Path = "data/model") -> Path:
    """Publish the trained network in `out`: model.keras, a SavedModel, the log of the training and its metrics.

    Raises UserError for missing or damaged records, a batch that the replicas cannot share, and a loss that is no
    longer finite; the last checkpoint stays then.
    """
    manifest = verify(tfrecords, "convert")
    key = scratch.key(params, inputs=[tfrecords],
                      code=[THIS, augment, checkpoint, draws, inputs, loss, order, record_formats, resnet, schedule,
                            step])
    with scratch.workspace("train", machine, key, out) as work:
        if not (work / "out" / METRICS).exists():
            shutil.rmtree(work / "out", ignore_errors=True)
            _train(params, machine, Path(tfrecords), manifest, work)
            shutil.rmtree(work / "checkpoints")
        publish(work / "out", out, verb="train", records={}, architecture=params.architecture,
                classes=manifest["classes"], pixels=params.pixels)
    return Path(out)


def _train(params: Train, machine: Machine, tfrecords: Path, manifest: dict[str, Any], work: Path) -> None:
    records = Records(tfrecords, manifest, "train")
    images = len(records)
    plan = build_schedule(params, images)
    strategy = mirrored_strategy(machine)
    per_replica = replica_batch(params.batch, strategy)
    trainer = Trainer(params, manifest["classes"], plan, strategy)
    checkpoints = Checkpoints(work / "checkpoints", trainer.model, trainer.optimizer, trainer.loss)
    done = checkpoints.restore()
    print(f"{params.architecture}, {trainer.model.count_params():,} weights, {strategy.num_replicas_in_sync} replicas "
          f"of {per_replica} images; {plan.total_steps} steps over {images} images"
          + (f", resumed after step {done}" if done else ""))

    def pipeline(context: Any) -> Any:
        parts, pipelines = context.num_replicas_in_sync, context.num_input_pipelines
        mine = range(parts)[context.input_pipeline_id * (parts // pipelines):][: parts // pipelines]
        return training_batches(records, params, steps=plan.total_steps, first=done, parts=parts, mine=mine,
                                readers=machine.workers)

    batches = told(strategy.distribute_datasets_from_function(pipeline))
    with (progress("train", total=plan.total_steps, done=done, unit=" steps", machine=machine) as bar,
          TrainingLog(work / LOG, work / "tensorboard", done) as log):
        for last, mean_loss, elapsed in _steps(trainer, batches, done, plan.total_steps, params.checkpoint_steps):
            rate = float(plan(last - 1))
            saving = last % params.checkpoint_steps == 0 or last == plan.total_steps
            if saving:
                trainer.average_statistics()
            if not math.isfinite(mean_loss) or (saving and not trainer.is_finite()):
                raise UserError(f"the loss or the weights are no longer finite at step {last} (loss {mean_loss}, "
                                f"learning rate {rate:.3g}); the last good checkpoint is kept; lower "
                                f"train.learning_rate, or lengthen train.warmup_epochs")
            speed = (last - done) * params.batch / elapsed
            log.row(last, last * params.batch / images, mean_loss, rate, speed)
            if saving:
                checkpoints.save(last)
            bar.set_postfix(loss=f"{mean_loss:.4g}", images_per_second=f"{speed:.1f}", refresh=False)
            bar.update(last - done)
            done = last
    _save(params, trainer, manifest["classes"], work / "out")
    shutil.copyfile(work / LOG, work / "out" / LOG)
    rows = read_log(work / LOG)
    write_json(work / "out" / METRICS, {
        "steps": plan.total_steps, "images": plan.total_steps * params.batch, "weights": trainer.model.count_params(),
        "replicas": strategy.num_replicas_in_sync, "final_loss": rows[-1]["loss"],
        "images_per_second": statistics.median(row["images_per_second"] for row in rows)})


def _steps(trainer: Trainer, batches: Iterator[Any], done: int, total: int,
           checkpoint_steps: int) -> Iterator[tuple[int, float, float]]:
    """Train from step `done` to `total`; now and then yields the last step, the mean loss since, and the seconds.

    The device is asked for its losses only then, so that it never waits for Python in between.
    """
    losses, began = [], time.monotonic()
    for number in range(done + 1, total + 1):
        losses.append(trainer.step(next(batches)))
        if number % LOGGED_STEPS == 0 or number % checkpoint_steps == 0 or number == total:
            mean = sum(float(value) for value in losses) / len(losses)
            yield number, mean, time.monotonic() - began
            losses, began = [], time.monotonic()


def _save(params: Train, trainer: Trainer, classes: int, out: Path) -> None:
    """Save with Keras' own batch norm, so that `keras.models.load_model` needs nothing of this project."""
    plain = build(params.architecture, classes, batch_norm_momentum=params.batch_norm_momentum,
                  batch_norm=keras.layers.BatchNormalization)
    plain.set_weights(trainer.model.get_weights())
    out.mkdir(parents=True, exist_ok=True)
    plain.save(out / MODEL)
    plain.export(out / SAVED_MODEL, verbose=False)
