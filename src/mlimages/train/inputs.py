"""From record shards to batches. The n-th batch is a function of the seed and n alone, on any number of threads."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlimages.convert.records import dense_labels, parse_sparse
from mlimages.params import Train
from mlimages.train.augment import evaluation_image, training_image

# Shards read at the same time; part of what determines the order, so no setting of the machine.
INTERLEAVED_SHARDS = 16


def training_batches(shards: Sequence[Path], params: Train, classes: int, *, records: int, batch: int, steps: int,
                     first: int = 0, readers: int = 2) -> Any:
    """A tf.data.Dataset of images float32 [batch, pixels, pixels, 3] and confidences [batch, classes].

    It holds the batches `first` to `steps` - 1 of the stream that reads the shards, `records` in all, over and over:
    each epoch in another order of shards, interleaved, through a shuffle buffer of serialized records. What lies
    before `first` is skipped: whole epochs unread, the rest of one undecoded.
    """
    first_epoch = first * batch // records
    stream = _epoch(shards, params, first_epoch, readers)
    for number in range(first_epoch + 1, math.ceil(steps * batch / records)):
        stream = stream.concatenate(_epoch(shards, params, number, readers))

    def example(position: Any, serialized: Any) -> Any:
        record = parse_sparse(serialized)
        image = training_image(record["encoded"], tf.stack([tf.constant(params.seed, tf.int64), position]),
                               pixels=params.pixels, crop_area=(params.crop_area[0], params.crop_area[1]),
                               rotate_and_recolour=params.rotate_and_recolour)
        return image, record["index"], record["confidence"]

    numbered = stream.enumerate(start=first_epoch * records).skip(first * batch - first_epoch * records)
    examples = numbered.map(example, num_parallel_calls=readers, deterministic=True)
    return _batched(examples, batch, classes).take(steps - first)


def _epoch(shards: Sequence[Path], params: Train, number: int, readers: int) -> Any:
    """The serialized records of one epoch, in an order that `params.seed` and the epoch's number decide."""
    order = np.random.default_rng([params.seed, number]).permutation([str(path) for path in shards])
    records = tf.data.Dataset.from_tensor_slices(order).interleave(
        tf.data.TFRecordDataset, cycle_length=INTERLEAVED_SHARDS, num_parallel_calls=readers, deterministic=True)
    return records.shuffle(params.shuffle_buffer, seed=params.seed + number, reshuffle_each_iteration=False)


def evaluation_batches(shards: Sequence[Path], classes: int, *, batch: int, pixels: int, central_fraction: float,
                       readers: int = 2) -> Any:
    """Every record once, in order: images, confidences as in training, and keys (strings [batch])."""

    def example(serialized: Any) -> Any:
        record = parse_sparse(serialized)
        image = evaluation_image(record["encoded"], pixels=pixels, central_fraction=central_fraction)
        return image, record["index"], record["confidence"], record["key"]

    records = tf.data.TFRecordDataset([str(path) for path in shards])
    return _batched(records.map(example, num_parallel_calls=readers, deterministic=True), batch, classes)


def _batched(examples: Any, batch: int, classes: int) -> Any:
    def dense(images: Any, index: Any, confidence: Any, *rest: Any) -> Any:
        return images, dense_labels(index, confidence, classes), *rest

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return examples.ragged_batch(batch).map(dense).prefetch(2).with_options(options)
