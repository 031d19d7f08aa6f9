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
    """What a step spends, at least, on adding up over the replicas; every worker calls it, and does nothing else."""

    def add_up() -> Any:
        return [total[..., :1] for total in trainer.exchange([tf.zeros(shape) for shape in trainer.exchanged_shapes])]

    exchange = tf.function(lambda: trainer.strategy.run(add_up), autograph=False)
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.monotonic()
        exchange()
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds[1:]) / trainer.local_steps  # the first one is traced


def input_seconds(batches: Iterable[Any]) -> float:
    """The time in which this worker's share of a batch is made while nothing else is; of INPUT_STEPS batches."""
    began = time.monotonic()
    for _ in batches:
        pass
    return (time.monotonic() - began) / INPUT_STEPS


def write_profile(out: Path, trainer: Trainer, *, step: float, exchange: float, made: float) -> None:
    """Seconds of a step, and of its exchange and its input by themselves, beside the bytes that a step exchanges."""
    replicas = trainer.strategy.num_replicas_in_sync
    values = sum(int(np.prod(shape)) for shape in trainer.exchanged_shapes) if replicas > 1 else 0
    write_json(out / PROFILE, {"step_seconds": step, "exchange_seconds": exchange, "input_seconds": made,
                               "exchanged_bytes": values * trainer.exchanged.size / trainer.local_steps,
                               "replicas": replicas})
