"""The n-th batch depends only on the seed and n. Record i has only the class i, so its labels identify it."""

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlimages.acquire.formats import Labels
from mlimages.convert.encode_image import Jpeg
from mlimages.convert.example import UNKNOWN
from mlimages.convert.records import read_index, serialize, serialize_dense, shard_name
from mlimages.convert.shard_writer import open_shard
from mlimages.core.errors import UserError
from mlimages.core.params import Train
from mlimages.core.publish import publish, read_manifest
from mlimages.core.tuning import ALIGNMENT
from mlimages.inputs import reader
from mlimages.inputs.pipeline import (
    Records,
    ReplicaBatches,
    build_dataset,
    evaluation_batches,
    training_batches,
    with_user_errors,
)

RECORDS = 24
Batches = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def batches(small_records: Records, small_train: Train) -> Callable[..., Batches]:
    """Training batches as arrays, by default 2.5 epochs in batches of 10. Some batches span two epochs."""

    def read(steps: int = 6, first: int = 0, parts: int = 1, mine: Sequence[int] = (0,), readers: int = 2,
             **changed: Any) -> Batches:
        params = dataclasses.replace(small_train, **{"batch": 10, **changed})
        stream = training_batches(small_records, params, steps=steps, first=first, parts=parts, mine=mine,
                                  readers=readers)
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


def test_batches_are_square_images_and_dense_labels(batches: Callable[..., Batches]) -> None:
    found = batches()
    assert len(found) == 6
    for images, labels in found:
        assert (images.shape, images.dtype) == ((10, 32, 32, 3), np.uint8)
        assert (labels.shape, labels.dtype) == ((10, RECORDS), np.float32)
        assert images.min() < 90 and images.max() > 165
        assert (labels.sum(axis=1) == 1).all()


def test_images_leave_as_uint8_or_as_float32_from_minus_1_to_1(batches: Callable[..., Batches]) -> None:
    """They differ only by rounding to 255 levels. Without colour jitter there is no rounding."""
    for recoloured, apart in ((True, 0.501), (False, 1e-4)):
        for (whole, _), (real, _) in zip(batches(rotate_and_color_jitter=recoloured), batches(
                rotate_and_color_jitter=recoloured, image_dtype="float32"), strict=True):
            assert real.dtype == np.float32 and -1 <= real.min() and real.max() <= 1
            assert np.abs((real + 1) * 127.5 - whole).max() <= apart


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


def test_the_shuffle_buffer_decides_the_order_and_the_crop_area_the_pictures(batches: Callable[..., Batches]) -> None:
    plain = batches()
    assert records_of(batches(shuffle_buffer=2)) != records_of(plain)
    cropped = batches(crop_area=[0.2, 0.3])
    assert records_of(cropped) == records_of(plain)
    assert all((one != other).any() for (one, _), (other, _) in zip(cropped, plain, strict=True))


def test_a_record_is_augmented_again_in_every_epoch(batches: Callable[..., Batches]) -> None:
    found = batches(steps=2, batch=RECORDS)
    first, second = (images[np.argmax(labels[:, 7])] for images, labels in found)
    assert (first != second).any()


@pytest.mark.parametrize("parts", [2, 5])
def test_a_global_batch_is_the_same_however_many_share_it(batches: Callable[..., Batches], parts: int) -> None:
    alone = batches(steps=4)
    pieces = [batches(steps=4, parts=parts, mine=[part]) for part in range(parts)]
    for step, (images, labels) in enumerate(alone):
        np.testing.assert_array_equal(np.concatenate([piece[step][0] for piece in pieces]), images)
        np.testing.assert_array_equal(np.concatenate([piece[step][1] for piece in pieces]), labels)


def test_several_parts_come_one_after_the_other(batches: Callable[..., Batches]) -> None:
    both = batches(steps=4, first=1, parts=5, mine=[1, 2])
    assert_equal(both[0::2], batches(steps=4, first=1, parts=5, mine=[1]))
    assert_equal(both[1::2], batches(steps=4, first=1, parts=5, mine=[2]))


