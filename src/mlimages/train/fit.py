"""Train on the devices of this process, alone or as one of several workers, and write what comes of it."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlimages import memory
from mlimages.convert.records import class_names
from mlimages.params import Machine, Train
from mlimages.publish import MANIFEST, read_manifest, sha256
from mlimages.train.files import CHECKPOINTS
from mlimages.train.inputs import Records, telling, training_batches
from mlimages.train.loop import LOG, run_steps
from mlimages.train.profile import INPUT_STEPS, exchange_seconds, input_seconds
from mlimages.train.record import arithmetic
from mlimages.train.result import write_result
from mlimages.train.resume import Checkpoints
from mlimages.train.role import ALONE, Role
from mlimages.train.schedule import build_schedule
from mlimages.train.start import find_start
from mlimages.train.step import Trainer
from mlimages.train.strategy import build_strategy, distribute, meet, replica_batch, shared_input
from mlimages.train.validation import Validation

# By which the chief leaves last: TensorFlow on the other workers fails without it.
PARTING_SECONDS = 2.0


def fit(params: Train, machine: Machine, *, tfrecords: Path, work: Path, role: Role = ALONE) -> Any:
    """Train from the last checkpoint in `work` to the end, and write the result to its `out`, as the chief.

    Returns the iterator of the batches: of several workers it is still at work, and taking it down then can hang.
    """
    began = time.monotonic()
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
    start = find_start(params, machine)
    found = dataclasses.replace(params, initialize_from=None if start is None else str(start))
    trainer = Trainer(found, classes, strategy, steps_per_call=machine.steps_per_call)
    if trainer.loaded and role.chief:
        print(f"{params.initialize_from}: {trainer.loaded}")
    checkpoints = Checkpoints(work / CHECKPOINTS, trainer.variables,
                              {"architecture": params.architecture, "classes": classes},
                              {"replicas": replicas, **arithmetic()} if role.chief else {}, machine.checkpoints_kept,
                              began)
    resumed = checkpoints.restore(mend=role.chief)
    own = role.share(replicas)
    print(f"{params.architecture}, {trainer.model.count_params():,} weights, {replicas} "
          f"{'replica' if replicas == 1 else 'replicas'} of {per_replica} images; {plan.total_steps} steps over "
          f"{images} images, whose places in the shards take {records.reader.index_bytes / 1e6:,.1f} MB of memory"
          + (f", resumed after step {resumed.step}" if resumed.step else ""))
    if advice := shared_input(params, len(tf.config.list_physical_devices("GPU"))):
        print(advice)
    if not role.alone:
        role.tell(plan=f"worker {role.index} of {role.workers}: images {own.start * per_replica} to "
                       f"{own.stop * per_replica - 1} of the {params.batch} of every step, steps {resumed.step + 1} to "
                       f"{plan.total_steps}, from {len(records.counts)} shards")
    validation = None
    if params.validation_images and role.chief:
        validation = Validation(Records(tfrecords, manifest, "val"), class_names(tfrecords), params,
                                readers=machine.workers)

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
        data = {"manifest_sha256": sha256(tfrecords / MANIFEST), "classes": classes, "images": images}
        made = input_seconds(share(0, INPUT_STEPS, own))
        write_result(params, trainer, data, published, log=work / LOG, out=work / "out", exchange=exchange, made=made,
                     machine={"workers": role.workers, "readers": machine.workers}, seconds=checkpoints.seconds)
    if not role.alone:
        meet(strategy)
        if role.chief:
            time.sleep(PARTING_SECONDS)
    return batches
