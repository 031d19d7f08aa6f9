"""The learning rate over the steps, and the momentum optimizer that uses it."""

import math
from typing import Any

import keras
from keras import ops

from mlimages.params import Train

WARMUP_STAIRS = 8
DECAY_FACTOR = 0.1


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up in eight equal stairs from an eighth of the rate, each 8^(1/8) = 1.297 higher; then the decay.

    `cosine` falls to zero at the last step; `stairs` multiplies by 0.1 at each of `decay_steps`. With the rate 0.08,
    35,200 warm-up steps and decays at 110,000, 220,000 and 330,000 it is the released program's.
    """

    def __init__(self, rate: float, warmup_steps: int, total_steps: int, decay: str, decay_steps: list[int]) -> None:
        self.rate, self.warmup_steps, self.total_steps = rate, warmup_steps, total_steps
        self.decay, self.decay_steps = decay, decay_steps

    def __call__(self, step: Any) -> Any:
        """The rate of a step counted from 0, a float32 scalar or tensor like `step`."""
        step = ops.cast(step, "float32")
        stair = ops.floor(step * WARMUP_STAIRS / max(self.warmup_steps, 1))
        warmup = self.rate * WARMUP_STAIRS ** ((stair - WARMUP_STAIRS) / WARMUP_STAIRS)
        if self.decay == "cosine":
            done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
            decayed = self.rate * 0.5 * (1 + ops.cos(math.pi * ops.clip(done, 0.0, 1.0)))
        else:
            passed = sum((ops.cast(step >= at, "float32") for at in self.decay_steps), ops.zeros_like(step))
            decayed = self.rate * DECAY_FACTOR**passed
        return ops.where(step < self.warmup_steps, warmup, decayed)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps,
                "decay": self.decay, "decay_steps": self.decay_steps}


class Momentum(keras.optimizers.SGD):
    """v <- momentum * v + gradient; w <- w - rate * v.

    Keras' own SGD folds the rate into v, so that a drop of the rate takes effect late; TensorFlow 1's
    MomentumOptimizer, which the released program uses, does not.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        velocity = self.momentums[self._get_variable_index(variable)]
        gradient, rate = ops.cast(gradient, variable.dtype), ops.cast(learning_rate, variable.dtype)
        self.assign(velocity, velocity * self.momentum + gradient)
        self.assign_sub(variable, rate * velocity)


def steps_in(epochs: float, records: int, batch: int) -> int:
    """The whole number of global batches nearest to so many epochs."""
    return round(epochs * records / batch)


def build_schedule(params: Train, records: int) -> Schedule:
    """The schedule that params.yaml names, for a training set of so many records."""
    return Schedule(params.learning_rate, steps_in(params.warmup_epochs, records, params.batch),
                    max(1, steps_in(params.epochs, records, params.batch)), params.decay,
                    [steps_in(epoch, records, params.batch) for epoch in params.decay_epochs])
