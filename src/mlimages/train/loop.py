"""From the last checkpoint to the last step."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlimages.errors import UserError
from mlimages.params import Machine, Train
from mlimages.progress import progress
from mlimages.train.interrupts import Interrupts
from mlimages.train.log import TrainingLog
from mlimages.train.resume import Checkpoints, Resumed
from mlimages.train.schedule import Schedule
from mlimages.train.step import Trainer
from mlimages.train.validation import Validation

LOGGED_STEPS = 5
LOG = "training.csv"
TENSORBOARD = "tensorboard"


def run_steps(trainer: Trainer, batches: Iterator[Any], plan: Schedule, checkpoints: Checkpoints, resumed: Resumed,
              validation: Validation | None, params: Train, machine: Machine, *, images: int, work: Path) -> None:
    """Train from where `resumed` says to the end of `plan`; `batches` begin there too, `images` make an epoch.

    UserError, with the last good checkpoint kept, for a loss that is no longer finite; after SIGTERM or SIGINT too,
    with a checkpoint of the last step that was done.
    """
    done, losses = resumed
    began, timed = time.monotonic(), done
    with (Interrupts() as interrupts, TrainingLog(work / LOG, work / TENSORBOARD, done) as log,
          progress("train", total=plan.total_steps, done=done, unit=" steps", machine=machine) as bar):
        while done < plan.total_steps:
            steps = range(done, min(done + machine.steps_per_call, _next_row(done, plan, params)))
            rates = plan(steps)
            found = trainer.train(batches, rates)
            _check_losses(found, steps, rates)
            losses += found.tolist()
            done = steps.stop
            bar.update(len(steps))
            if done == _next_row(steps.start, plan, params):
                saving = done % params.checkpoint_steps == 0 or done == plan.total_steps
                speed = (done - timed) * params.batch / (time.monotonic() - began)
                tried = validation.run(trainer) if validation and saving else None
                mean, rate = float(np.mean(losses)), float(rates[-1])
                log.row(done, done * params.batch / images, mean, tried.loss if tried else float("nan"), rate, speed)
                bar.set_postfix(loss=f"{mean:.4g}", images_per_second=f"{speed:.1f}", refresh=False)
                losses = []
                if saving:
                    _check_variables(trainer, done, rate)
                    checkpoints.save(done, losses, tried.loss if tried else None)
                    log.histograms(done, trainer.loss.counters())
                if tried:
                    log.predictions(done, tried.images, tried.labels, tried.logits)
                began, timed = time.monotonic(), done
            if interrupts.received and done < plan.total_steps:
                _check_variables(trainer, done, float(rates[-1]))
                checkpoints.save(done, losses)
                raise UserError(f"{interrupts.received} stopped the training after step {done} of {plan.total_steps}; "
                                f"its checkpoint is kept: run the same command to continue")


def _next_row(done: int, plan: Schedule, params: Train) -> int:
    """The step after `done` that ends a row of the log."""
    return min(plan.total_steps, *((done // every + 1) * every for every in (LOGGED_STEPS, params.checkpoint_steps)))


def _check_losses(losses: np.ndarray, steps: range, rates: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        _refuse(f"the loss is {losses[bad[0]]}", steps[bad[0]] + 1, float(rates[bad[0]]))


def _check_variables(trainer: Trainer, step: int, rate: float) -> None:
    if not trainer.is_finite():
        _refuse("the weights are no longer finite", step, rate)


def _refuse(what: str, step: int, rate: float) -> None:
    raise UserError(f"{what} at step {step}, with the learning rate {rate:.3g}; the last good checkpoint is kept; "
                    f"lower train.learning_rate, or lengthen train.warmup")
