"""The files that a training publishes: the network, how to use it, its log, its metrics and the record of the run."""

import dataclasses
import math
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlimages.core.params import Train
from mlimages.core.publish import write_csv, write_json
from mlimages.network.checkpoint_files import HEADLINE, METRICS, PROFILE
from mlimages.network.model_files import ClassTable, Preprocessing
from mlimages.network.resnet import build
from mlimages.network.serving import save_network
from mlimages.training.metrics_log import LOG, ValidationScores, as_text, read_log
from mlimages.training.run_record import environment, write_card
from mlimages.training.step import Trainer

ROUNDS = 5  # of the measured exchange
INPUT_STEPS = 4
RUN = "run.json"
CARD = "model_card.md"
# The rows of the log that have them: what draws a line through all rows draws none between those.
VALIDATION = "validation.csv"
TRIED = {name: f"validation_{name}" for name in ValidationScores._fields}


def write_result(params: Train, trainer: Trainer, classes: ClassTable, data: dict[str, Any], published: int, *,
                 log: Path, out: Path, exchange: float, made: float, machine: dict[str, int], seconds: float,
                 stopped_early: str | None) -> None:
    """Write all files to `out`. The metrics are last: where they are, the result is complete.

    `classes` are those of the network's outputs, `data` describes the records, `published` is the step of the weights.
    `exchange` and `made` are the seconds of an all-reduce and of making a batch. `machine` has the numbers of workers
    and readers, `seconds` is the duration of the whole training. `stopped_early` says that it ended early, if it did.
    """
    preprocessing = Preprocessing(params.pixels, "central", params.validation_fraction, params.activation)
    plain = build(params.architecture, len(classes), batch_norm_momentum=params.batch_norm_momentum, stock=True)
    plain.set_weights(trainer.weights())
    save_network(plain, classes, preprocessing, out)
    shutil.copyfile(log, out / LOG)
    rows = read_log(log)
    write_csv(out / VALIDATION, ("step", *TRIED), [[as_text(row[name]) for name in ("step", *TRIED.values())]
                                                   for row in rows if not math.isnan(row["validation_loss"])])
    metrics = _metrics(params, trainer, rows, published, seconds)
    warning = divergence(rows)
    if warning:
        print(f"WARNING: {warning}", flush=True)
    write_profile(out, trainer, step=params.batch / metrics["images_per_second"], exchange=exchange, made=made)
    run = {"params": dataclasses.asdict(params), "data": data, "activation": params.activation,
           "initialized": trainer.loaded and trainer.loaded._asdict(), "machine": machine, "environment": environment(),
           "xla": trainer.compiled, "metrics": metrics, "stopped_early": stopped_early,
           "warning": warning}
    write_json(out / RUN, run)
    write_card(out / CARD, run)
    write_json(out / HEADLINE, {"images_per_second": metrics["images_per_second"]})
    write_json(out / METRICS, metrics)


def divergence(rows: Sequence[Mapping[str, float]]) -> str | None:
    """What is to be said of a training at whose end the loss, or the validation loss, is above that of its beginning.

    `rows` are those of the log. A loss that stays finite stops no training, and what comes of it is published.
    """
    for name, what in (("loss", "training"), ("validation_loss", "validation")):
        values = [row[name] for row in rows if not math.isnan(row[name])]
        if values and values[-1] > values[0]:
            return (f"the {what} loss ended at {values[-1]:.4g}, above the {values[0]:.4g} of its first row: this "
                    f"training diverged, or learnt nothing; lower train.learning_rate, or lengthen train.warmup")
    return None


def _metrics(params: Train, trainer: Trainer, rows: list[dict[str, float]], published: int,
             wall_seconds: float) -> dict[str, Any]:
    images = [(row["step"] - before["step"]) * params.batch
              for before, row in zip([{"step": 0.0}, *rows], rows, strict=False)]
    seconds = sum(seen / row["images_per_second"] for seen, row in zip(images, rows, strict=True))
    [tried] = [{name: None if math.isnan(row[name]) else row[name] for name in TRIED.values()}
               for row in rows if row["step"] == published]
    return {
        "steps": int(rows[-1]["step"]), "published_step": published, "images": sum(map(int, images)),
        "weights": trainer.model.count_params(), "replicas": trainer.strategy.num_replicas_in_sync,
        "final_loss": rows[-1]["loss"], **tried,
        "images_per_second": statistics.median(row["images_per_second"] for row in rows),
        "training_seconds": round(seconds, 1), "wall_seconds": round(wall_seconds, 1)}


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
    return statistics.median(seconds[1:]) / trainer.local_sgd_steps  # the first one is traced


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
                               "exchanged_bytes": values * trainer.exchanged.size / trainer.local_sgd_steps,
                               "replicas": replicas})
