"""The stage convert writes every image into exactly one record, with the same bytes on any number of workers."""

import csv
import dataclasses
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.convert.conftest import SmallDemo

from mlimages.acquire.formats import PARTS, Part, list_file, read_list
from mlimages.convert.check_records import check_shards
from mlimages.convert.records import HEADER_BYTES, index_path, parse, parse_sparse, read_index, shard_paths
from mlimages.convert.run import convert
from mlimages.core.errors import UserError
from mlimages.core.params import Convert, Machine
from mlimages.core.publish import MANIFEST, verify
from mlimages.demo import world
from mlimages.download.ledger import Reason, read_ledger
from mlimages.download.shards import shard_path

CLASSES = len(world.CLASSES)


@pytest.fixture(scope="module")
def records(small_demo: tuple[Path, Path], small_convert: Convert, small_machine: Callable[..., Machine],
            tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the small demo, converted by one worker."""
    root = tmp_path_factory.mktemp("convert")
    lists, images = small_demo
    return convert(small_convert, small_machine(root / "scratch"), lists=lists, images=images, out=root / "tfrecords")


@pytest.fixture
def converted(small_demo: tuple[Path, Path], small_convert: Convert, small_machine: Callable[..., Machine],
              tmp_path: Path) -> Callable[..., Path]:
    """A function that converts the small demo in a new folder, with changed parameters or inputs."""

    def run(workers: int = 1, images: Path | None = None, **changed: Any) -> Path:
        params = dataclasses.replace(small_convert, **changed)
        return convert(params, small_machine(tmp_path / "scratch", workers), lists=small_demo[0],
                       images=images or small_demo[1], out=tmp_path / "tfrecords")

    return run


def read(folder: Path, part: Part) -> dict[str, bytes]:
    """The serialized records by key, in the order of the files."""
    paths = shard_paths(folder, verify(folder, "convert"), part)
    serialized = [one.numpy() for path in paths for one in tf.data.TFRecordDataset([str(path)])]
    records = {parse_sparse(tf.constant(one))["key"].numpy().decode(): one for one in serialized}
    assert len(records) == len(serialized), "a key occurs twice"
    return records


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def ids_in_archive(path: Path) -> set[str]:
    """The ids in a tar of tars, read by tarfile."""
    found = set()
    with tarfile.open(path) as outer:
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                found |= {f"{member.name.removesuffix('.tar')}/{name}" for name in inner.getnames()}
    return found


def test_every_image_is_in_exactly_one_record_or_listed_as_failed(records: Path, small_demo: tuple[Path, Path]) -> None:
    lists, images = small_demo
    archived = ids_in_archive(lists / "imagenet.tar")
    damaged = {key for key, *_ in rows(records / "failures.csv")}
    for part in PARTS:
        expected = {f"{part}-imagenet-{entry.line:08d}"
                    for entry in read_list(lists / list_file(part, "imagenet"), "imagenet", CLASSES)
                    if entry.source in archived}
        expected |= {row.key for path in (images / part).glob("*.ledger.csv") for row in read_ledger(path)
                     if row.reason is Reason.OK}
        found = set(read(records, part))
        assert found | {key for key in damaged if key.startswith(part)} == expected
        assert not found & damaged


def test_a_record_has_the_picture_and_the_labels_of_its_list_line(records: Path, small_demo: tuple[Path, Path]) -> None:
    lists, _ = small_demo
    found = read(records, "train")
    for origin, prefix in (("imagenet", "train-imagenet-"), ("openimages", "train-")):
        for entry in read_list(lists / list_file("train", origin), origin, CLASSES):  # type: ignore[arg-type]
            if serialized := found.get(f"{prefix}{entry.line:08d}"):
                record = parse_sparse(tf.constant(serialized))
                assert record["filename"].numpy().decode() == entry.source
                assert tuple(record["index"].numpy()) == entry.labels.classes
                assert record["confidence"].numpy() == pytest.approx(entry.labels.confidences)
                picture = Path(entry.source).stem
                assert record["encoded"].numpy() == world.draw(picture, 48)


def test_ids_that_the_archive_lacks_are_listed(records: Path, small_demo: tuple[Path, Path]) -> None:
    lists, _ = small_demo
    archived = ids_in_archive(lists / "imagenet.tar")
    missing = [[part, entry.source] for part in PARTS
               for entry in read_list(lists / list_file(part, "imagenet"), "imagenet", CLASSES)
               if entry.source not in archived]
    assert len(missing) == 2
    assert rows(records / "missing.csv") == missing
    summary = json.loads((records / "summary.json").read_text())
    assert [(summary[part]["imagenet_listed"], summary[part]["imagenet_missing"], summary[part]["records"])
            for part in PARTS] == [(30, 1, len(read(records, "train"))), (10, 1, len(read(records, "val")))]


def test_a_damaged_image_is_excluded_and_listed_with_its_reason(records: Path) -> None:
    [[key, source, reason, detail]] = rows(records / "failures.csv")
    # The demo damages the images with these numbers.
    assert 15 <= int(source.removesuffix(".JPEG")[-3:]) < 20
    assert reason == "corrupt" and "truncated" in detail
    assert key not in read(records, "train")
    assert json.loads((records / "summary.json").read_text())["failures"] == 1


def test_the_manifest_counts_the_records_of_each_shard(records: Path) -> None:
    manifest = verify(records, "convert")
    assert manifest["classes"] == CLASSES
    shards = {name: fact["records"] for name, fact in manifest["files"].items() if name.endswith(".tfrecord")}
    assert len(shards) == 5
    for name, count in shards.items():
        assert sum(1 for _ in tf.data.TFRecordDataset([str(records / name)])) == count > 0


def test_the_class_table_counts_the_records_of_each_class_and_the_images_of_the_archive(
        records: Path, small_demo: tuple[Path, Path]) -> None:
    counted = np.zeros((CLASSES, 4), int)
    archived = ids_in_archive(small_demo[0] / "imagenet.tar")
    for column, part in enumerate(PARTS):
        for serialized in read(records, part).values():
            counted[parse_sparse(tf.constant(serialized))["index"], column] += 1
        for entry in read_list(small_demo[0] / list_file(part, "imagenet"), "imagenet", CLASSES):
            counted[list(entry.labels.classes), 2] += 1
            counted[list(entry.labels.classes), 3] += entry.source in archived
    table = rows(records / "classes.csv")
    np.testing.assert_array_equal([[int(cell) for cell in row[3:7]] for row in table], counted)
    assert [(row[1], int(row[2]), row[8]) for row in table] == [(one.wnid, one.parent, one.names)
                                                                for one in world.CLASSES]
    assert (counted[:, 2] > counted[:, 3]).any()


def test_three_workers_publish_the_same_bytes_as_one(records: Path, converted: Callable[..., Path]) -> None:
    assert (converted(workers=3) / MANIFEST).read_bytes() == (records / MANIFEST).read_bytes()


def test_another_seed_gives_the_same_training_records_in_another_order(records: Path,
                                                                       converted: Callable[..., Path]) -> None:
    first, second = read(records, "train"), read(converted(seed=1), "train")
    assert first == second
    assert list(first) != list(second)
    assert list(first) != sorted(first)


def test_validation_records_stay_in_list_order(records: Path, converted: Callable[..., Path]) -> None:
    keys = list(read(records, "val"))
    imagenet = [key for key in keys if "imagenet" in key]
    assert keys == sorted(imagenet) + sorted(set(keys) - set(imagenet))
    assert keys == list(read(converted(seed=1), "val"))


def test_without_an_imagenet_archive_the_downloaded_images_are_converted(records: Path,
                                                                         converted: Callable[..., Path]) -> None:
    out = converted(imagenet=None)
    for part in PARTS:
        assert read(out, part) == {key: one for key, one in read(records, part).items() if "imagenet" not in key}
    assert rows(out / "missing.csv") == []


@pytest.mark.parametrize("kind", ["tars", "images"])
def test_an_unpacked_archive_gives_the_same_bytes(records: Path, small_demo: SmallDemo, tmp_path: Path, kind: str,
                                                  converted: Callable[..., Path]) -> None:
    folder = tmp_path / kind
    with tarfile.open(small_demo.lists / "imagenet.tar") as outer:
        outer.extractall(folder, filter="data")
    for tar in folder.glob("*.tar") if kind == "images" else ():
        with tarfile.open(tar) as inner:
            inner.extractall(folder / tar.stem, filter="data")
        tar.unlink()
    assert (converted(imagenet=str(folder)) / MANIFEST).read_bytes() == (records / MANIFEST).read_bytes()


def test_an_archive_of_the_same_names_with_other_pictures_is_converted_again(small_demo: SmallDemo, tmp_path: Path,
                                                                           converted: Callable[..., Path]) -> None:
    path = tmp_path / "imagenet.tar"
    content = (small_demo.lists / "imagenet.tar").read_bytes()
    path.write_bytes(content)
    first = read(converted(imagenet=str(path)), "train")
    path.write_bytes(content.replace(b"JFIF", b"JFIG"))
    second = read(converted(imagenet=str(path)), "train")
    assert {key for key in first if first[key] != second[key]} == {key for key in first if "imagenet" in key}


def test_dense_records_hold_the_same_as_sparse_ones(records: Path, converted: Callable[..., Path]) -> None:
    out = converted(labels="dense")
    for part in PARTS:
        sparse, dense = ([parse(one.numpy(), CLASSES) for one in tf.data.TFRecordDataset(
            [str(path) for path in shard_paths(folder, verify(folder, "convert"), part)])] for folder in (records, out))
        assert len(sparse) == len(dense) > 10
        assert b"label/index" not in shard_paths(out, verify(out, "convert"), part)[0].read_bytes()
        for one, other in zip(sparse, dense, strict=True):
            for found, wanted in zip(one, other, strict=True):
                np.testing.assert_array_equal(found, wanted)
        assert check_shards(shard_paths(out, verify(out, "convert"), part), CLASSES) == len(dense)


def test_larger_pictures_are_downscaled_and_keep_their_labels(records: Path, converted: Callable[..., Path]) -> None:
    small = read(converted(shorter_side=24), "train")
    for key, serialized in read(records, "train").items():
        one, other = parse_sparse(tf.constant(serialized)), parse_sparse(tf.constant(small[key]))
        assert tf.io.decode_jpeg(other["encoded"]).shape == (24, 24, 3)
        assert one["index"].numpy().tolist() == other["index"].numpy().tolist()


def test_the_index_of_each_shard_locates_its_records(records: Path) -> None:
    manifest = verify(records, "convert")
    for part in PARTS:
        keys = []
        for shard in shard_paths(records, manifest, part):
            content, index = shard.read_bytes(), read_index(shard)
            assert manifest["files"][index_path(shard).name]["records"] == len(index)
            for row in index:
                serialized = content[row["offset"] + HEADER_BYTES:][: row["length"]]
                assert parse_sparse(tf.constant(serialized))["key"].numpy() == row["key"]
            keys += index["key"].astype(str).tolist()
            assert check_shards([shard], CLASSES) == len(index)
        assert keys == list(read(records, part))


def test_a_missing_archive_is_an_error(converted: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-such.tar is missing"):
        converted(imagenet=str(tmp_path / "no-such.tar"))


def test_a_download_shard_that_was_damaged_later_is_an_error(small_demo: tuple[Path, Path], tmp_path: Path,
                                                             converted: Callable[..., Path]) -> None:
    images = tmp_path / "images"
    shutil.copytree(small_demo[1], images)
    shard = shard_path(images, "train", 1)
    body = bytearray(shard.read_bytes())
    body[len(body) // 2] ^= 1
    shard.write_bytes(body)
    with pytest.raises(UserError, match=r"train/00001\.tar.*dvc repro --single-item --force download"):
        converted(images=images)
    assert not (tmp_path / "tfrecords").exists()


def test_a_resumed_run_writes_only_the_shards_that_are_not_finished(small_demo: tuple[Path, Path], tmp_path: Path,
                                                                    converted: Callable[..., Path]) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
                for path in tmp_path.glob("scratch/convert/*/out/*.tfrecord")}

    out = converted()
    manifest, before = (out / MANIFEST).read_bytes(), state()
    # The state after a kill: DVC has removed the outs, one shard has no note, and another one is missing.
    shutil.rmtree(out)
    [work] = (path.parent for path in (tmp_path / "scratch" / "convert").glob("*/notes"))
    begun, absent = "train-00001-of-00003.tfrecord", "val-00000-of-00002.tfrecord"
    (work / "out" / begun).write_bytes(b"half")
    (work / "out" / absent).unlink()
    for name in (begun, absent):
        (work / "notes" / f"{name}.json").unlink()
    assert (converted() / MANIFEST).read_bytes() == manifest
    after = state()
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {begun, absent}
