"""Train on the devices of this process, alone or as one of several workers, and write what comes of it."""

import dataclasses
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mlimages import memory
from mlimages.params import Machine, Train
from mlimages.publish import MANIFEST, read_manifest, sha256, write_json
from mlimages.train.files import CHECKPOINTS, METRICS
from mlimages.train.inputs import Records, telling, training_batches
from mlimages.train.log import read_log
from mlimages.train.loop import LOG, run_steps
from mlimages.train.profile import INPUT_STEPS, exchange_seconds, input_seconds, write_profile
from mlimages.train.record import environment, write_card
from mlimages.train.resnet import build
from mlimages.train.resume import Checkpoints
from mlimages.train.role import ALONE, Role
from mlimages.train.schedule import build_schedule
from mlimages.train.step import Trainer
from mlimages.train.strategy import build_strategy, distribute, meet, replica_batch
from mlimages.train.validation import Validation

MODEL = "model.keras"
SAVED_MODEL = "saved_model"
RUN = "run.json"
CARD = "model_card.md"
# By which the chief leaves last: TensorFlow on the other workers fails without it.
PARTING_SECONDS = 2.0


def fit(params: Train, machine: Machine, *, tfrecords: Path, work: Path, role: Role = ALONE) -> Any:
    """Train from the last checkpoint in `work` to the end, and write the result to its `out`, as the chief.

    Returns the iterator of the batches: of several workers it is still at work, and taking it down then can hang.
    """
    memory.keep_freed(memory.STEPS)
    if params.deterministic:
        tf.config.experimental.enable_op_determinism()
    manifest = read_manifest(tfrecords, "convert")
    classes = manifest["classes"]
    records = Records(tfrecords, manifest, "train")
    images = len(records)
    plan = build_schedule(params, images)
    strategy = build_strategy(params, machine)
    replicas = strategy.num_replicas_in_sync
    per_replica = replica_batch(params, replicas)
    trainer = Trainer(params, classes, strategy, steps_per_call=machine.steps_per_call)
    checkpoints = Checkpoints(work / CHECKPOINTS, trainer.variables,
                              {"architecture": params.architecture, "classes": classes}, machine.checkpoints_kept)
    resumed = checkpoints.restore(mend=role.chief)
    own = role.share(replicas)
    print(f"{params.architecture}, {trainer.model.count_params():,} weights, {replicas} replicas of {per_replica} "
          f"images; {plan.total_steps} steps over {images} images"
          + (f", resumed after step {resumed.step}" if resumed.step else ""))
    if not role.alone:
        role.tell(plan=f"worker {role.index} of {role.workers}: images {own.start * per_replica} to "
                       f"{own.stop * per_replica - 1} of the {params.batch} of every step, steps {resumed.step + 1} to "
                       f"{plan.total_steps}, from {len(records.counts)} shards")
    validation = None
    if params.validation_images and role.chief:
        validation = Validation(Records(tfrecords, manifest, "val"), images=params.validation_images,
                                pixels=params.pixels, readers=machine.workers)

    def share(first: int, steps: int, mine: range) -> Any:
        return training_batches(records, params, steps=steps, first=first, parts=replicas, mine=mine,
                                readers=machine.workers)

    def pipeline(context: Any) -> Any:
        mine = Role(context.input_pipeline_id, context.num_input_pipelines).share(context.num_replicas_in_sync)
        batches = share(resumed.step, plan.total_steps, mine)
        # Of a dataset that may end, workers ask each other before every step whether it has.
        return batches if role.alone else batches.repeat()

    batches = distribute(strategy, pipeline)
    with telling():
        run_steps(trainer, batches, plan, checkpoints, resumed, validation, params, machine, role, images=images,
                  work=work)
    exchange = exchange_seconds(trainer) if replicas > 1 else 0.0
    role.tell(trained=True)
    if role.chief:
        published = checkpoints.restore_best() if params.publish == "best" else plan.total_steps
        _save(params, trainer, classes, work / "out")
        shutil.copyfile(work / LOG, work / "out" / LOG)
        data = {"manifest_sha256": sha256(tfrecords / MANIFEST), "classes": classes, "images": images}
        speed = statistics.median(row["images_per_second"] for row in read_log(work / LOG))
        write_profile(work / "out", trainer, step=params.batch / speed, exchange=exchange,
                      made=input_seconds(share(0, INPUT_STEPS, own)))
        _record(params, trainer, data, published, work / "out")
    if not role.alone:
        meet(strategy)
        if role.chief:
            time.sleep(PARTING_SECONDS)
    return batches


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
    run = {"params": dataclasses.asdict(params), "data": data, "activation": params.activation,
           "environment": environment(), "xla": trainer.compiled, "metrics": metrics}
    write_json(out / RUN, run)
    write_card(out / CARD, run)
    write_json(out / METRICS, metrics)
