"""What is wrong with a record is said by the reader that training has, too, with shard and record."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.damage import CLASSES, DAMAGES, JPEG, WRONG_RECORDS, a_record, a_shard
from tests.faults import needs_strace, python, told, with_fault

from mlimages.errors import UserError
from mlimages.train.augment import decode
from mlimages.train.reader import Reader


def read(path: Path, count: int, use: Callable[[int, bytes], object] = lambda index, jpeg: None) -> list[bytes]:
    """The keys of all records, in order."""
    positions = np.array([(0, number) for number in range(count)])
    return Reader([path], [count], CLASSES).read(positions, use).keys


def test_sound_records_are_read(tmp_path: Path) -> None:
    jpegs = []
    assert read(a_shard(tmp_path), 5, lambda index, jpeg: jpegs.append((index, jpeg))) == [
        f"train-{number:08d}".encode() for number in range(5)]
    assert jpegs == [(number, JPEG.body) for number in range(5)]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_whatever_is_damaged_is_named(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(path := a_shard(tmp_path))
    with pytest.raises(UserError, match=said):
        read(path, 5)


@pytest.mark.parametrize(("record", "said"), WRONG_RECORDS)
def test_wrong_features_and_labels_are_named(tmp_path: Path, record: bytes, said: str) -> None:
    with pytest.raises(UserError, match=rf"\.tfrecord, record 1: {said}"):
        read(a_shard(tmp_path, a_record(), record), 2)


@pytest.mark.parametrize("count", [4, 6])
def test_an_index_of_another_length_than_the_manifest_says_is_named(tmp_path: Path, count: int) -> None:
    said = rf"\.tfrecord, record {min(count, 5)}: the manifest tells of {count} records, the shard's index of 5; .*"
    with pytest.raises(UserError, match=f"{said}--force convert"):
        read(a_shard(tmp_path), count)


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.tfrecord, record 0: its image does not decode; .*--force convert"):
        read(a_shard(tmp_path), 5, lambda index, jpeg: decode(jpeg))


READ = """
import sys
from pathlib import Path
from mlimages.errors import UserError
from mlimages.train.reader import Reader
try:
    Reader([Path(sys.argv[1])], [5], 12).example(0, 3)
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@needs_strace
@pytest.mark.parametrize(("fault", "said"), [
    ("pread64:error=EIO", ", record 3: it cannot be read: Input/output error; remove scratch/convert"),
    ("openat:error=EMFILE", " cannot be read: Too many open files; see to its disk")])
def test_a_shard_that_its_disk_does_not_give_is_named(tmp_path: Path, fault: str, said: str) -> None:
    path = a_shard(tmp_path)
    told(with_fault(fault, python(READ, str(path)), path=path), f"{path}{said}")
