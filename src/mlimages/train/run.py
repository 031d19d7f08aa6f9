"""Train the network on the record shards, resuming from the last checkpoint, and publish it."""

import dataclasses
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mlimages import scratch
from mlimages.convert import example as record_formats
from mlimages.params import Machine, Train
from mlimages.publish import MANIFEST, publish, sha256, verify, write_json
from mlimages.train import (
    augment,
    batch_norm,
    checkpoint,
    draws,
    finish,
    fused,
    inputs,
    loop,
    loss,
    optimizer,
    order,
    resnet,
    resume,
    schedule,
    step,
)
from mlimages.train.checkpoint import checkpoint_files
from mlimages.train.inputs import Records, telling, training_batches
from mlimages.train.log import read_log
from mlimages.train.loop import LOG, run_steps
from mlimages.train.record import environment, write_card
from mlimages.train.resnet import build
from mlimages.train.resume import Checkpoints
from mlimages.train.step import Trainer
from mlimages.train.strategy import distribute, mirrored_strategy, replica_batch
from mlimages.train.validation import Validation

CODE = [sys.modules[__name__], augment, batch_norm, checkpoint, draws, finish, fused, inputs, loop, loss, optimizer,
        order, record_formats, resnet, resume, schedule, step]

MODEL = "model.keras"
SAVED_MODEL = "saved_model"
METRICS = "metrics.json"
RUN = "run.json"
CARD = "model_card.md"
CHECKPOINTS = "checkpoints"


def train(params: Train, machine: Machine, *, tfrecords: str | Path = "data/tfrecords",
          out: str | Path = "data/model") -> Path:
    """Publish the trained network in `out`: model.keras, a SavedModel, the log of the training, its metrics and record.

    Raises UserError for missing or damaged records, a batch that the replicas cannot share, a checkpoint to start from
    that does not fit, and a loss that is no longer finite; the last checkpoint stays then. So it does after SIGTERM and
    SIGINT, which save one more.
    """
    manifest = verify(tfrecords, "convert")
    first = checkpoint_files(params.initialize_from) if params.initialize_from is not None else []
    key = scratch.key(params, inputs=[tfrecords], files=first, code=CODE)
    with scratch.workspace("train", machine, key, out) as work:
        if not (work / "out" / METRICS).exists():
            shutil.rmtree(work / "out", ignore_errors=True)
            _train(params, machine, Path(tfrecords), manifest, work)
            shutil.rmtree(work / CHECKPOINTS)
        publish(work / "out", out, verb="train", records={}, architecture=params.architecture,
                classes=manifest["classes"], pixels=params.pixels, activation=_activation(params))
    return Path(out)


def _train(params: Train, machine: Machine, tfrecords: Path, manifest: dict[str, Any], work: Path) -> None:
    if params.deterministic:
        tf.config.experimental.enable_op_determinism()
    classes = manifest["classes"]
    records = Records(tfrecords, manifest, "train")
    images = len(records)
    plan = schedule.build_schedule(params, images)
    strategy = mirrored_strategy(machine)
    per_replica = replica_batch(params, strategy)
    trainer = Trainer(params, classes, strategy, steps_per_call=machine.steps_per_call)
    checkpoints = Checkpoints(work / CHECKPOINTS, trainer.variables,
                              {"architecture": params.architecture, "classes": classes}, machine.checkpoints_kept)
    resumed = checkpoints.restore()
    print(f"{params.architecture}, {trainer.model.count_params():,} weights, {strategy.num_replicas_in_sync} replicas "
          f"of {per_replica} images; {plan.total_steps} steps over {images} images"
          + (f", resumed after step {resumed.step}" if resumed.step else ""))
    validation = None
    if params.validation_images:
        validation = Validation(Records(tfrecords, manifest, "val"), images=params.validation_images,
                                pixels=params.pixels, readers=machine.workers)

    def pipeline(context: Any) -> Any:
        parts, pipelines = context.num_replicas_in_sync, context.num_input_pipelines
        mine = range(parts)[context.input_pipeline_id * (parts // pipelines):][: parts // pipelines]
        return training_batches(records, params, steps=plan.total_steps, first=resumed.step, parts=parts, mine=mine,
                                readers=machine.workers)

    batches = distribute(strategy, pipeline)
    with telling():
        run_steps(trainer, batches, plan, checkpoints, resumed, validation, params, machine, images=images, work=work)
    published = checkpoints.restore_best() if params.publish == "best" else plan.total_steps
    _save(params, trainer, classes, work / "out")
    shutil.copyfile(work / LOG, work / "out" / LOG)
    data = {"manifest_sha256": sha256(tfrecords / MANIFEST), "classes": classes, "images": images}
    _record(params, trainer, data, published, work / "out")


def _save(params: Train, trainer: Trainer, classes: int, out: Path) -> None:
    """Save with Keras' own batch norm, so that `keras.models.load_model` needs nothing of this project."""
    plain = build(params.architecture, classes, batch_norm_momentum=params.batch_norm_momentum,
                  batch_norm=keras.layers.BatchNormalization)
    plain.set_weights(trainer.weights())
    out.mkdir(parents=True, exist_ok=True)
    plain.save(out / MODEL)
    plain.export(out / SAVED_MODEL, verbose=False)


def _record(params: Train, trainer: Trainer, data: dict[str, Any], published: int, out: Path) -> None:
    """What the run was and came to; the metrics last, which say that all is there."""
    rows = read_log(out / LOG)
    images = [(row["step"] - before["step"]) * params.batch
              for before, row in zip([{"step": 0.0}, *rows], rows, strict=False)]
    seconds = sum(seen / row["images_per_second"] for seen, row in zip(images, rows, strict=True))
    [tried] = [row["validation_loss"] for row in rows if row["step"] == published]
    metrics = {
        "steps": int(rows[-1]["step"]), "published_step": published, "images": sum(map(int, images)),
        "weights": trainer.model.count_params(), "replicas": trainer.strategy.num_replicas_in_sync,
        "final_loss": rows[-1]["loss"], "validation_loss": tried if params.validation_images else None,
        "images_per_second": statistics.median(row["images_per_second"] for row in rows),
        "training_seconds": round(seconds, 1)}
    run = {"params": dataclasses.asdict(params), "data": data, "activation": _activation(params),
           "environment": environment(), "xla": trainer.compiled, "metrics": metrics}
    write_json(out / RUN, run)
    write_card(out / CARD, run)
    write_json(out / METRICS, metrics)


def _activation(params: Train) -> str:
    """What makes probabilities of the logits."""
    return "softmax" if params.loss == "softmax" else "sigmoid"
