"""The speed of the input pipeline: images per second up to each of its stages."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlimages.core.params import Train
from mlimages.inputs.augmentation import TensorAugmentation
from mlimages.inputs.pipeline import Records, ReplicaBatches, build_dataset, training_batches, with_user_errors
from mlimages.inputs.preprocess import decode

UNLIMITED = 10**9  # steps
ROUNDS = 3  # the stages take turns, so that other load on the machine affects all of them alike


class StageRate(NamedTuple):
    """The images per second of the pipeline from its start to the end of this stage."""

    name: str
    images_per_second: float


def measure_stages(records: Records, params: Train, *, readers: int, seconds: float) -> list[StageRate]:
    """Measure `training_batches` up to each of its stages in order, for `seconds` each.

    Stages that the parameters switch off are left out. Raises UserError for damaged records.
    """
    replica_batches = ReplicaBatches(records, params, params.batch)
    on_host = params.augment_on == "host"

    def run(work: Callable[[int], Any]) -> Callable[[], Iterable[Any]]:
        def make(number: int) -> tuple[Any, ...]:
            work(number)
            return np.int64(number), np.int64(number)

        return lambda: build_dataset(range(UNLIMITED), make, readers, (tf.TensorSpec([], tf.int64),) * 2)

    def preprocess(jitter: bool) -> Callable[[int], Any]:
        return lambda number: replica_batches.preprocess(number, rotate_and_color_jitter=jitter)

    whole = training_batches(records, params, steps=UNLIMITED, readers=readers)
    plain = training_batches(records, replace(params, rand_augment=None, mixup=None), steps=UNLIMITED, readers=readers)
    augment = tf.function(TensorAugmentation(params, device=True))

    def on_device() -> Iterator[Any]:
        for batch in whole:
            yield augment(*batch)[0][0, 0, 0, 0].numpy()  # waits until the device is done

    stages: dict[str, Callable[[], Iterable[Any]]] = {
        "reading records": run(lambda number: replica_batches.read(number, lambda index, jpeg: None)),
        "decoding": run(lambda number: replica_batches.read(number, lambda index, jpeg: decode(jpeg))),
        "crop, resize, flip": run(preprocess(False)),
        **({"rotation and colour": run(preprocess(True))} if on_host and params.rotate_and_color_jitter else {}),
        "labels and batches": lambda: plain,
        **({"RandAugment, mixup": lambda: whole} if on_host and replica_batches.augmentation.specs else {}),
        "on the device": on_device}
    rounds = [[_rate(stream, params.batch, readers, seconds / ROUNDS) for stream in stages.values()]
              for _ in range(ROUNDS)]
    return [StageRate(name, rate) for name, rate in zip(stages, np.median(rounds, axis=0).tolist(), strict=True)]


def _rate(stream: Callable[[], Iterable[Any]], images: int, readers: int, seconds: float) -> float:
    """Images per second, without the first batch of each reader.

    Closing the iterator ends the pipeline, which would otherwise fill its buffers while the next one is measured.
    """
    with contextlib.closing(with_user_errors(stream())) as iterator:
        for _ in range(readers):
            next(iterator)
        started, batches = time.monotonic(), 0
        while time.monotonic() < started + seconds or not batches:
            next(iterator)
            batches += 1
        return batches * images / (time.monotonic() - started)
