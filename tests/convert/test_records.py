"""Records are read as they were written."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mlimages.acquire.formats import Labels
from mlimages.convert.encode_image import Jpeg
from mlimages.convert.records import (
    HEADER_BYTES,
    index_path,
    index_rows,
    parse,
    parse_sparse,
    read_index,
    serialize,
    serialize_dense,
    shard_name,
    shard_paths,
)
from mlimages.convert.shard_writer import open_shard
from mlimages.core.errors import UserError

LABELS = Labels((2, 5, 9), (1.0, 0.25, 0.9))
CLASSES = 12
URL = "http://host.example/ä.jpg"


def small_jpeg() -> Jpeg:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "teal").save(buffer, "JPEG")
    return Jpeg(buffer.getvalue(), 30, 20)


def a_record(labels: Labels = LABELS) -> bytes:
    return serialize(small_jpeg(), labels, filename=URL, key="train-00000007")


def a_dense_record(labels: Labels = LABELS) -> bytes:
    return serialize_dense(small_jpeg(), labels, filename=URL, classes=CLASSES)


def test_a_shard_has_the_bytes_that_tensorflow_writes(tmp_path: Path) -> None:
    records = [a_record(), b"", a_dense_record()]
    with open_shard(tmp_path / "ours") as add:
        for number, record in enumerate(records):
            add(record, f"train-{number:08d}")
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(a_record())
    [record] = tf.data.TFRecordDataset([str(path)]).map(parse_sparse)
    assert record["encoded"].numpy() == small_jpeg().body
    assert record["key"].numpy() == b"train-00000007"
    assert record["filename"].numpy().decode() == URL
    assert record["index"].numpy().tolist() == [2, 5, 9]
    np.testing.assert_array_equal(record["confidence"].numpy(), np.array([1.0, 0.25, 0.9], np.float32))


def test_a_record_holds_the_format_and_the_size_of_its_image() -> None:
    feature = tf.train.Example.FromString(a_record()).features.feature
    assert feature["image/format"].bytes_list.value[:] == [b"JPEG"]
    assert feature["image/width"].int64_list.value[:] == [30]
    assert feature["image/height"].int64_list.value[:] == [20]


def test_equal_contents_give_equal_bytes() -> None:
    assert a_record() == a_record()
    # By default, protobuf serializes a map in an order that differs between processes and versions.
    names = sorted(tf.train.Example.FromString(a_record()).features.feature)
    places = [a_record().index(name.encode()) for name in names]
    assert places == sorted(places)


def test_nine_labels_take_at_most_200_bytes() -> None:
    nine = Labels(tuple(range(2000, 11_000, 1000)), tuple(0.1 * number for number in range(1, 10)))
    assert len(a_record(nine)) - len(a_record(Labels((), ()))) <= 200


def test_a_record_without_labels_can_be_read() -> None:
    record = parse_sparse(tf.constant(a_record(Labels((), ()))))
    assert record["index"].shape == record["confidence"].shape == (0,)


@pytest.mark.parametrize("record", [a_record, a_dense_record])
def test_a_record_of_either_schema_gives_the_jpeg_dense_labels_and_the_name(record: Callable[[], bytes]) -> None:
    [(image, labels, name)] = tf.data.Dataset.from_tensors(record()).map(lambda one: parse(one, CLASSES))
    assert image.numpy() == small_jpeg().body
    assert labels.dtype == tf.float32
    expected = np.zeros(CLASSES, np.float32)
    expected[[2, 5, 9]] = 1.0, 0.25, 0.9
    np.testing.assert_array_equal(labels.numpy(), expected)
    assert name.numpy().decode() == URL


@pytest.mark.parametrize("record", [a_record, a_dense_record])
def test_a_class_beyond_the_number_of_classes_is_an_error(record: Callable[[], bytes]) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        parse(tf.constant(record()), 9)


@pytest.mark.parametrize("size", [0, 4, 4 * CLASSES - 4, 4 * CLASSES - 1, 4 * CLASSES + 4, 8 * CLASSES])
def test_a_dense_label_of_another_number_of_classes_is_an_error_inside_tf_data(size: int) -> None:
    example = tf.train.Example.FromString(a_dense_record())
    example.features.feature["label"].bytes_list.value[0] = bytes(size)
    records = tf.data.Dataset.from_tensors(example.SerializeToString()).map(lambda one: parse(one, CLASSES))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"label of\] \[{size}\] \[bytes, expected\] \[48\]"):
        list(records)


def test_a_record_of_another_schema_is_an_error_also_inside_tf_data() -> None:
    feature = {"picture": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))}
    other = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    with pytest.raises(tf.errors.InvalidArgumentError, match="a record without an image"):
        list(tf.data.Dataset.from_tensors(other).map(parse_sparse))


def test_a_dense_record_is_what_the_released_program_writes_and_reads() -> None:
    feature = tf.train.Example.FromString(a_dense_record()).features.feature
    assert sorted(feature) == ["height", "image", "label", "name", "width"]
    assert (feature["width"].int64_list.value[:], feature["height"].int64_list.value[:]) == ([30], [20])
    assert feature["image"].bytes_list.value[:] == [small_jpeg().body]
    assert feature["name"].bytes_list.value[:] == [URL.encode()]
    [label] = feature["label"].bytes_list.value
    assert np.frombuffer(label, np.float32).tolist() == [0, 0, 1, 0, 0, 0.25, 0, 0, 0, np.float32(0.9), 0, 0]


def test_the_key_of_a_dense_record_is_its_name() -> None:
    record = parse_sparse(tf.constant(a_dense_record()))
    assert record["key"].numpy() == record["filename"].numpy() == URL.encode()
    assert record["index"].numpy().tolist() == [2, 5, 9]


def test_the_index_finds_every_record_of_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.tfrecord"
    written = [a_record(), a_dense_record(), a_record(Labels((), ()))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in written:
            writer.write(record)
    with index_path(path).open("wb") as file:
        np.save(file, index_rows([len(one) for one in written], ["a", "bbb", "cc"]))
    rows = read_index(path)
    assert isinstance(rows, np.memmap)
    assert rows["key"].tolist() == [b"a", b"bbb", b"cc"]
    content = path.read_bytes()
    found = [content[row["offset"] + HEADER_BYTES:][:row["length"]] for row in rows]
    assert found == written
    assert index_path(path).name == "train-00000-of-00001.tfrecord.index"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x93NUMPY"])
def test_a_missing_or_damaged_index_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "train-00000-of-00001.tfrecord"
    if content is not None:
        index_path(path).write_bytes(content)
    with pytest.raises(UserError, match=r"00001\.tfrecord\.index is .*dvc repro --single-item --force convert"):
        read_index(path)


def test_the_shards_of_a_part_are_found_in_order() -> None:
    assert shard_name("train", 3, 64) == "train-00003-of-00064.tfrecord"
    names = [shard_name("train", index, 12) for index in (11, 2, 0)] + ["val-00000-of-00001.tfrecord", "summary.json"]
    names += [f"{name}.index" for name in names]
    paths = shard_paths("data", {"files": dict.fromkeys(names)}, "train")
    assert paths == [Path("data") / shard_name("train", index, 12) for index in (0, 2, 11)]


def test_a_record_has_the_bytes_that_tensorflow_writes() -> None:
    serialized = serialize(Jpeg(b"\xff\xd8", 3, 4), Labels((1, 5), (0.25, 1.0)), filename="a/\u00e9", key="k")
    message = tf.train.Example.FromString(serialized)
    assert message.SerializeToString(deterministic=True) == serialized
    assert list(message.features.feature["label/confidence"].float_list.value) == [0.25, 1.0]
    assert message.features.feature["image/filename"].bytes_list.value == ["a/\u00e9".encode()]
