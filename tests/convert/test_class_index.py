"""The index from classes to records names every record of a class, and no other one."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.fixtures import SmallStages

from mlimages.convert.class_index import RecordsByClass, class_index, class_index_path
from mlimages.convert.records import records_by_class
from mlimages.core.errors import UserError
from mlimages.core.publish import read_manifest
from mlimages.inputs.pipeline import Records


def test_the_records_of_a_class_are_all_records_that_name_it(small_stages: SmallStages) -> None:
    manifest = read_manifest(small_stages.tfrecords, "convert")
    for part in ("train", "val"):
        records = Records(small_stages.tfrecords, manifest, part)
        index = RecordsByClass(small_stages.tfrecords, manifest, part)
        named = [(shard, number, records.reader.example(shard, number).indices)
                 for shard, number in records.positions().tolist()]
        counts = records_by_class(small_stages.tfrecords, part)
        for one in range(records.classes):
            expected = [[shard, number] for shard, number, classes in named if one in classes]
            assert index.positions(one).tolist() == expected
            assert len(expected) == counts[one]
        assert {shard for shard, _, _ in named} == {0, 1}


@pytest.mark.parametrize("named", [[], [()], [(0, 3), (3,), (1, 3)]])
def test_the_array_has_offsets_and_the_numbers_of_the_records(named: list[tuple[int, ...]]) -> None:
    array = class_index(named, 4)
    assert array.dtype == np.dtype("<u4")
    for one in range(4):
        first, last = 5 + array[one: one + 2].astype(int)
        assert array[first:last].tolist() == [number for number, classes in enumerate(named) if one in classes]


@pytest.mark.parametrize("damage", ["missing", "cut off", "truncated", "short", "other classes", "no array"])
def test_a_damaged_index_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    manifest = {"classes": 4, "files": {"train-00000-of-00001.tfrecord": {}}}
    path = class_index_path(tmp_path / "train-00000-of-00001.tfrecord")
    array = class_index([(0, 3), (1, 3)], 5 if damage == "other classes" else 4)
    if damage != "missing":
        with path.open("wb") as file:
            np.save(file, array[:-1] if damage == "cut off" else array, allow_pickle=False)
    if damage == "no array":
        path.write_text("nothing")
    if damage in ("truncated", "short"):
        os.truncate(path, path.stat().st_size - (1 if damage == "truncated" else 4 * len(array) - 4))
    with pytest.raises(UserError, match=rf"{path}.*`dvc repro --single-item --force convert`"):
        RecordsByClass(tmp_path, manifest, "train").positions(0)
