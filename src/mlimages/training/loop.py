"""The training loop, from the last checkpoint to the last step, in one process or as one of several workers."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlimages.convert.records import read_class_table, records_by_class
from mlimages.core import tuning
from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.progress import progress_bar
from mlimages.core.publish import MANIFEST, read_manifest, sha256
from mlimages.core.signals import Interrupts, TrainingStopped
from mlimages.inputs.pipeline import Records, training_batches, user_errors
from mlimages.network.checkpoint_files import CHECKPOINTS, newest_checkpoint
from mlimages.network.initial_weights import find_initial_weights
from mlimages.network.model_files import ClassTable
from mlimages.training.checkpoints import CheckpointManager
from mlimages.training.distribution import (
    all_equal,
    any_worker,
    barrier,
    build_strategy,
    distribute,
    replica_batch,
    shared_input,
)
from mlimages.training.jobs import SINGLE_WORKER, TrainingJob, WorkerRole
from mlimages.training.losses import build_class_weights, multi_label_warning
from mlimages.training.metrics_log import LOG, NO_VALIDATION, TENSORBOARD, TrainingLog
from mlimages.training.result import INPUT_STEPS, FinishedTraining, exchange_seconds, input_seconds, write_result
from mlimages.training.run_record import arithmetic
from mlimages.training.schedule import Phase, build_schedule, phases
from mlimages.training.step import Trainer
from mlimages.training.validation import Validation

LOGGED_STEPS = 5
# The chief ends this much later than the others: without it, TensorFlow fails on them.
CHIEF_LEAVES_LATER_SECONDS = 2.0


class LogRow(NamedTuple):
    """A row of the log: its last step, the mean loss since the row before, and the learning rate of its last step."""

    step: int
    loss: float
    learning_rate: float


def fit(jobs: Sequence[TrainingJob], machine: Machine, role: WorkerRole = SINGLE_WORKER) -> list[Any]:
    """Run trainings one after the other, each from its last checkpoint to the end. The chief writes the results.

    Finished trainings are left out. All share one strategy, since a process can join other workers only once. Trainings
    that differ in their initial weights alone also share one trainer, which is traced and compiled once.

    Returns the iterators of batches. With several workers they are still active, and destroying them can hang. Raises
    UserError for a loss, gradients or weights that are not finite, and TrainingStopped after SIGTERM or SIGINT to any
    worker. In both cases the last good checkpoint is kept.
    """
    tuning.keep_freed_memory(tuning.FOR_STEPS)
    if jobs[0].params.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = build_strategy(jobs[0].params, machine)
    waiting = [job for job in jobs if not job.finished]
    trainer: Trainer | None = None
    iterators: list[Any] = []
    for number, job in enumerate(waiting):
        if job.title and role.chief:
            print(job.title, flush=True)
        training = Training(job, machine, role, strategy, trainer)
        iterators.append(training.started_batches)
        training.announce()
        with user_errors():
            training.run()
        training.write_result()
        if not role.single:
            barrier(strategy)
        alike = number + 1 < len(waiting) and job.is_alike(waiting[number + 1])
        trainer = training.trainer if alike else None
        del training  # its memory, before the next one begins
    if role.chief and not role.single:
        time.sleep(CHIEF_LEAVES_LATER_SECONDS)
    return iterators


class Training:
    """A training: its data, network, checkpoints and schedule, and the loop over its steps.

    With `trainer`, which an alike training used before, it trains the same network from other weights.
    """

    def __init__(self, job: TrainingJob, machine: Machine, role: WorkerRole, strategy: Any,
                 trainer: Trainer | None = None) -> None:
        began = time.monotonic()
        params, tfrecords = job.params, job.tfrecords
        self.job, self.params, self.machine, self.role = job, params, machine, role
        manifest = read_manifest(tfrecords, "convert")
        self.classes = manifest["classes"]
        self.records = Records(tfrecords, manifest, "train")
        self.class_records = records_by_class(tfrecords, "train")
        self.schedule = build_schedule(params, len(self.records))
        self.strategy = strategy
        self.replicas = strategy.num_replicas_in_sync
        self.replica_batch = replica_batch(params, self.replicas)
        self.trainer = self._prepare_trainer(trainer)
        self.checkpoints = CheckpointManager(
            job.work / CHECKPOINTS, self.trainer.variables,
            {"architecture": params.architecture, "classes": self.classes},
            {"replicas": self.replicas, **arithmetic()} if role.chief else {}, machine.checkpoints_kept, began)
        self.resumed = self.checkpoints.restore(mend=role.chief)
        self.early_stopping = self.resumed.early_stopping
        self.last_step = self.schedule.total_steps
        self.validation: Validation | None = None
        if params.validation_images and role.chief:
            self.validation = Validation(Records(tfrecords, manifest, "val"), self._class_table(), params,
                                         readers=machine.workers)
        self._phases = phases(params, self.schedule.total_steps)
        self.started_batches: list[Any] = []
        self.batches = self._distribute_batches(self.resumed.step)

    def announce(self) -> None:
        """Print what is trained, and the step from which the training resumes."""
        replicas = "replica" if self.replicas == 1 else "replicas"
        resumed = f", resumed after step {self.resumed.step}" if self.resumed.step else ""
        print(f"{self.params.architecture}, {self.trainer.model.count_params():,} weights, {self.replicas} {replicas} "
              f"of {self.replica_batch} images; {self.schedule.total_steps} steps over {len(self.records)} images, "
              f"whose places in the shards take {self.records.reader.index_bytes / 1e6:,.1f} MB of memory{resumed}")
        if advice := shared_input(self.params, len(tf.config.list_physical_devices("GPU"))):
            print(advice)
        if warning := multi_label_warning(self.params, self.class_records, len(self.records)):
            print(warning)
        if not self.role.single:
            images = self.role.replicas(self.replicas)
            self.role.report(plan=(
                f"worker {self.role.index} of {self.role.workers}: images {images.start * self.replica_batch} to "
                f"{images.stop * self.replica_batch - 1} of the {self.params.batch} of every step, steps "
                f"{self.resumed.step + 1} to {self.schedule.total_steps}, from {len(self.records.counts)} shards"))

    def run(self) -> None:
        """The training loop.

        A call of the trainer takes machine.steps_per_call steps, or fewer if a checkpoint comes first. So the rows of
        the log do not depend on the number of steps in a call. With several workers, only the chief validates, logs
        and saves.
        """
        done, losses, _ = self.resumed
        ended = self.early_stopping.is_due(self.params.patience)
        began, timed = time.monotonic(), done
        total = self.schedule.total_steps
        with (Interrupts() as interrupts, self._open_log(done) as log,
              progress_bar("train", total=total, done=done, unit=" steps", machine=self.machine) as bar):
            while done < total and not ended:
                phase = self._phase(done)
                if done == phase.steps.start > self.resumed.step:
                    self.batches = self._distribute_batches(done)
                steps = range(done, min(done + self.trainer.steps_per_call, self._next_checkpoint(done),
                                        phase.steps.stop))
                self.role.report(entered=steps.stop)
                found = self.trainer.train(self.batches, self.schedule(steps), stop=interrupts.received is not None)
                self._check_finite(found, steps)
                losses += found.tolist()
                done = steps.stop
                bar.update(len(steps))
                saving = done == self._next_checkpoint(steps.start)
                losses, rows = self._log_rows(losses, done, saving)
                if rows:
                    speed = (done - timed) * self.params.batch / (time.monotonic() - began)
                    bar.set_postfix(loss=f"{rows[-1].loss:.4g}", images_per_second=f"{speed:.1f}", refresh=False)
                    if saving:
                        self._prepare_to_save(done)
                    if log:
                        self._validate_log_and_save(log, rows, speed, saving)
                    if saving:
                        ended = self._any_worker(self.early_stopping.is_due(self.params.patience))
                    began, timed = time.monotonic(), done
                # A single process does not wait for the trainer to agree with other workers on the step to stop after.
                stopping = self.trainer.stopping or (interrupts.received and self.role.single)
                if stopping and done < total and not ended:
                    self._save_and_stop(done, losses, interrupts.received, saved=saving)
        self.last_step = done

    @property
    def stopped_early(self) -> str | None:
        """A sentence about a training that ended before its last step; None for others."""
        if self.last_step == self.schedule.total_steps:
            return None
        return (f"the validation loss has not improved in {self.params.patience} validations (train.patience), so the "
                f"training ended after step {self.last_step} of {self.schedule.total_steps}")

    def write_result(self) -> None:
        """Measure the parts of a step's time. The chief writes the network, its log and its record."""
        exchange = exchange_seconds(self.trainer) if self.replicas > 1 else 0.0
        self.role.report(trained=True)
        if not self.role.chief:
            return
        if self.stopped_early:
            print(self.stopped_early, flush=True)
        batches = self._batches(range(INPUT_STEPS), self.params.pixels, self.role.replicas(self.replicas))
        finished = FinishedTraining(
            job=self.job, trainer=self.trainer, classes=self._class_table(),
            data={"manifest_sha256": sha256(self.job.tfrecords / MANIFEST), "classes": self.classes,
                  "images": len(self.records)},
            machine={"workers": self.role.workers, "readers": self.machine.workers},
            published_step=self.checkpoints.restore_best() if self.params.publish == "best" else self.last_step,
            stopped_early=self.stopped_early, wall_seconds=self.checkpoints.seconds, exchange_seconds=exchange,
            input_seconds=input_seconds(batches))
        write_result(finished)

    def _class_table(self) -> ClassTable:
        """The classes of the records. Tables of older records have neither WordNet ids nor synonyms."""
        rows = read_class_table(self.job.tfrecords)
        return ClassTable([row.get("wnid", "") for row in rows], [int(row.get("parent", -1)) for row in rows],
                          [row.get("synonyms") or row["name"] for row in rows])

    def _prepare_trainer(self, trainer: Trainer | None) -> Trainer:
        """A trainer with the initial weights of this training: `trainer`, or a new one."""
        found = find_initial_weights(self.params, self.machine)
        start = None if found is None else str(found)
        if trainer is None:
            params = dataclasses.replace(self.params, initialize_from=start)
            trainer = Trainer(params, self.classes, self.strategy, steps_per_call=self.machine.steps_per_call,
                              class_weights=build_class_weights(params.class_weights, self.class_records))
        else:
            trainer.restart(start, logits=self.params.initialize_logits)
        if trainer.loaded and self.role.chief:
            print(f"{self.params.initialize_from}: {trainer.loaded}")
        return trainer

    def _batches(self, steps: range, pixels: int, replicas: range) -> Any:
        """The dataset of these steps for these replicas."""
        return training_batches(self.records, dataclasses.replace(self.params, pixels=pixels), steps=steps.stop,
                                first=steps.start, parts=self.replicas, mine=replicas, readers=self.machine.workers)

    def _phase(self, done: int) -> Phase:
        """The phase of the step after `done`."""
        return next((phase for phase in self._phases if done in phase.steps), self._phases[-1])

    def _distribute_batches(self, done: int) -> Iterator[Any]:
        """The batches of the steps after `done` up to the end of their phase."""
        phase = self._phase(done)

        def pipeline(context: Any) -> Any:
            worker = WorkerRole(context.input_pipeline_id, context.num_input_pipelines)
            batches = self._batches(range(done, phase.steps.stop), phase.pixels,
                                    worker.replicas(context.num_replicas_in_sync))
            # With a dataset that may end, workers ask each other before every step whether it has.
            return batches if self.role.single else batches.repeat()

        batches = distribute(self.strategy, pipeline)
        self.started_batches.append(batches)  # with several workers, destroying an iterator can hang
        return batches

    def _open_log(self, done: int) -> contextlib.AbstractContextManager[TrainingLog | None]:
        if not self.role.chief:
            return contextlib.nullcontext()
        return TrainingLog(self.job.work / LOG, self.job.work / TENSORBOARD, done)

    def _next_checkpoint(self, done: int) -> int:
        """The first step after `done` that ends with a checkpoint."""
        interval = self.params.checkpoint_steps
        return min(self.schedule.total_steps, (done // interval + 1) * interval)

    def _check_finite(self, losses: np.ndarray, steps: range) -> None:
        """Raise UserError for the first of the steps of a call whose loss or gradients are not finite."""
        infinite = np.flatnonzero(~np.isfinite(losses))
        if infinite.size:
            raise self._diverged(f"the loss is {losses[infinite[0]]}", steps[infinite[0]] + 1)
        overflowed = np.flatnonzero(self.trainer.overflowed)
        if overflowed.size:
            raise self._diverged(
                "the float16 gradients are not finite, with the loss scale at its lowest,", steps[overflowed[0]] + 1,
                "set train.precision to mixed_bfloat16 or float32 and train.all_reduce_dtype to bfloat16 or float32, ")

    def _log_rows(self, losses: list[float], done: int, saving: bool) -> tuple[list[float], list[LogRow]]:
        """Make rows of the log from the losses of the last steps. Returns the losses without a row, and the rows.

        `done` is the last step. A row ends every LOGGED_STEPS steps and at a checkpoint.
        """
        rows = []
        for step in range(done - len(losses) + 1, done + 1):
            if step % LOGGED_STEPS == 0 or (saving and step == done):
                count = len(losses) - (done - step)
                rows.append(LogRow(step, float(np.mean(losses[:count])), float(self.schedule(step - 1))))
                losses = losses[count:]
        return losses, rows

    def _validate_log_and_save(self, log: TrainingLog, rows: list[LogRow], speed: float, saving: bool) -> None:
        """As the chief, write rows. At a checkpoint, validate first, and save afterwards. `speed` is in images/s."""
        done = rows[-1].step
        tried = self.validation.run(self.trainer, self.role.report) if self.validation and saving else None
        for row in rows:
            scores = tried.scores if tried and row.step == done else NO_VALIDATION
            log.row(row.step, row.step * self.params.batch / len(self.records), row.loss, row.learning_rate, speed,
                    scores)
        if saving:
            if tried:
                self.early_stopping = self.early_stopping.update(tried.scores.loss)
            self.checkpoints.save(done, [], tried.scores.loss if tried else None, self.early_stopping)
            self.role.report(saved=done)
            log.histograms(done, self.trainer.loss.counters())
        if tried:
            log.predictions(done, tried.images, tried.captions())

    def _prepare_to_save(self, step: int) -> None:
        """Raise UserError, on all workers, for weights that are not finite or that differ between workers."""
        self.role.report(writing=True)
        if not self.trainer.is_finite():
            raise self._diverged("the weights are no longer finite", step)
        if not self.role.single and not all_equal(self.strategy, self.trainer.digest()):
            raise UserError(f"the workers have different weights after step {step}; the checkpoint before is kept; "
                            f"please report this")

    def _any_worker(self, flag: bool) -> bool:
        """Whether at least one worker passes true. With several workers, it waits for all of them."""
        return flag if self.role.single else any_worker(self.strategy, flag)

    def _save_and_stop(self, done: int, losses: list[float], signal: str | None, *, saved: bool) -> None:
        """Save a checkpoint, unless it is `saved` already, and raise TrainingStopped, on all workers."""
        if not saved:
            self._prepare_to_save(done)
            if self.role.chief:
                self.checkpoints.save(done, losses, early_stopping=self.early_stopping)
                self.role.report(saved=done)
        if not self.role.single:
            with contextlib.suppress(tf.errors.OpError):  # another worker may end first
                barrier(self.strategy)
        raise TrainingStopped(
            f"{signal or 'A signal to another worker'} stopped the training after step {done} of "
            f"{self.schedule.total_steps}; its checkpoint is kept: run the same command to continue", signal)

    def _diverged(self, what: str, step: int, advice: str = "") -> UserError:
        """The error for values that are not finite, with advice."""
        kept = newest_checkpoint(self.job.work / CHECKPOINTS)
        begin = f", or begin from it with other parameters: `-S train.initialize_from={kept}`" if kept else ""
        return UserError(f"{what} at step {step}, with the learning rate {float(self.schedule(step - 1)):.3g}; the "
                         f"last good checkpoint is kept; {advice}lower train.learning_rate, or lengthen train.warmup"
                         f"{begin}")
