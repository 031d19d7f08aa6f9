"""Train on the devices of this process, alone or as one of several workers, and write what comes of it."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlimages.convert.records import class_names
from mlimages.core import tuning
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.progress import progress
from mlimages.core.publish import MANIFEST, read_manifest, sha256
from mlimages.core.signals import Interrupts, TrainingStopped
from mlimages.inputs.pipeline import Records, training_batches, user_errors
from mlimages.network.checkpoint_files import CHECKPOINTS, newest_checkpoint
from mlimages.network.initial_weights import find_initial_weights
from mlimages.training.checkpoints import CheckpointManager, ResumePoint
from mlimages.training.distribution import all_equal, barrier, build_strategy, distribute, replica_batch
from mlimages.training.metrics_log import LOG, TENSORBOARD, TrainingLog
from mlimages.training.result import INPUT_STEPS, exchange_seconds, input_seconds, write_result
from mlimages.training.run_record import arithmetic
from mlimages.training.schedule import Schedule, build_schedule
from mlimages.training.step import Trainer
from mlimages.training.validation import Validation
from mlimages.training.worker_role import SINGLE_WORKER, WorkerRole

# By which the chief leaves last: TensorFlow on the other workers fails without it.
PARTING_SECONDS = 2.0


def fit(params: Train, machine: Machine, *, tfrecords: Path, work: Path, role: WorkerRole = SINGLE_WORKER) -> Any:
    """Train from the last checkpoint in `work` to the end, and write the result to its `out`, as the chief.

    Returns the iterator of the batches: of several workers it is still at work, and taking it down then can hang.
    """
    began = time.monotonic()
    tuning.keep_freed(tuning.STEPS)
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
    start = find_initial_weights(params, machine)
    found = dataclasses.replace(params, initialize_from=None if start is None else str(start))
    trainer = Trainer(found, classes, strategy, steps_per_call=machine.steps_per_call)
    if trainer.loaded and role.chief:
        print(f"{params.initialize_from}: {trainer.loaded}")
    checkpoints = CheckpointManager(work / CHECKPOINTS, trainer.variables,
                              {"architecture": params.architecture, "classes": classes},
                              {"replicas": replicas, **arithmetic()} if role.chief else {}, machine.checkpoints_kept,
                              began)
    resumed = checkpoints.restore(mend=role.chief)
    own = role.replicas(replicas)
    print(f"{params.architecture}, {trainer.model.count_params():,} weights, {replicas} "
          f"{'replica' if replicas == 1 else 'replicas'} of {per_replica} images; {plan.total_steps} steps over "
          f"{images} images, whose places in the shards take {records.reader.index_bytes / 1e6:,.1f} MB of memory"
          + (f", resumed after step {resumed.step}" if resumed.step else ""))
    if not role.single:
        role.report(plan=f"worker {role.index} of {role.workers}: images {own.start * per_replica} to "
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
        mine = WorkerRole(context.input_pipeline_id, context.num_input_pipelines).replicas(context.num_replicas_in_sync)
        batches = share(resumed.step, plan.total_steps, mine)
        # Of a dataset that may end, workers ask each other before every step whether it has.
        return batches if role.single else batches.repeat()

    batches = distribute(strategy, pipeline)
    with user_errors():
        run_steps(trainer, batches, plan, checkpoints, resumed, validation, params, machine, role, images=images,
                  work=work)
    exchange = exchange_seconds(trainer) if replicas > 1 else 0.0
    role.report(trained=True)
    if role.chief:
        published = checkpoints.restore_best() if params.publish == "best" else plan.total_steps
        data = {"manifest_sha256": sha256(tfrecords / MANIFEST), "classes": classes, "images": images}
        made = input_seconds(share(0, INPUT_STEPS, own))
        write_result(params, trainer, data, published, log=work / LOG, out=work / "out", exchange=exchange, made=made,
                     machine={"workers": role.workers, "readers": machine.workers}, seconds=checkpoints.seconds)
    if not role.single:
        barrier(strategy)
        if role.chief:
            time.sleep(PARTING_SECONDS)
    return batches

LOGGED_STEPS = 5
NOT_TRIED = (float("nan"), float("nan"))


class Row(NamedTuple):
    """One of the log: the step that ends it, the mean loss since the row before, the learning rate."""

    step: int
    loss: float
    rate: float


def run_steps(trainer: Trainer, batches: Iterator[Any], plan: Schedule, checkpoints: CheckpointManager,
              resumed: ResumePoint, validation: Validation | None, params: Train, machine: Machine, role: WorkerRole, *,
              images: int, work: Path) -> None:
    """Train from where `resumed` says to the end of `plan`; `batches` begin there too, `images` make an epoch.

    However many steps a call takes, it ends at a checkpoint, and the log has the same rows, but for their speed.

    Of several workers only the chief writes, and looks at validation images. UserError, with the last good checkpoint
    kept, for what is no longer finite; TrainingStopped, with a checkpoint of the last step that was done, on all
    workers after the same step, after SIGTERM or SIGINT of any.
    """
    done, losses = resumed
    began, timed = time.monotonic(), done
    with (Interrupts() as interrupts, _log(work, done, role) as log,
          progress("train", total=plan.total_steps, done=done, unit=" steps", machine=machine) as bar):
        while done < plan.total_steps:
            steps = range(done, min(done + trainer.steps_per_call, _next_save(done, plan, params)))
            rates = plan(steps)
            role.report(entered=steps.stop)
            found = trainer.train(batches, rates, stop=interrupts.received is not None)
            _check(found, trainer.overflowed, steps, rates, work)
            done = steps.stop
            bar.update(len(steps))
            saving = done == _next_save(steps.start, plan, params)
            losses, rows = _rows(losses + found.tolist(), done, saving, plan)
            if rows:
                speed = (done - timed) * params.batch / (time.monotonic() - began)
                bar.set_postfix(loss=f"{rows[-1].loss:.4g}", images_per_second=f"{speed:.1f}", refresh=False)
                if saving:
                    _prepare_to_save(trainer, done, float(rates[-1]), role, work)
                if log:
                    tried = validation.run(trainer, role.report) if validation and saving else None
                    for row in rows:
                        worth = tried[:2] if tried and row.step == done else NOT_TRIED
                        log.row(row.step, row.step * params.batch / images, row.loss, *worth, row.rate, speed)
                    if saving:
                        checkpoints.save(done, [], tried.loss if tried else None)
                        role.report(saved=done)
                        log.histograms(done, trainer.loss.counters())
                    if tried:
                        log.predictions(done, *tried[2:])
                if saving and not role.single:
                    barrier(trainer.strategy)
                began, timed = time.monotonic(), done
            # A process alone need not wait for the next step to tell itself.
            if (trainer.stopping or (interrupts.received and role.single)) and done < plan.total_steps:
                if not saving:
                    _prepare_to_save(trainer, done, float(rates[-1]), role, work)
                    if role.chief:
                        checkpoints.save(done, losses)
                        role.report(saved=done)
                if not role.single:
                    with contextlib.suppress(tf.errors.OpError):  # one of them leaves first
                        barrier(trainer.strategy)
                raise TrainingStopped(
                    f"{interrupts.received or 'A signal to another worker'} stopped the training after step {done} of "
                    f"{plan.total_steps}; its checkpoint is kept: run the same command to continue",
                    interrupts.received)


def _log(work: Path, done: int, role: WorkerRole) -> contextlib.AbstractContextManager[TrainingLog | None]:
    return TrainingLog(work / LOG, work / TENSORBOARD, done) if role.chief else contextlib.nullcontext()


def _next_save(done: int, plan: Schedule, params: Train) -> int:
    """The step after `done` of which there is to be a checkpoint."""
    return min(plan.total_steps, (done // params.checkpoint_steps + 1) * params.checkpoint_steps)


def _rows(losses: list[float], done: int, saving: bool, plan: Schedule) -> tuple[list[float], list[Row]]:
    """Of the losses of the last steps until `done`, those that are in no row yet, and the rows of the others."""
    rows = []
    for step in range(done - len(losses) + 1, done + 1):
        if step % LOGGED_STEPS == 0 or (saving and step == done):
            since = len(losses) - (done - step)
            rows.append(Row(step, float(np.mean(losses[:since])), float(plan(step - 1))))
            losses = losses[since:]
    return losses, rows


def _check(losses: np.ndarray, overflowed: np.ndarray, steps: range, rates: np.ndarray, work: Path) -> None:
    """UserError for the first step of a call whose loss, or whose gradients, are not finite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        _refuse(f"the loss is {losses[bad[0]]}", steps[bad[0]] + 1, float(rates[bad[0]]), work)
    bad = np.flatnonzero(overflowed)
    if bad.size:
        _refuse("the float16 gradients are not finite, with the loss scale at its lowest,", steps[bad[0]] + 1,
                float(rates[bad[0]]), work, "set train.precision to mixed_bfloat16 or float32 and "
                "train.all_reduce_dtype to bfloat16 or float32, ")


def _prepare_to_save(trainer: Trainer, step: int, rate: float, role: WorkerRole, work: Path) -> None:
    """UserError, on all workers, where the variables are not fit to be saved."""
    role.report(writing=True)
    if not trainer.is_finite():
        _refuse("the weights are no longer finite", step, rate, work)
    if not role.single and not all_equal(trainer.strategy, trainer.digest()):
        raise UserError(f"the workers have different weights after step {step}; the checkpoint before is kept; please "
                        f"report this")


def _refuse(what: str, step: int, rate: float, work: Path, advice: str = "") -> None:
    kept = newest_checkpoint(work / CHECKPOINTS)
    begin = f", or begin from it with other parameters: `-S train.initialize_from={kept}`" if kept else ""
    raise UserError(f"{what} at step {step}, with the learning rate {rate:.3g}; the last good checkpoint is kept; "
                    f"{advice}lower train.learning_rate, or lengthen train.warmup{begin}")
