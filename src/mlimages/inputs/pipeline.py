"""From record shards to batches. The n-th batch is a function of the seed and n alone, on any number of threads.

    python -m mlimages.inputs.pipeline --help     # a batch as a picture, and what limits the images per second
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlimages.convert.records import read_index, shard_paths
from mlimages.core.errors import UserError
from mlimages.core.params import Train
from mlimages.core.tuning import aligned
from mlimages.inputs.augmentation import Finish
from mlimages.inputs.colour_jitter import recolour
from mlimages.inputs.preprocess import Preprocessing, evaluation_image, scaled, training_image
from mlimages.inputs.random_draws import Draws, draws
from mlimages.inputs.reader import Batch, Reader
from mlimages.inputs.sampler import Order

PREFETCHED = 2  # batches


def count_records(folder: str | Path, manifest: dict[str, Any], part: str) -> list[int]:
    """How many records each shard of a part has, by the manifest of data/tfrecords."""
    return [manifest["files"][shard.name]["records"] for shard in shard_paths(folder, manifest, part)]


class Records:
    """The records of a part of data/tfrecords, as its manifest tells of them."""

    def __init__(self, folder: str | Path, manifest: dict[str, Any], part: str) -> None:
        self._shards = shard_paths(folder, manifest, part)
        self.counts = count_records(folder, manifest, part)
        self.classes: int = manifest["classes"]
        self.reader = Reader(self._shards, self.counts, self.classes)

    def __len__(self) -> int:
        return sum(self.counts)

    def in_order(self) -> np.ndarray:
        """The positions of all, as the reader takes them, in the order of the shards: int [records, 2]."""
        return np.concatenate([np.stack([np.full(count, shard), np.arange(count)], axis=1)
                               for shard, count in enumerate(self.counts)])

    def keys(self) -> np.ndarray:
        """The names of all, `in_order`: bytes [records]."""
        # Copied one after the other: a memory map keeps its file open.
        return np.concatenate([np.array(read_index(shard)["key"]) for shard in self._shards] or [np.empty(0, "S1")])

    def spread(self, count: int) -> np.ndarray:
        """`in_order`, but only `count` of them, evenly spread over all; all where there are not more."""
        count = min(count, len(self))
        return self.in_order()[np.arange(count) * len(self) // max(count, 1)]


class Shares:
    """The training's records in its order, in shares of so many `images`, and what is made of each on the host.

    Share 0 has the first records of the order, share 1 the next ones. `finish` does what is left to do on tensors.
    """

    def __init__(self, records: Records, params: Train, images: int) -> None:
        if params.mixup is not None and images % 2:
            raise UserError(f"train.mixup mixes pairs, but a replica's share of train.batch, {params.batch}, is "
                            f"{images} images; expected an even number")
        self.records, self._params, self.images = records, params, images
        self._order = Order(records.counts, params.seed, params.shuffle_buffer)
        self.finish = Finish(params, device=params.augment_on == "device")
        square = (images, params.pixels, params.pixels, 3)
        wants = {name: tf.TensorSpec([images, *spec.shape[1:]], spec.dtype)
                 for name, spec in self.finish.wants.items()}
        self.kinds = (tf.TensorSpec(square, getattr(tf, params.image_dtype)),
                      tf.TensorSpec((images, records.classes), tf.float32), *([wants] if wants else []))

    def make(self, number: int) -> tuple[Any, ...]:
        """Images, confidences, and what `finish` wants with them, if anything; shapes and dtypes as `kinds` say."""
        on_host = self._params.rotate_and_color_jitter and self._params.augment_on == "host"
        images, batch, drawn = self.pictures(number, rotate_and_color_jitter=on_host)
        given = self.finish.given(drawn, number * self.images)
        return images, batch.dense(self.records.classes), *([given] if given else [])

    def read(self, number: int, use: Callable[[int, bytes], Any]) -> Batch:
        """The records, as the reader reads them."""
        return self.records.reader.read(self._order.positions(number * self.images, (number + 1) * self.images), use)

    def pictures(self, number: int, *, rotate_and_color_jitter: bool) -> tuple[np.ndarray, Batch, Draws]:
        """The images, what else their records hold, and what they drew."""
        params = self._params
        drawn = draws(params.seed, number * self.images, (number + 1) * self.images)
        crops, places, flips = drawn.crop.tolist(), drawn.place.tolist(), drawn.flip.tolist()
        # Each at once, while it is in the processor's cache.
        turned = (drawn.case == 0) & rotate_and_color_jitter
        angles = [angle if turns else None for angle, turns in zip(drawn.angle.tolist(), turned, strict=True)]
        images = aligned(self.kinds[0].shape, np.uint8)

        def picture(index: int, jpeg: bytes) -> None:
            training_image(jpeg, images[index], area=params.crop_area, crop=crops[index], place=places[index],
                           flip=flips[index], angle=angles[index])

        batch = self.read(number, picture)
        if rotate_and_color_jitter:
            recolour(images, drawn)
        if params.image_dtype == "float32":
            images = scaled(images, aligned(images.shape, np.float32))
        return images, batch, drawn


def training_batches(records: Records, params: Train, *, steps: int, first: int = 0, parts: int = 1,
                     mine: Sequence[int] = (0,), readers: int = 2) -> Any:
    """A tf.data.Dataset of images [images, pixels, pixels, 3] and confidences float32 [images, classes].

    The images are uint8, or float32 from -1 to 1, as `params.image_dtype` says. With `params.augment_on: device` a
    third element may follow: what `Finish(params, device=True)` is to be called with beside the two.

    It holds the global batches `first` to `steps` - 1, each cut into so many equal `parts`, of which it gives `mine`,
    one after the other: what a global batch holds does not depend on how many share it. Nothing before `first` is
    read. `readers` batches are made at the same time. UserError for a share that mixup cannot mix in pairs.
    """
    shares = Shares(records, params, params.batch // parts)

    def make(number: int) -> tuple[Any, ...]:
        step, place = divmod(number, len(mine))
        return shares.make(step * parts + mine[place])

    def finished(images: Any, labels: Any, given: Any) -> tuple[Any, Any]:
        images, labels = shares.finish(images, labels, given)
        return (tf.cast(tf.round((images + 1) * 127.5), tf.uint8) if params.image_dtype == "uint8" else images), labels

    batches = dataset(range(first * len(mine), steps * len(mine)), make, readers, shares.kinds)
    if params.augment_on == "host" and shares.finish.wants:
        batches = batches.map(finished, num_parallel_calls=readers, deterministic=True)
    return batches.prefetch(PREFETCHED)


def evaluation_batches(records: Records, *, batch: int, pixels: int, preprocessing: Preprocessing,
                       central_fraction: float, readers: int = 2, positions: np.ndarray | None = None) -> Any:
    """Every record once, in order: images, confidences as in training, and keys (strings [images]).

    With `positions`, int [records, 2] as `Records.in_order` gives them, only the records at these.
    """
    taken = records.in_order() if positions is None else positions

    def make(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = taken[number * batch: (number + 1) * batch]
        images = aligned((len(chosen), pixels, pixels, 3), np.float32)

        def picture(index: int, jpeg: bytes) -> None:
            images[index] = evaluation_image(jpeg, pixels=pixels, preprocessing=preprocessing,
                                             central_fraction=central_fraction)

        found = records.reader.read(chosen, picture)
        return images, found.dense(records.classes), np.array(found.keys, object)

    return dataset(range(-(-len(taken) // batch)), make, readers, (
        tf.TensorSpec((None, pixels, pixels, 3), tf.float32), tf.TensorSpec((None, records.classes), tf.float32),
        tf.TensorSpec((None,), tf.string))).prefetch(PREFETCHED)


def dataset(numbers: range, make: Callable[[int], tuple[Any, ...]], readers: int, kinds: tuple[Any, ...]) -> Any:
    """The elements that `make` gives for these numbers, in order, `readers` of them made at the same time."""
    flat = tf.nest.flatten(kinds)

    def element(number: Any) -> Any:
        made = tf.numpy_function(lambda one: tf.nest.flatten(make(int(one))), [number], [kind.dtype for kind in flat])
        shaped = [tf.ensure_shape(one, kind.shape) for one, kind in zip(made, flat, strict=True)]
        return tf.nest.pack_sequence_as(kinds, shaped)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Else as many threads as cores work, and a core idles whenever one of them waits for Python's lock.
    options.threading.private_threadpool_size = readers
    counted = tf.data.Dataset.range(numbers.start, numbers.stop)
    return counted.map(element, num_parallel_calls=readers, deterministic=True).with_options(options)


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """A block that reads such a dataset; what its functions had to say to the user is raised as they said it."""
    try:
        yield
    except tf.errors.OpError as error:
        _, _, said = str(error.message).partition(f"{UserError.__name__}: ")
        if not said:
            raise
        raise UserError(said.partition("\nTraceback")[0]) from None


def told(batches: Any) -> Generator[Any, None, None]:
    """The elements of a dataset, read within `telling`."""
    with telling():
        yield from batches
