"""From the last checkpoint to the last step."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlimages.errors import UserError
from mlimages.interrupts import Interrupts
from mlimages.params import Machine, Train
from mlimages.progress import progress
from mlimages.train.files import CHECKPOINTS, newest
from mlimages.train.log import TrainingLog
from mlimages.train.resume import Checkpoints, Resumed
from mlimages.train.role import Role
from mlimages.train.schedule import Schedule
from mlimages.train.step import Trainer
from mlimages.train.strategy import meet
from mlimages.train.validation import Validation

LOGGED_STEPS = 5
LOG = "training.csv"
TENSORBOARD = "tensorboard"
NOT_TRIED = (float("nan"), float("nan"))


class Stopped(UserError):
    """The training was told to stop, and saved first."""


class Row(NamedTuple):
    """One of the log: the step that ends it, the mean loss since the row before, the learning rate."""

    step: int
    loss: float
    rate: float


def run_steps(trainer: Trainer, batches: Iterator[Any], plan: Schedule, checkpoints: Checkpoints, resumed: Resumed,
              validation: Validation | None, params: Train, machine: Machine, role: Role, *, images: int,
              work: Path) -> None:
    """Train from where `resumed` says to the end of `plan`; `batches` begin there too, `images` make an epoch.

    However many steps a call takes, it ends at a checkpoint, and the log has the same rows, but for their speed.

    Of several workers only the chief writes, and looks at validation images. UserError, with the last good checkpoint
    kept, for what is no longer finite; Stopped, with a checkpoint of the last step that was done, on all
    workers after the same step, after SIGTERM or SIGINT of any.
    """
    done, losses = resumed
    began, timed = time.monotonic(), done
    with (Interrupts() as interrupts, _log(work, done, role) as log,
          progress("train", total=plan.total_steps, done=done, unit=" steps", machine=machine) as bar):
        while done < plan.total_steps:
            steps = range(done, min(done + trainer.steps_per_call, _next_save(done, plan, params)))
            rates = plan(steps)
            role.tell(entered=steps.stop)
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
                    tried = validation.run(trainer, role.tell) if validation and saving else None
                    for row in rows:
                        worth = tried[:2] if tried and row.step == done else NOT_TRIED
                        log.row(row.step, row.step * params.batch / images, row.loss, *worth, row.rate, speed)
                    if saving:
                        checkpoints.save(done, [], tried.loss if tried else None)
                        role.tell(saved=done)
                        log.histograms(done, trainer.loss.counters())
                    if tried:
                        log.predictions(done, *tried[2:])
                if saving and not role.alone:
                    meet(trainer.strategy)
                began, timed = time.monotonic(), done
            # A process alone need not wait for the next step to tell itself.
            if (trainer.stopping or (interrupts.received and role.alone)) and done < plan.total_steps:
                if not saving:
                    _prepare_to_save(trainer, done, float(rates[-1]), role, work)
                    if role.chief:
                        checkpoints.save(done, losses)
                        role.tell(saved=done)
                if not role.alone:
                    with contextlib.suppress(tf.errors.OpError):  # one of them leaves first
                        meet(trainer.strategy)
                raise Stopped(f"{interrupts.received or 'A signal to another worker'} stopped the training after step "
                              f"{done} of {plan.total_steps}; its checkpoint is kept: run the same command to continue")


def _log(work: Path, done: int, role: Role) -> contextlib.AbstractContextManager[TrainingLog | None]:
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
                "train.exchange to bfloat16 or float32, ")


def _prepare_to_save(trainer: Trainer, step: int, rate: float, role: Role, work: Path) -> None:
    """UserError, on all workers, where the variables are not fit to be saved."""
    role.tell(writing=True)
    if not trainer.is_finite():
        _refuse("the weights are no longer finite", step, rate, work)
    if not role.alone and not meet(trainer.strategy, trainer.digest()):
        raise UserError(f"the workers have different weights after step {step}; the checkpoint before is kept; please "
                        f"report this")


def _refuse(what: str, step: int, rate: float, work: Path, advice: str = "") -> None:
    kept = newest(work / CHECKPOINTS)
    begin = f", or begin from it with other parameters: `-S train.initialize_from={kept}`" if kept else ""
    raise UserError(f"{what} at step {step}, with the learning rate {rate:.3g}; the last good checkpoint is kept; "
                    f"{advice}lower train.learning_rate, or lengthen train.warmup{begin}")
