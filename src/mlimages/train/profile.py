"""Where the time of a step goes: what replicas exchange and what the input costs, each measured alone."""

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlimages.publish import write_json
from mlimages.train.files import PROFILE
from mlimages.train.step import Trainer

ROUNDS = 5
INPUT_STEPS = 4


def exchange_seconds(trainer: Trainer) -> float:
    """The time in which all replicas add up what would be gradients, and do nothing else; every worker calls it."""
    shapes = [weight.shape for weight in trainer.model.trainable_variables]

    def add_up() -> Any:
        return [total[..., :1] for total in trainer.exchange([tf.zeros(shape) for shape in shapes])]

    exchange = tf.function(lambda: trainer.strategy.run(add_up), autograph=False)
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.monotonic()
        exchange()
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds[1:])  # the first one is traced


def input_seconds(batches: Iterable[Any]) -> float:
    """The time in which this worker's share of a batch is made while nothing else is; of INPUT_STEPS batches."""
    began = time.monotonic()
    for _ in batches:
        pass
    return (time.monotonic() - began) / INPUT_STEPS


def write_profile(out: Path, trainer: Trainer, *, step: float, exchange: float, made: float) -> None:
    """Seconds of a step, and of an exchange and an input by themselves, beside the bytes of all gradients."""
    values = sum(int(np.prod(weight.shape)) for weight in trainer.model.trainable_variables)
    write_json(out / PROFILE, {"step_seconds": step, "exchange_seconds": exchange, "input_seconds": made,
                               "gradient_bytes": values * trainer.exchanged.size,
                               "replicas": trainer.strategy.num_replicas_in_sync})
