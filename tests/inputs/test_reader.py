"""The reader of the training names the shard and the record of every fault."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.damage import CLASSES, DAMAGES, JPEG, WRONG_RECORDS, make_record, make_shard
from tests.faults import assert_user_error, needs_strace, python, run, with_fault

from mlimages.convert.records import index_path
from mlimages.core.errors import UserError
from mlimages.inputs.preprocess import decode
from mlimages.inputs.reader import RecordReader


def read(path: Path, count: int, use: Callable[[int, bytes], object] = lambda index, jpeg: None) -> list[bytes]:
    """The keys of all records, in order."""
    positions = np.array([(0, number) for number in range(count)])
    return RecordReader([path], [count], CLASSES).read(positions, use).keys


def test_sound_records_are_read(tmp_path: Path) -> None:
    jpegs = []
    assert read(make_shard(tmp_path), 5, lambda index, jpeg: jpegs.append((index, jpeg))) == [
        f"train-{number:08d}".encode() for number in range(5)]
    assert jpegs == [(number, JPEG.body) for number in range(5)]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_whatever_is_damaged_is_named(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(path := make_shard(tmp_path))
    with pytest.raises(UserError, match=said):
        read(path, 5)


@pytest.mark.parametrize(("record", "said"), WRONG_RECORDS)
def test_wrong_features_and_labels_are_named(tmp_path: Path, record: bytes, said: str) -> None:
    with pytest.raises(UserError, match=rf"\.tfrecord, record 1: {said}"):
        read(make_shard(tmp_path, make_record(), record), 2)


@pytest.mark.parametrize("count", [4, 6])
def test_an_index_of_another_length_than_the_manifest_says_is_named(tmp_path: Path, count: int) -> None:
    said = rf"\.tfrecord, record {min(count, 5)}: the manifest lists {count} records, the shard's index 5; .*"
    with pytest.raises(UserError, match=f"{said}--force convert"):
        read(make_shard(tmp_path), count)


def test_an_image_that_does_not_decode_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.tfrecord, record 0: its image does not decode; .*--force convert"):
        read(make_shard(tmp_path), 5, lambda index, jpeg: decode(jpeg))


MANY = """
import os, resource, sys
from pathlib import Path
from mlimages.core.errors import UserError
from mlimages.inputs.pipeline import Records
folder, limit, shards = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
names = sorted(path.name for path in folder.glob("*.tfrecord"))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
before = len(os.listdir("/proc/self/fd"))
try:
    records = Records(folder, {"files": {name: {"records": 5} for name in names}, "classes": 12}, "train")
    keys = records.keys()
    assert len(os.listdir("/proc/self/fd")) == before
    found = records.reader.read(records.positions(), lambda index, jpeg: None)
except UserError as error:
    sys.exit(f"UserError: {error}")
assert len(keys) == len(found.keys) == 5 * shards, (len(keys), len(found.keys))
assert records.reader.index_bytes == 12 * 5 * shards
"""


def many_shards(folder: Path, count: int) -> Path:
    """Make `count` equal shards of five records."""
    made = make_shard(folder / "one")
    for number in range(count):
        os.link(made, path := folder / f"train-{number:05d}-of-{count:05d}.tfrecord")
        os.link(index_path(made), index_path(path))
    return folder


def test_more_shards_are_read_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    ended = run(python(MANY, str(many_shards(tmp_path, 300)), "256", "300"))
    assert ended.returncode == 0, ended.stderr


def test_a_limit_that_is_too_low_is_reported_with_its_number_and_how_to_raise_it(tmp_path: Path) -> None:
    ended = run(python(MANY, str(many_shards(tmp_path, 60)), "40", "60"))
    assert_user_error(ended, "Too many open files; this process may have 40 open: raise that "
                             "limit (`ulimit -n 40` is the highest)")


READ = """
import sys
from pathlib import Path
from mlimages.core.errors import UserError
from mlimages.inputs.reader import RecordReader
try:
    RecordReader([Path(sys.argv[1])], [5], 12).example(0, 3)
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@needs_strace
@pytest.mark.parametrize(("fault", "said"), [
    ("pread64:error=EIO", ", record 3: it cannot be read: Input/output error; remove scratch/convert"),
    ("openat:error=EMFILE", " cannot be read: Too many open files; this process may have")])
def test_a_shard_that_its_disk_does_not_give_is_named(tmp_path: Path, fault: str, said: str) -> None:
    path = make_shard(tmp_path)
    assert_user_error(with_fault(fault, python(READ, str(path)), path=path), f"{path}{said}")
