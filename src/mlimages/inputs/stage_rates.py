"""Where the input pipeline spends its time: images per second with one stage of it after the other switched on."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlimages.core.params import Train
from mlimages.inputs.augmentation import Finish
from mlimages.inputs.pipeline import Records, Shares, dataset, told, training_batches
from mlimages.inputs.preprocess import decode

FOREVER = 10**9  # steps
ROUNDS = 3  # in turn, so that what else the machine does touches all stages alike


class Stage(NamedTuple):
    """`images_per_second` of the pipeline up to and with this stage, from first to last all that came before."""

    name: str
    images_per_second: float


def measure(records: Records, params: Train, *, readers: int, seconds: float) -> list[Stage]:
    """The stages of `training_batches` in their order, each measured for so many seconds, as training would run it.

    A stage that these parameters leave out is left out here. UserError for records that are damaged.
    """
    shares = Shares(records, params, params.batch)
    on_host = params.augment_on == "host"

    def run(work: Callable[[int], Any]) -> Callable[[], Iterable[Any]]:
        def make(number: int) -> tuple[Any, ...]:
            work(number)
            return np.int64(number), np.int64(number)

        return lambda: dataset(range(FOREVER), make, readers, (tf.TensorSpec([], tf.int64),) * 2)

    def pictures(rotate_and_color_jitter: bool) -> Callable[[int], Any]:
        return lambda number: shares.pictures(number, rotate_and_color_jitter=rotate_and_color_jitter)

    whole = training_batches(records, params, steps=FOREVER, readers=readers)
    plain = training_batches(records, replace(params, rand_augment=None, mixup=None), steps=FOREVER, readers=readers)
    finish = tf.function(Finish(params, device=True))

    def on_device() -> Iterator[Any]:
        for batch in whole:
            yield finish(*batch)[0][0, 0, 0, 0].numpy()  # until it is here, the device has not done with it

    kinds: dict[str, Callable[[], Iterable[Any]]] = {
        "reading records": run(lambda number: shares.read(number, lambda index, jpeg: None)),
        "decoding": run(lambda number: shares.read(number, lambda index, jpeg: decode(jpeg))),
        "crop, resize, flip": run(pictures(False)),
        **({"rotation and colour": run(pictures(True))} if on_host and params.rotate_and_color_jitter else {}),
        "labels and batches": lambda: plain,
        **({"RandAugment, mixup": lambda: whole} if on_host and shares.finish.wants else {}),
        "on the device": on_device}
    rounds = [[_rate(stream, params.batch, readers, seconds / ROUNDS) for stream in kinds.values()]
              for _ in range(ROUNDS)]
    return [Stage(name, rate) for name, rate in zip(kinds, np.median(rounds, axis=0).tolist(), strict=True)]


def _rate(stream: Callable[[], Iterable[Any]], images: int, readers: int, seconds: float) -> float:
    """Images per second over so many seconds, after what all readers have begun with.

    The pipeline ends with its iterator: else it would go on beside the next one until its buffers are full.
    """
    with contextlib.closing(told(stream())) as iterator:
        for _ in range(readers):
            next(iterator)
        began, batches = time.monotonic(), 0
        while time.monotonic() < began + seconds or not batches:
            next(iterator)
            batches += 1
        return batches * images / (time.monotonic() - began)
