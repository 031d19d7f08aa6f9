"""Record shards to batches of images and labels. The n-th batch depends only on the seed and n.

    python -m mlimages.inputs.pipeline --help     # a batch as a picture, and what limits the images per second
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlimages.convert.records import count_records, read_index, shard_paths
from mlimages.core.errors import UserError
from mlimages.core.params import Train
from mlimages.core.tuning import aligned_empty
from mlimages.inputs.augmentation import TensorAugmentation
from mlimages.inputs.colour_jitter import color_jitter
from mlimages.inputs.preprocess import Preprocessing, evaluation_image, to_unit_range, training_image
from mlimages.inputs.random_draws import AugmentationParams, draw_augmentation
from mlimages.inputs.reader import RecordBatch, RecordReader
from mlimages.inputs.sampler import RecordSampler

PREFETCHED = 2  # batches


class Records:
    """The records of one part of data/tfrecords, such as "train", according to its manifest."""

    def __init__(self, folder: str | Path, manifest: dict[str, Any], part: str) -> None:
        self._shards = shard_paths(folder, manifest, part)
        self.counts = count_records(folder, manifest, part)
        self.classes: int = manifest["classes"]
        self.reader = RecordReader(self._shards, self.counts, self.classes)

    def __len__(self) -> int:
        return sum(self.counts)

    def positions(self) -> np.ndarray:
        """The shard and the index in it of each record, in the order of the shards: int [records, 2]."""
        return np.concatenate([np.stack([np.full(count, shard), np.arange(count)], axis=1)
                               for shard, count in enumerate(self.counts)])

    def evenly_spaced(self, count: int) -> np.ndarray:
        """`count` of the `positions`, evenly spaced over all; all of them if there are fewer."""
        count = min(count, len(self))
        return self.positions()[np.arange(count) * len(self) // max(count, 1)]

    def keys(self) -> np.ndarray:
        """The names of all records in the order of `positions`: bytes [records]."""
        # Each is copied, since a memory map keeps its file open.
        return np.concatenate([np.array(read_index(shard)["key"]) for shard in self._shards] or [np.empty(0, "S1")])


class ReplicaBatches:
    """The batches of one replica, by number, as arrays. Batch 0 has the first `size` records in the training's order.

    tf.data must then apply `augmentation` to a batch on the host. `specs` are a batch's shapes and dtypes. Raises
    UserError for an odd `size` with mixup, which mixes pairs.
    """

    def __init__(self, records: Records, params: Train, size: int) -> None:
        if params.mixup is not None and size % 2:
            raise UserError(f"train.mixup mixes pairs, but a replica's share of train.batch, {params.batch}, is "
                            f"{size} images; expected an even number")
        self.records, self._params, self.size = records, params, size
        self._sampler = RecordSampler(records.counts, params.seed, params.shuffle_buffer)
        self.augmentation = TensorAugmentation(params, device=params.augment_on == "device")
        square = (size, params.pixels, params.pixels, 3)
        random_specs = {name: tf.TensorSpec([size, *spec.shape[1:]], spec.dtype)
                        for name, spec in self.augmentation.specs.items()}
        self.specs = (tf.TensorSpec(square, getattr(tf, params.image_dtype)),
                      tf.TensorSpec((size, records.classes), tf.float32), *([random_specs] if random_specs else []))

    def make(self, number: int) -> tuple[Any, ...]:
        """Images, confidences and, where `augmentation` needs any, its random values, as `specs` describes them."""
        on_host = self._params.rotate_and_color_jitter and self._params.augment_on == "host"
        images, batch, drawn = self.preprocess(number, rotate_and_color_jitter=on_host)
        values = self.augmentation.random_values(drawn, number * self.size)
        return images, batch.dense(self.records.classes), *([values] if values else [])

    def read(self, number: int, use: Callable[[int, bytes], Any]) -> RecordBatch:
        """The records of a batch. Calls `use(index, jpeg)` for each one, see RecordReader.read."""
        return self.records.reader.read(self._sampler.positions(number * self.size, (number + 1) * self.size), use)

    def preprocess(self, number: int, *,
                   rotate_and_color_jitter: bool) -> tuple[np.ndarray, RecordBatch, AugmentationParams]:
        """The images of a batch, decoded, cropped, resized and flipped, with their records and random parameters."""
        params = self._params
        drawn = draw_augmentation(params.seed, number * self.size, (number + 1) * self.size)
        crops, places, flips = drawn.crop.tolist(), drawn.place.tolist(), drawn.flip.tolist()
        rotated = (drawn.case == 0) & rotate_and_color_jitter
        angles = [angle if turn else None for angle, turn in zip(drawn.angle.tolist(), rotated, strict=True)]
        images = aligned_empty(self.specs[0].shape, np.uint8)

        # All steps of one image run together, while it is in the processor's cache.
        def preprocess_one(index: int, jpeg: bytes) -> None:
            training_image(jpeg, images[index], area=params.crop_area, crop=crops[index], place=places[index],
                           flip=flips[index], angle=angles[index])

        batch = self.read(number, preprocess_one)
        if rotate_and_color_jitter:
            color_jitter(images, drawn)
        if params.image_dtype == "float32":
            images = to_unit_range(images, aligned_empty(images.shape, np.float32))
        return images, batch, drawn


def training_batches(records: Records, params: Train, *, steps: int, first: int = 0, parts: int = 1,
                     mine: Sequence[int] = (0,), readers: int = 2) -> Any:
    """A tf.data.Dataset of images [images, pixels, pixels, 3] and confidences float32 [images, classes].

    The images are uint8, or float32 from -1 to 1, according to `params.image_dtype`. With `params.augment_on:
    device` there may be a third element, the random values for `TensorAugmentation(params, device=True)`.

    The dataset holds the global batches `first` to `steps` - 1. Each one is divided into `parts` equal parts, of which
    it yields the parts `mine`: so the content of a global batch does not depend on the number of replicas. No record
    before `first` is read. `readers` batches are made at the same time. Raises UserError for a part that mixup cannot
    mix in pairs.
    """
    replica_batches = ReplicaBatches(records, params, params.batch // parts)

    def make(number: int) -> tuple[Any, ...]:
        step, place = divmod(number, len(mine))
        return replica_batches.make(step * parts + mine[place])

    def augment(images: Any, labels: Any, values: Any) -> tuple[Any, Any]:
        images, labels = replica_batches.augmentation(images, labels, values)
        return (tf.cast(tf.round((images + 1) * 127.5), tf.uint8) if params.image_dtype == "uint8" else images), labels

    batches = build_dataset(range(first * len(mine), steps * len(mine)), make, readers, replica_batches.specs)
    if params.augment_on == "host" and replica_batches.augmentation.specs:
        batches = batches.map(augment, num_parallel_calls=readers, deterministic=True)
    return batches.prefetch(PREFETCHED)


def evaluation_batches(records: Records, *, batch: int, pixels: int, preprocessing: Preprocessing,
                       central_fraction: float, readers: int = 2, positions: np.ndarray | None = None) -> Any:
    """A tf.data.Dataset of all records in order: images, confidences as in training, and keys (strings).

    With `positions`, int [records, 2] as `Records.positions` returns them, it holds only these records.
    """
    chosen = records.positions() if positions is None else positions

    def make(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = chosen[number * batch: (number + 1) * batch]
        images = aligned_empty((len(rows), pixels, pixels, 3), np.float32)

        def preprocess_one(index: int, jpeg: bytes) -> None:
            images[index] = evaluation_image(jpeg, pixels=pixels, preprocessing=preprocessing,
                                             central_fraction=central_fraction)

        read = records.reader.read(rows, preprocess_one)
        return images, read.dense(records.classes), np.array(read.keys, object)

    return build_dataset(range(-(-len(chosen) // batch)), make, readers, (
        tf.TensorSpec((None, pixels, pixels, 3), tf.float32), tf.TensorSpec((None, records.classes), tf.float32),
        tf.TensorSpec((None,), tf.string))).prefetch(PREFETCHED)


def build_dataset(numbers: range, make: Callable[[int], tuple[Any, ...]], readers: int, specs: tuple[Any, ...]) -> Any:
    """A tf.data.Dataset of `make(number)` for these numbers, in order. `readers` threads call `make`."""
    flat = tf.nest.flatten(specs)

    def element(number: Any) -> Any:
        made = tf.numpy_function(lambda one: tf.nest.flatten(make(int(one))), [number], [spec.dtype for spec in flat])
        shaped = [tf.ensure_shape(one, spec.shape) for one, spec in zip(made, flat, strict=True)]
        return tf.nest.pack_sequence_as(specs, shaped)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # With tf.data's default of a thread per core, a core is idle whenever its thread waits for Python's lock.
    options.threading.private_threadpool_size = readers
    # Nothing here is tuned, and the thread that tunes sleeps for up to a minute, while an iterator's end waits for it.
    options.autotune.enabled = False
    counted = tf.data.Dataset.range(numbers.start, numbers.stop)
    return counted.map(element, num_parallel_calls=readers, deterministic=True).with_options(options)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise the UserError of a dataset's function, not TensorFlow's error that contains its text."""
    try:
        yield
    except tf.errors.OpError as error:
        _, _, message = str(error.message).partition(f"{UserError.__name__}: ")
        if not message:
            raise
        raise UserError(message.partition("\nTraceback")[0]) from None


def with_user_errors(batches: Any) -> Generator[Any, None, None]:
    """The elements of a dataset, read within `user_errors`."""
    with user_errors():
        yield from batches
