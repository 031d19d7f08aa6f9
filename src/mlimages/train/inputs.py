"""From record shards to batches. The n-th batch is a function of the seed and n alone, on any number of threads."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlimages.convert.records import shard_paths
from mlimages.errors import UserError
from mlimages.params import Train
from mlimages.train.augment import Preprocessing, evaluation_image, training_image
from mlimages.train.draws import Draws, draws
from mlimages.train.order import Order
from mlimages.train.reader import Batch, Reader

PREFETCHED = 2  # batches


class Records:
    """The records of a part of data/tfrecords, as its manifest tells of them."""

    def __init__(self, folder: str | Path, manifest: dict[str, Any], part: str) -> None:
        shards = shard_paths(folder, manifest, part)
        self.counts = [manifest["files"][shard.name]["records"] for shard in shards]
        self.classes: int = manifest["classes"]
        self.reader = Reader(shards, self.counts, self.classes)

    def __len__(self) -> int:
        return sum(self.counts)


def training_batches(records: Records, params: Train, *, steps: int, first: int = 0, parts: int = 1,
                     mine: Sequence[int] = (0,), readers: int = 2) -> Any:
    """A tf.data.Dataset of images float32 [images, pixels, pixels, 3] and confidences float32 [images, classes].

    It holds the global batches `first` to `steps` - 1, each cut into so many equal `parts`, of which it gives `mine`,
    one after the other: what a global batch holds does not depend on how many share it. Nothing before `first` is
    read. `readers` batches are made at the same time.
    """
    order = Order(records.counts, params.seed, params.shuffle_buffer)
    images = params.batch // parts

    def make(number: int) -> tuple[np.ndarray, np.ndarray]:
        step, place = divmod(number, len(mine))
        begin = step * params.batch + mine[place] * images
        drawn = draws(params.seed, begin, begin + images)
        positions = order.positions(begin, begin + images)

        def image(jpeg: bytes, index: int) -> np.ndarray:
            return training_image(jpeg, Draws(*(column[index] for column in drawn)), pixels=params.pixels,
                                  crop_area=(params.crop_area[0], params.crop_area[1]),
                                  rotate_and_recolour=params.rotate_and_recolour)

        batch = records.reader.read(positions)
        return _images(records.reader, positions, batch, params.pixels, image), batch.dense(records.classes)

    return _dataset(range(first * len(mine), steps * len(mine)), make, readers, (
        tf.TensorSpec((images, params.pixels, params.pixels, 3), tf.float32),
        tf.TensorSpec((images, records.classes), tf.float32)))


def evaluation_batches(records: Records, *, batch: int, pixels: int, preprocessing: Preprocessing,
                       central_fraction: float, readers: int = 2) -> Any:
    """Every record once, in order: images, confidences as in training, and keys (strings [images])."""
    all_of_them = np.array([(shard, number) for shard, count in enumerate(records.counts) for number in range(count)])

    def image(jpeg: bytes, _: int) -> np.ndarray:
        return evaluation_image(jpeg, pixels=pixels, preprocessing=preprocessing, central_fraction=central_fraction)

    def make(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positions = all_of_them[number * batch: (number + 1) * batch]
        found = records.reader.read(positions)
        return (_images(records.reader, positions, found, pixels, image), found.dense(records.classes),
                np.array(found.keys, object))

    return _dataset(range(-(-len(records) // batch)), make, readers, (
        tf.TensorSpec((None, pixels, pixels, 3), tf.float32), tf.TensorSpec((None, records.classes), tf.float32),
        tf.TensorSpec((None,), tf.string)))


def told(batches: Any) -> Iterator[Any]:
    """The elements of a dataset or an iterator of it; what its functions had to say is raised as they said it."""
    iterator = iter(batches)
    while True:
        try:
            element = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            name, _, said = str(error.message).partition(f"{UserError.__name__}: ")
            if not said:
                raise
            raise UserError(said.partition("\nTraceback")[0]) from None
        yield element


def _images(reader: Reader, positions: np.ndarray, batch: Batch, pixels: int,
            image: Callable[[bytes, int], np.ndarray]) -> np.ndarray:
    """float32 [records, pixels, pixels, 3]; UserError where one does not decode."""
    images = np.empty((len(positions), pixels, pixels, 3), np.float32)
    for index, jpeg in enumerate(batch.jpegs):
        try:
            images[index] = image(jpeg, index)
        except ValueError as problem:
            raise reader.wrong(positions[index], str(problem)) from None
    return images


def _dataset(numbers: range, make: Callable[[int], tuple[np.ndarray, ...]], readers: int,
             kinds: tuple[Any, ...]) -> Any:
    """The elements that `make` gives for these numbers, in order, `readers` of them made at the same time."""

    def element(number: Any) -> tuple[Any, ...]:
        made = tf.numpy_function(lambda one: make(int(one)), [number], [kind.dtype for kind in kinds])
        return tuple(tf.ensure_shape(one, kind.shape) for one, kind in zip(made, kinds, strict=True))

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = tf.data.Dataset.range(numbers.start, numbers.stop)
    made = dataset.map(element, num_parallel_calls=readers, deterministic=True)
    return made.prefetch(PREFETCHED).with_options(options)
