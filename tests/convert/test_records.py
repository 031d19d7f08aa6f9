"""A record gives back what was put into it."""

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from mlimages.acquire.formats import Labels
from mlimages.convert.images import Jpeg
from mlimages.convert.records import dense_labels, parse, serialize, shard_name, shard_paths

LABELS = Labels((2, 5, 9), (1.0, 0.25, 0.9))


def small_jpeg() -> Jpeg:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "teal").save(buffer, "JPEG")
    return Jpeg(buffer.getvalue(), 30, 20)


def a_record(labels: Labels = LABELS) -> bytes:
    return serialize(small_jpeg(), labels, filename="http://host.example/ä.jpg", key="train-00000007")


def test_a_record_written_to_a_file_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(a_record())
    [record] = tf.data.TFRecordDataset([str(path)]).map(parse)
    assert record["encoded"].numpy() == small_jpeg().body
    assert record["key"].numpy() == b"train-00000007"
    assert record["filename"].numpy().decode() == "http://host.example/ä.jpg"
    assert record["index"].numpy().tolist() == [2, 5, 9]
    np.testing.assert_array_equal(record["confidence"].numpy(), np.array([1.0, 0.25, 0.9], np.float32))


def test_a_record_tells_other_readers_its_format_and_size() -> None:
    feature = tf.train.Example.FromString(a_record()).features.feature
    assert feature["image/format"].bytes_list.value[:] == [b"JPEG"]
    assert feature["image/width"].int64_list.value[:] == [30]
    assert feature["image/height"].int64_list.value[:] == [20]


def test_equal_contents_give_equal_bytes() -> None:
    assert a_record() == a_record()
    # Protobuf's plain serialization orders a map by chance, differently in other processes and versions.
    names = sorted(tf.train.Example.FromString(a_record()).features.feature)
    places = [a_record().index(name.encode()) for name in names]
    assert places == sorted(places)


def test_a_record_without_labels_can_be_read() -> None:
    record = parse(tf.constant(a_record(Labels((), ()))))
    assert record["index"].shape == record["confidence"].shape == (0,)


def test_dense_labels_are_the_confidences_and_0_elsewhere() -> None:
    index = tf.ragged.constant([[0, 3], [], [2]], dtype=tf.int64)
    confidence = tf.ragged.constant([[0.5, 1.0], [], [0.75]], dtype=tf.float32)
    dense = dense_labels(index, confidence, 5)
    assert dense.dtype == tf.float32
    assert dense.numpy().tolist() == [[0.5, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0.75, 0, 0]]


def test_the_shards_of_a_part_are_found_in_order() -> None:
    assert shard_name("train", 3, 64) == "train-00003-of-00064.tfrecord"
    names = [shard_name("train", index, 12) for index in (11, 2, 0)] + ["val-00000-of-00001.tfrecord", "summary.json"]
    paths = shard_paths("data", {"files": dict.fromkeys(names)}, "train")
    assert paths == [Path("data") / shard_name("train", index, 12) for index in (0, 2, 11)]