def test_starting_late_reads_nothing_from_before(small_records: Records, small_train: Train,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = small_records.reader.read

    def spy(positions: np.ndarray, use: Any) -> Any:
        read.append(len(positions))
        return real(positions, use)

    monkeypatch.setattr(small_records.reader, "read", spy)
    list(training_batches(small_records, small_train, steps=1_000_002, first=1_000_000))
    assert read == [8, 8]


@pytest.fixture
def both_schemas(small_records: Records, tmp_path: Path) -> list[Records]:
    """Ten pictures with no, one or several labels, as sparse and as dense records."""
    found = []
    for schema in ("sparse", "dense"):
        work = tmp_path / schema / "work"
        with open_shard(work / (name := shard_name("train", 0, 1))) as add:
            for number in range(10):
                jpeg = Jpeg(small_records.reader.example(number % 3, 0).jpeg, 48, 48)
                labels = Labels(tuple(range(number % 4)), (0.25, UNKNOWN, 1.0)[: number % 4])
                add(serialize(jpeg, labels, filename=str(number), key=str(number)) if schema == "sparse" else
                    serialize_dense(jpeg, labels, filename=str(number), classes=RECORDS), str(number))
        publish(work, out := tmp_path / schema / "out", stage="convert", records={name: 10}, classes=RECORDS)
        found.append(Records(out, read_manifest(out, "convert"), "train"))
    return found


def test_dense_records_give_the_batches_of_sparse_ones(both_schemas: list[Records], small_train: Train) -> None:
    sparse, dense = ([(images.numpy(), labels.numpy()) for images, labels in training_batches(
        records, small_train, steps=3)] for records in both_schemas)
    assert_equal(sparse, dense)
    assert {-1.0, 0.0, 0.25, 1.0} == set(np.unique([labels for _, labels in dense]).tolist())
    for one, other in zip(*(evaluated(records, 32) for records in both_schemas), strict=True):
        for column, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(column, same)


def evaluated(records: Records, pixels: int, **changed: Any) -> Any:
    return list(evaluation_batches(records, pixels=pixels, **{"batch": 10, "preprocessing": "central",
                                                              "central_fraction": 0.8, **changed}))


def test_evaluation_reads_every_record_once_in_order(small_records: Records) -> None:
    found = evaluated(small_records, 32)
    assert [len(keys) for *_, keys in found] == [10, 10, 4]
    assert [int(key) for *_, keys in found for key in keys.numpy()] == list(range(RECORDS))
    assert [int(number) for _, labels, _ in found for number in labels.numpy().argmax(axis=1)] == list(range(RECORDS))


def test_evaluation_looks_at_the_central_part(small_records: Records) -> None:
    [(whole, *_)] = evaluated(small_records, 48, batch=24, central_fraction=1.0)
    [(centre, *_)] = evaluated(small_records, 24, batch=24, central_fraction=0.5)
    np.testing.assert_allclose(centre, whole[:, 12:36, 12:36], atol=1e-6)


def test_evaluation_by_the_shorter_side_looks_at_the_square_in_its_middle(small_records: Records) -> None:
    [(whole, *_)] = evaluated(small_records, 48, batch=24, central_fraction=1.0)
    [(centre, *_)] = evaluated(small_records, 42, batch=24, preprocessing="shorter_side")
    np.testing.assert_allclose(centre, whole[:, 3:45, 3:45], atol=1e-6)


def test_evaluation_is_the_same_each_time(small_records: Records) -> None:
    one, other = (evaluated(small_records, 32, readers=readers)[0] for readers in (1, 3))
    assert tf.reduce_all(one[0] == other[0])


def test_what_is_wrong_with_a_record_is_reported_with_shard_and_number(small_tfrecords: Path, small_train: Train,
                                                                       tmp_path: Path) -> None:
    shutil.copytree(small_tfrecords, tmp_path / "records")
    shard = tmp_path / "records" / "train-00001-of-00003.tfrecord"
    content = bytearray(shard.read_bytes())
    content[int(read_index(shard)[5]["offset"]) + 100] ^= 1
    shard.write_bytes(content)
    records = Records(tmp_path / "records", read_manifest(tmp_path / "records", "convert"), "train")
    with pytest.raises(UserError, match=rf"^{shard}, record 5: its data or the checksum of its data is damaged; .*$"):
        list(with_user_errors(training_batches(records, small_train, steps=3)))


@pytest.mark.parametrize("image_dtype", ["uint8", "float32"])
def test_batches_lie_where_tensorflow_need_not_copy_them(small_records: Records, small_train: Train,
                                                         image_dtype: Any) -> None:
    params = dataclasses.replace(small_train, image_dtype=image_dtype)
    for number in range(4):
        made = ReplicaBatches(small_records, params, 5).make(number)
        assert [array.ctypes.data % ALIGNMENT for array in made] == [0, 0]


def test_many_threads_read_more_shards_than_stay_open(small_tfrecords: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "OPEN_SHARDS", 1)
    records = Records(small_tfrecords, read_manifest(small_tfrecords, "convert"), "train")
    before = len(os.listdir("/proc/self/fd"))
    positions = np.tile(records.positions(), (20, 1))[np.random.default_rng(0).permutation(20 * RECORDS)]
    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(lambda position: records.reader.example(*position.tolist()).indices, positions)]
    assert found == [[shard * RECORDS // 3 + number] for shard, number in positions]
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_as_many_readers_work_at_the_same_time_as_asked_however_few_the_cores() -> None:
    readers = (os.cpu_count() or 1) + 2
    all_at_once = threading.Barrier(readers, timeout=60)

    def make(number: int) -> tuple[np.ndarray]:
        all_at_once.wait()
        return (np.array(number),)

    batches = build_dataset(range(2 * readers), make, readers, (tf.TensorSpec((), tf.int64),))
    assert [int(number) for [number] in batches] == [*range(2 * readers)]


def test_no_thread_tunes_a_dataset(small_records: Records, small_train: Train) -> None:
    """The end of an iterator would wait for that thread, which sleeps for up to a minute."""
    dataset = training_batches(small_records, small_train, steps=1)
    assert dataset.options().autotune.enabled is False
