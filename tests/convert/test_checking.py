"""A record that is not what it should be is named, with its file."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlimages.acquire.formats import Labels
from mlimages.convert import writing
from mlimages.convert.checking import check_shard, main
from mlimages.convert.images import Jpeg
from mlimages.convert.records import FOOTER_BYTES, HEADER_BYTES, index_path, read_index, serialize, serialize_dense
from mlimages.errors import UserError

CLASSES = 12
JPEG = Jpeg(bytes(range(200)), 30, 20)


def a_record(number: int = 0, classes: tuple[int, ...] = (2, 5), confidences: tuple[float, ...] = (1.0, 0.5)) -> bytes:
    return serialize(JPEG, Labels(classes, confidences), filename="http://host.example/a", key=f"train-{number:08d}")


@pytest.fixture
def a_shard(tmp_path: Path) -> Callable[..., Path]:
    """A shard of these records, by default five, with its index."""

    def build(*records: bytes) -> Path:
        path = tmp_path / "train-00000-of-00001.tfrecord"
        with writing.shard(path) as add:
            for number, record in enumerate(records or [a_record(number) for number in range(5)]):
                add(record, f"train-{number:08d}")
        return path

    return build


def changed(path: Path, name: str, value: Any) -> bytes:
    """A sound record with one feature replaced, or left out where the value is None."""
    example = tf.train.Example.FromString(a_record())
    del example.features.feature[name]
    if value is not None:
        example.features.feature[name].CopyFrom(value)
    return example.SerializeToString()


def floats(*values: float) -> Any:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def ints(*values: int) -> Any:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def test_sound_records_of_both_schemas_are_counted(a_shard: Callable[..., Path]) -> None:
    dense = serialize_dense(JPEG, Labels((1, 11), (0.5, 1.0)), filename="a", classes=CLASSES)
    assert check_shard(a_shard(a_record(), dense, a_record(2, (), ())), CLASSES) == 3


@pytest.mark.parametrize(("where", "byte"), [
    ("length", 0), ("length", 7), ("checksum of the length", 8), ("data", HEADER_BYTES), ("data", HEADER_BYTES + 150),
    ("checksum of the data", -FOOTER_BYTES), ("checksum of the data", -1)])
def test_a_flipped_bit_anywhere_in_a_record_is_named(a_shard: Callable[..., Path], where: str, byte: int) -> None:
    path = a_shard()
    third, fourth = (int(read_index(path)["offset"][number]) for number in (2, 3))
    content = bytearray(path.read_bytes())
    content[third + byte if byte >= 0 else fourth + byte] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train-00000-of-00001\.tfrecord, record 2: .*damaged.*--force convert"):
        check_shard(path, CLASSES)


@pytest.mark.parametrize("more", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 100])
def test_a_shard_cut_inside_a_record_is_named(a_shard: Callable[..., Path], more: int) -> None:
    path = a_shard()
    path.write_bytes(path.read_bytes()[: int(read_index(path)["offset"][3]) + more])
    with pytest.raises(UserError, match=r"\.tfrecord, record 3: it is cut off"):
        check_shard(path, CLASSES)


def test_a_shard_cut_between_two_records_differs_from_its_index(a_shard: Callable[..., Path]) -> None:
    path = a_shard()
    path.write_bytes(path.read_bytes()[: int(read_index(path)["offset"][3])])
    with pytest.raises(UserError, match=r"record 3: the file has 3 records, .*\.index tells of 5"):
        check_shard(path, CLASSES)


@pytest.mark.parametrize(("compress", "name"), [(gzip.compress, "gzip"), (zlib.compress, "zlib")])
def test_a_compressed_shard_is_called_so(a_shard: Callable[..., Path], compress: Callable[[bytes], bytes],
                                         name: str) -> None:
    path = a_shard()
    path.write_bytes(compress(path.read_bytes()))
    with pytest.raises(UserError, match=f"compressed with {name}, expected plain records"):
        check_shard(path, CLASSES)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no-such\.tfrecord is missing"):
        check_shard(tmp_path / "no-such.tfrecord", CLASSES)


@pytest.mark.parametrize(("name", "value", "problem"), [
    ("image/encoded", None, "it has no feature image/encoded, only image/filename"),
    ("label/index", None, "it has no feature label/index"),
    ("image/width", floats(30.0), "its feature image/width is float_list, expected int64_list"),
    ("image/height", ints(20, 20), "its feature image/height has 2 values, expected 1"),
    ("label/index", ints(2, 12), "its class 12 is not one of 12"),
    ("label/index", ints(-1, 2), "its class -1 is not one of 12"),
    ("label/index", ints(5, 2), r"its classes \[5, 2\] are not ascending"),
    ("label/index", ints(2), "it has 1 classes and 2 confidences"),
    ("label/confidence", floats(1.0, 1.5), "its confidence 1.5 is not from 0 to 1"),
    ("label/confidence", floats(1.0, float("nan")), "its confidence nan is not from 0 to 1"),
])
def test_wrong_features_and_labels_are_named(a_shard: Callable[..., Path], tmp_path: Path, name: str, value: Any,
                                             problem: str) -> None:
    with pytest.raises(UserError, match=rf"\.tfrecord, record 1: {problem}"):
        check_shard(a_shard(a_record(), changed(tmp_path, name, value)), CLASSES)


def test_a_dense_label_of_other_classes_is_named(a_shard: Callable[..., Path]) -> None:
    dense = serialize_dense(JPEG, Labels((1,), (0.5,)), filename="a", classes=CLASSES - 1)
    with pytest.raises(UserError, match="record 0: its label has 44 bytes, expected 4 for each of 12 classes"):
        check_shard(a_shard(dense), CLASSES)


def test_what_is_no_example_is_named(a_shard: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="record 1: it is no tf.train.Example"):
        check_shard(a_shard(a_record(), struct.pack("<q", -1)), CLASSES)


def test_an_index_beside_a_shard_of_other_records_is_noticed(a_shard: Callable[..., Path]) -> None:
    path = a_shard()
    rows = np.array(read_index(path))
    rows["length"][1] += 1
    with index_path(path).open("wb") as file:
        np.save(file, rows)
    with pytest.raises(UserError, match="record 1: .*from here on they differ"):
        check_shard(path, CLASSES)


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(str(tmp_path)) == 2
    assert "manifest.json is missing" in capsys.readouterr().err
