"""Wrong and damaged records are reported with their file and number."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.damage import CLASSES, DAMAGES, JPEG, WRONG_RECORDS, WRONG_SIZES, cut, flipped, make_record, make_shard

from mlimages.acquire.formats import Labels
from mlimages.convert.check_records import check_shard, main
from mlimages.convert.records import serialize, serialize_dense
from mlimages.core.errors import UserError


def test_valid_records_of_both_schemas_are_counted(tmp_path: Path) -> None:
    dense = serialize_dense(JPEG, Labels((1, 11), (0.5, 1.0)), filename="a", classes=CLASSES)
    assert check_shard(make_shard(tmp_path, make_record(), dense, make_record(2, (), ())), CLASSES) == 3


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_every_damage_is_reported(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(path := make_shard(tmp_path))
    with pytest.raises(UserError, match=said):
        check_shard(path, CLASSES)


def test_a_plain_shard_that_begins_like_a_compressed_file_is_not_called_compressed(tmp_path: Path) -> None:
    """The length of its first record has the bytes 78 01, with which zlib's files may begin."""
    jpeg = JPEG._replace(body=bytes(0x178 - len(make_record()) + len(JPEG.body)))
    record = serialize(jpeg, Labels((2, 5), (1.0, 0.5)), filename="http://host.example/a", key="train-00000000")
    flipped(1, 0)(path := make_shard(tmp_path, record, make_record()))
    assert path.read_bytes()[:2] == b"\x78\x01"
    with pytest.raises(UserError, match=r"record 1: its length or the checksum of its length is damaged"):
        check_shard(path, CLASSES)


def test_a_shard_cut_between_two_records_differs_from_its_index(tmp_path: Path) -> None:
    cut(3, 0)(path := make_shard(tmp_path))
    with pytest.raises(UserError, match=r"record 3: the file has 3 records, .*\.index has 5, and this is the first"):
        check_shard(path, CLASSES)


@pytest.mark.parametrize(("record", "said"), WRONG_RECORDS + WRONG_SIZES)
def test_wrong_features_and_labels_are_reported(tmp_path: Path, record: bytes, said: str) -> None:
    with pytest.raises(UserError, match=rf"\.tfrecord, record 1: {said}"):
        check_shard(make_shard(tmp_path, make_record(), record), CLASSES)


@pytest.mark.parametrize("arguments", [(), ("data/tfrecords", "more")])
def test_wrong_arguments_are_reported(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*arguments) == 2
    said = capsys.readouterr().err
    assert f"ERROR: {len(arguments)} arguments, expected the folder of the records: run `python -m mlimages." in said


def test_a_folder_without_a_manifest_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(str(tmp_path)) == 2
    assert "manifest.json is missing" in capsys.readouterr().err
