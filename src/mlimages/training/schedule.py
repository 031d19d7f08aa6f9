"""The learning rate over the steps, the size of the images, and the end of a training without improvement."""

import math
from typing import NamedTuple

import numpy as np

from mlimages.core.params import Train

WARMUP_STAIRS = 8
DECAY_FACTOR = 0.1


class Schedule(NamedTuple):
    """The learning rate: a warm-up, then a decay.

    The warm-up has eight stairs of equal length. The first one has an eighth of the rate, and each is 8^(1/8) = 1.297
    times the one before. `cosine` then falls to zero at the last step, `step` multiplies by 0.1 at each of
    `boundaries`. The released program's schedule has the rate 0.08, 35,200 warm-up steps and the boundaries 110,000,
    220,000 and 330,000.
    """

    rate: float
    warmup_steps: int
    total_steps: int
    kind: str
    boundaries: tuple[int, ...]

    def __call__(self, steps: np.ndarray | range | int) -> np.ndarray:
        """The rates of steps counted from 0: float32, shaped like `steps`."""
        step = np.asarray(steps, np.float64)
        stair = np.floor(np.minimum(step, self.warmup_steps) * WARMUP_STAIRS / max(self.warmup_steps, 1))
        warmup = self.rate * WARMUP_STAIRS ** ((stair - WARMUP_STAIRS) / WARMUP_STAIRS)
        if self.kind == "cosine":
            done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
            decayed = self.rate * 0.5 * (1 + np.cos(np.pi * np.clip(done, 0.0, 1.0)))
        else:
            passed = (step[..., None] >= np.array(self.boundaries)).sum(axis=-1)
            decayed = self.rate * DECAY_FACTOR**passed
        return np.where(step < self.warmup_steps, warmup, decayed).astype(np.float32)


class Phase(NamedTuple):
    """Steps, counted from 0, whose images have a side of `pixels`."""

    steps: range
    pixels: int


def phases(params: Train, total_steps: int) -> list[Phase]:
    """The phases of `params.earlier_pixels`, and the last one with `params.pixels`.

    Each begins at a multiple of `params.local_sgd_steps`, at which the replicas have equal weights.
    """
    interval = params.local_sgd_steps
    ends = [round(total_steps * share / interval) * interval for share in np.cumsum(params.earlier_shares).tolist()]
    return [Phase(range(begin, end), pixels)
            for begin, end, pixels in zip([0, *ends], [*ends, total_steps], [*params.earlier_pixels, params.pixels],
                                          strict=True) if begin < end]


class EarlyStopping(NamedTuple):
    """The lowest validation loss, None before the first finite one, and the number of validations since."""

    lowest_loss: float | None = None
    without_improvement: int = 0

    def update(self, loss: float) -> "EarlyStopping":
        """The state after one more validation. A loss that is not finite is no improvement."""
        if math.isfinite(loss) and (self.lowest_loss is None or loss < self.lowest_loss):
            return EarlyStopping(loss, 0)
        return EarlyStopping(self.lowest_loss, self.without_improvement + 1)

    def is_due(self, patience: int | None) -> bool:
        """Whether the training ends here, after `patience` validations without improvement; None: never."""
        return patience is not None and self.without_improvement >= patience


NOT_VALIDATED = EarlyStopping()


def build_schedule(params: Train, records: int) -> Schedule:
    """The schedule of these parameters, for a number of training records."""
    steps_per_unit = records / params.batch if params.steps is None else 1.0
    length = params.steps if params.epochs is None else params.epochs
    scale = 1.0 if params.reference_batch is None else params.batch / params.reference_batch
    return Schedule(params.learning_rate * scale, round(params.warmup * steps_per_unit),
                    max(1, round((length or 0) * steps_per_unit)), params.schedule,
                    tuple(round(at * steps_per_unit) for at in params.step_boundaries))
