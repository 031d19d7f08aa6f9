"""Training records are spread randomly over shards of the given size. A part without images is an error."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlimages.acquire.formats import PARTS, Labels
from mlimages.acquire.run import acquire
from mlimages.convert.encode_image import to_jpeg
from mlimages.convert.records import read_index, shard_paths
from mlimages.convert.run import convert
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Convert, Machine, Params
from mlimages.core.publish import publish, verify
from mlimages.download.shards import Sample, key_of, places, read_sample, read_shard, shard_path, write_shard

IMAGES, SHARDS = 120, 6


@pytest.fixture
def small(params: Params) -> Convert:
    return dataclasses.replace(params.convert, imagenet=None)


@pytest.fixture
def inputs(release: Path, from_release: Acquire, machine: Machine, tmp_path: Path) -> dict[str, Path]:
    """The lists of a small release, and shards of 120 training and 60 validation images of about 50 kB each."""
    rng = np.random.default_rng(0)
    for number in range(SHARDS):
        write_shard(shard_path(tmp_path / "work", "train", number), (
            Sample(key_of("train", line), "jpg", noise(rng), f"http://images.example/{line}", Labels((2,), (1.0,)))
            for line in range(number * 20, number * 20 + 20)))
    write_shard(shard_path(tmp_path / "work", "val", 0), (
        Sample(key_of("val", line), "jpg", noise(rng), f"http://images.example/v{line}", Labels((2,), (1.0,)))
        for line in range(60)))
    publish(tmp_path / "work", tmp_path / "images", stage="download", records={}, classes=5)
    return {"lists": acquire(from_release, machine, out=tmp_path / "lists"), "images": tmp_path / "images"}


def noise(rng: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (192, 192, 3), np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def keys_by_shard(out: Path) -> list[list[int]]:
    """The list lines in each training shard."""
    return [[int(key.decode()[-8:]) for key in read_index(shard)["key"]]
            for shard in shard_paths(out, verify(out, "convert"), "train")]


def test_shards_have_about_the_size_shard_mib(small: Convert, machine: Machine, inputs: dict[str, Path],
                                              tmp_path: Path) -> None:
    numbers = {"train": small.train_shards, "val": small.val_shards}
    for part in PARTS:
        unsaid: dict[str, Any] = {f"{part}_shards": None}
        out = convert(dataclasses.replace(small, shard_mib=1, **unsaid), machine, **inputs, out=tmp_path / part)
        shards = {name: shard_paths(out, verify(out, "convert"), name) for name in PARTS}
        assert len(shards[part]) > 1 and all(0.75 < path.stat().st_size / 2**20 < 1.35 for path in shards[part])
        assert all(len(shards[name]) == numbers[name] for name in PARTS if name != part)


def test_shard_mib_counts_the_bytes_of_downscaled_pictures(
        small: Convert, machine: Machine, inputs: dict[str, Path], tmp_path: Path) -> None:
    params = dataclasses.replace(small, train_shards=None, shard_mib=1, shorter_side=32)
    out = convert(params, machine, **inputs, out=tmp_path / "out")
    assert len(shard_paths(out, verify(out, "convert"), "train")) == 1


def test_every_shard_is_a_random_sample_of_all_records(small: Convert, machine: Machine, inputs: dict[str, Path],
                                                       tmp_path: Path) -> None:
    out = convert(dataclasses.replace(small, train_shards=4), machine, **inputs, out=tmp_path / "out")
    shards = keys_by_shard(out)
    assert sorted(sum(shards, [])) == list(range(IMAGES))
    assert {len(shard) for shard in shards} == {IMAGES // 4}
    # The number of images of each download shard in each record shard. The 99.9th percentile of chi-square with the 15
    # degrees of freedom of a 6 by 4 table is 37.7.
    counts = np.array([np.bincount(np.array(shard) // 20, minlength=SHARDS) for shard in shards])
    expected = counts.sum(axis=0) / len(shards)
    assert ((counts - expected) ** 2 / expected).sum() < 37.7
    assert all(shard != sorted(shard) for shard in shards)


def test_the_needed_space_is_reported_before_writing(small: Convert, machine: Machine, inputs: dict[str, Path],
                                                     tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    convert(small, machine, **inputs, out=tmp_path / "out")
    assert "converting 180 images: about 0.0 GB; " in capsys.readouterr().out
    convert(small, machine, **inputs, out=tmp_path / "out")
    assert "about" not in capsys.readouterr().out, "nothing is left to write"
    monkeypatch.setattr("mlimages.convert.run._expected_bytes", lambda job, part: 10**15)
    with pytest.raises(UserError, match=r"converting 180 images needs about 2,000,000\.0 GB"):
        convert(dataclasses.replace(small, seed=1), machine, **inputs, out=tmp_path / "out")


def test_a_part_without_images_is_an_error(small: Convert, machine: Machine, inputs: dict[str, Path],
                                           tmp_path: Path) -> None:
    (tmp_path / "work" / "val" / "00000.tar").unlink()
    write_shard(shard_path(tmp_path / "work", "val", 0), [])
    publish(tmp_path / "work", tmp_path / "images", stage="download", records={}, classes=5)
    with pytest.raises(UserError, match="no image for the part `val`"):
        convert(small, machine, **inputs, out=tmp_path / "out")


def test_a_part_whose_images_all_fail_is_not_published(small: Convert, machine: Machine,
                                                       inputs: dict[str, Path], tmp_path: Path) -> None:
    write_shard(shard_path(tmp_path / "work", "val", 0),
                [Sample("val-00000001", "jpg", b"no picture", "http://images.example/v", Labels((2,), (1.0,)))])
    publish(tmp_path / "work", tmp_path / "images", stage="download", records={}, classes=5)
    with pytest.raises(UserError, match=r"no image of the part `val` is left: all 1 failed, see .*/failures\.csv;"):
        convert(small, machine, **inputs, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    [failures] = tmp_path.glob("scratch/convert/*/out/failures.csv")
    assert "val-00000001,http://images.example/v," in failures.read_text()


def test_a_shard_that_the_manifest_does_not_name_is_not_converted(small: Convert, machine: Machine,
                                                                  inputs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(shard_path(inputs["images"], "train", 0), shard_path(inputs["images"], "train", SHARDS))
    out = convert(small, machine, **inputs, out=tmp_path / "out")
    assert sorted(sum(keys_by_shard(out), [])) == list(range(IMAGES))


def test_a_sample_is_read_by_its_place_as_it_was_written(inputs: dict[str, Path]) -> None:
    shard = shard_path(inputs["images"], "train", 3)
    samples = [*read_shard(shard)]
    with tarfile.open(shard) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert {f"{one.key}.{one.extension}": one.body for one in samples} == {
        name: body for name, body in content.items() if not name.endswith(".json")}
    assert [json.loads(content[f"{one.key}.json"]) for one in samples] == [
        {"url": one.url, "classes": [*one.labels.classes], "confidences": [*one.labels.confidences]}
        for one in samples]
    assert to_jpeg(samples[0].body, quality=90).width == 192


@pytest.mark.parametrize("kept", [100, 700, 1536, 2060])
def test_a_shard_cut_inside_an_image_or_its_json_is_an_error(kept: int, tmp_path: Path) -> None:
    shard = tmp_path / "00000.tar"
    write_shard(shard, [Sample("train-00000001", "jpg", b"j" * 1000, "http://host.example/a", Labels((1,), (1.0,)))])
    assert [member.body for member in read_shard(shard)] == [b"j" * 1000]
    [place] = places(shard)
    shard.write_bytes(shard.read_bytes()[:kept])
    for reading in (lambda: list(read_shard(shard)), lambda: list(places(shard)), lambda: read_sample(shard, place)):
        with pytest.raises(UserError, match=r"00000\.tar is damaged"):
            reading()


@pytest.mark.parametrize("sizes", [[], [1], [512], [0, 511, 513], [7680], [8192], [10_000, 8_999_999]])
def test_a_shard_has_the_bytes_that_tarfile_writes_and_the_sha256_that_is_returned(sizes: list[int],
                                                                                   tmp_path: Path) -> None:
    samples = [Sample(f"train-{number:08d}", "webp", bytes([number + 1]) * size, "http://host.example/\u00e4",
                      Labels((1, 2), (1.0, 0.5))) for number, size in enumerate(sizes)]
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w") as tar:
        for one in samples:
            facts = {"url": one.url, "classes": one.labels.classes, "confidences": one.labels.confidences}
            for name, content in ((f"{one.key}.webp", one.body), (f"{one.key}.json", json.dumps(facts).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    digest = write_shard(tmp_path / "00000.tar", samples)
    written = (tmp_path / "00000.tar").read_bytes()
    assert written == expected.getvalue()
    assert digest == hashlib.sha256(written).hexdigest()


def test_an_image_removed_after_the_archive_was_indexed_is_reported(
        small: Convert, machine: Machine, inputs: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "imagenet" / "n00000003" / "n00000003_1.JPEG"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(noise(np.random.default_rng(0)))
    changed = picture.parent.stat().st_mtime_ns
    params = dataclasses.replace(small, imagenet=str(tmp_path / "imagenet"))
    convert(params, machine, **inputs, out=tmp_path / "out")
    picture.unlink()
    os.utime(picture.parent, ns=(changed, changed))
    for note in tmp_path.glob("scratch/convert/*/notes/*.json"):
        note.unlink()
    with pytest.raises(UserError, match=r"n00000003_1\.JPEG: No such file .* was indexed; put it back"):
        convert(params, machine, **inputs, out=tmp_path / "out")
