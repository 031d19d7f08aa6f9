"""The n-th batch is a function of the seed and n; record i has the class i alone, and so is known by its labels."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlimages.params import Train
from mlimages.train.inputs import evaluation_batches, training_batches

RECORDS = 24
Batches = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def batches(small_shards: list[Path], small_train: Train) -> Callable[..., Batches]:
    """Training batches as arrays; by default two epochs and a half in batches of 10, which span the epochs' ends."""

    def read(steps: int = 6, batch: int = 10, first: int = 0, readers: int = 2, **changed: Any) -> Batches:
        params = dataclasses.replace(small_train, **changed)
        stream = training_batches(small_shards, params, RECORDS, records=RECORDS, batch=batch, steps=steps,
                                  first=first, readers=readers)
        return [(images.numpy(), labels.numpy()) for images, labels in stream]

    return read


def records_of(found: Batches) -> list[int]:
    """The numbers of the records, in order."""
    return [int(number) for _, labels in found for number in labels.argmax(axis=1)]


def assert_equal(one: Batches, other: Batches) -> None:
    assert len(one) == len(other)
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def test_batches_are_square_images_in_minus_1_to_1_and_dense_labels(batches: Callable[..., Batches]) -> None:
    found = batches()
    assert len(found) == 6
    for images, labels in found:
        assert (images.shape, images.dtype) == ((10, 32, 32, 3), np.float32)
        assert (labels.shape, labels.dtype) == ((10, RECORDS), np.float32)
        assert -1 <= images.min() < -0.3 and 0.3 < images.max() <= 1
        assert (labels.sum(axis=1) == 1).all()


@pytest.mark.parametrize("readers", [1, 3])
def test_the_batches_are_the_same_whatever_the_number_of_readers(batches: Callable[..., Batches], readers: int) -> None:
    assert_equal(batches(readers=readers), batches())


@pytest.mark.parametrize("first", [1, 2, 3, 5])
def test_starting_at_a_batch_equals_skipping_those_before_it(batches: Callable[..., Batches], first: int) -> None:
    assert_equal(batches(first=first), batches()[first:])


def test_more_steps_begin_with_the_same_batches(batches: Callable[..., Batches]) -> None:
    assert_equal(batches(steps=9)[:6], batches())


def test_every_epoch_has_every_record_once_each_in_its_own_order(batches: Callable[..., Batches]) -> None:
    numbers = records_of(batches(steps=9, batch=8))
    epochs = [numbers[start : start + RECORDS] for start in range(0, 3 * RECORDS, RECORDS)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(RECORDS))
        assert epoch != sorted(epoch)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_batch_that_spans_two_epochs_has_the_end_of_one_and_the_beginning_of_the_next(
        batches: Callable[..., Batches]) -> None:
    assert records_of(batches(steps=7, batch=10))[:48] == records_of(batches(steps=6, batch=8))


def test_a_batch_larger_than_the_data_goes_over_them_again(batches: Callable[..., Batches]) -> None:
    [(images, _)] = batches(steps=1, batch=60)
    assert len(images) == 60


def test_the_seed_decides_the_order(batches: Callable[..., Batches]) -> None:
    assert records_of(batches(seed=4)) != records_of(batches())


def test_a_record_is_augmented_anew_in_every_epoch(batches: Callable[..., Batches]) -> None:
    found = batches(steps=2, batch=RECORDS)
    first, second = (images[np.argmax(labels[:, 7])] for images, labels in found)
    assert (first != second).any()


def test_evaluation_reads_every_record_once_in_order(small_shards: list[Path]) -> None:
    found = list(evaluation_batches(small_shards, RECORDS, batch=10, pixels=32, central_fraction=0.8))
    assert [len(keys) for *_, keys in found] == [10, 10, 4]
    assert [int(key) for *_, keys in found for key in keys.numpy()] == list(range(RECORDS))
    assert [int(number) for _, labels, _ in found for number in labels.numpy().argmax(axis=1)] == list(range(RECORDS))


def test_evaluation_looks_at_the_central_part(small_shards: list[Path]) -> None:
    [(whole, *_)] = evaluation_batches(small_shards, RECORDS, batch=24, pixels=48, central_fraction=1.0)
    [(centre, *_)] = evaluation_batches(small_shards, RECORDS, batch=24, pixels=24, central_fraction=0.5)
    np.testing.assert_allclose(centre, whole[:, 12:36, 12:36], atol=1e-6)


def test_evaluation_is_the_same_each_time(small_shards: list[Path]) -> None:
    one, other = (next(iter(evaluation_batches(small_shards, RECORDS, batch=24, pixels=32, central_fraction=0.8,
                                               readers=readers))) for readers in (1, 3))
    assert tf.reduce_all(one[0] == other[0])
