"""Duplicates are found by content and by a perceptual hash, counted, listed, and left out of val on demand."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from tests.convert.conftest import SmallDemo

from mlimages.acquire.run import acquire
from mlimages.convert.duplicates.find import NEAR_BITS, find_duplicates, first_near, rows
from mlimages.convert.duplicates.fingerprints import fingerprint, perceptual_hash, write_fingerprints
from mlimages.convert.records import read_index, shard_paths
from mlimages.convert.run import convert
from mlimages.core.params import Convert, Machine, Params
from mlimages.core.publish import read_manifest
from mlimages.demo import world
from mlimages.download.run import download
from mlimages.plots import records as plots

Row = dict[str, str]


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(number: int) -> Image.Image:
    """One of several pictures that are not alike."""
    return Image.open(io.BytesIO(world.draw(f"{world.CLASSES[-20].wnid}_{number}", 160)))


@pytest.mark.parametrize("change", [
    lambda image: encoded(image, quality=60), lambda image: encoded(image, "PNG"),
    lambda image: encoded(image, "WEBP", quality=90),
    lambda image: encoded(image.resize((90, 90))), lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.2))],
    ids=["quality", "PNG", "WebP", "size", "brightness"])
def test_alike_pictures_have_near_hashes_and_others_have_not(change: Callable[[Image.Image], bytes]) -> None:
    images = [picture(number) for number in range(6)]
    hashes = np.array([perceptual_hash(encoded(image, quality=95)) for image in images], np.uint64)
    changed = np.array([perceptual_hash(change(image)) for image in images], np.uint64)
    distances = np.bitwise_count(hashes[:, None] ^ changed)
    assert (np.diag(distances) <= NEAR_BITS).all()
    assert (distances[~np.eye(6, dtype=bool)] > NEAR_BITS).all()


def test_the_hash_is_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture(0).transpose(Image.Transpose.ROTATE_90), quality=95, exif=exif)
    assert (perceptual_hash(turned) ^ perceptual_hash(encoded(picture(0), quality=95))).bit_count() <= NEAR_BITS


def test_the_first_near_hash_is_that_of_comparing_all_pairs() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 400, np.uint64)
    flips = (rng.random((1600, 64)) < 0.05) @ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    hashes = rng.permutation(np.concatenate([hashes, rng.choice(hashes, 1600) ^ flips]))
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= NEAR_BITS
    assert 200 < (near.argmax(axis=1) < np.arange(2000)).sum() < 1800
    assert (first_near(hashes) == near.argmax(axis=1)).all()


def test_an_image_is_assigned_to_the_first_copy_and_val_to_train(tmp_path: Path) -> None:
    """Of val, `v1` is a copy of `v0`, which looks like `t1`: both are in train."""
    contents = {"t0": (10, 0), "t1": (11, 2**40 - 1), "t2": (10, 0), "t3": (12, 1), "v0": (13, 2**40 - 2),
                "v1": (13, 2**40 - 2), "v2": (14, 2**63), "v3": (14, 2**63), "v4": (10, 0), "v5": (15, 2**63 + 1)}
    files = []
    for name in ("t", "v"):
        files.append(tmp_path / name)
        write_fingerprints(files[-1], [(*one, key.encode()) for key, one in contents.items() if key[0] == name])
    found = find_duplicates(files[:1], files[1:], near=True)
    assert list(rows(found, files)) == [
        ("exact", 0, "t2", "t0"), ("near", 1, "t3", "t0"), ("near", 1, "v0", "t1"), ("near", 1, "v1", "t1"),
        ("near", 1, "v2", "t0"), ("near", 1, "v3", "t0"), ("exact", 0, "v4", "t0"), ("near", 2, "v5", "t0")]
    assert found.counts() == {"exact": {"train": 1, "val": 0, "val_in_train": 1},
                              "near": {"train": 1, "val": 0, "val_in_train": 5}}
    exact = find_duplicates(files[:1], files[1:], near=False)
    assert list(rows(exact, files)) == [("exact", 0, "t2", "t0"), ("exact", 0, "v1", "v0"), ("exact", 0, "v3", "v2"),
                                        ("exact", 0, "v4", "t0")]
    assert exact.counts() == {"exact": {"train": 1, "val": 2, "val_in_train": 1},
                              "near": {"train": 0, "val": 0, "val_in_train": 0}}


@pytest.fixture(scope="module")
def leaking(params: Params, small_machine: Callable[..., Machine],
            tmp_path_factory: pytest.TempPathFactory) -> SmallDemo:
    """Local pictures, of which some are there twice, and one of val is damaged."""
    root = tmp_path_factory.mktemp("leaking")
    folder, machine = root / "lists", small_machine(root / "scratch")
    folder.mkdir()
    bodies = {f"t{number}.jpg": encoded(picture(number), quality=95) for number in range(8)}
    bodies |= {f"v{number}.jpg": encoded(picture(number + 8), quality=95) for number in range(4)}
    bodies |= {"t8.jpg": bodies["t1.jpg"], "v4.jpg": bodies["t2.jpg"], "v5.jpg": bodies["v0.jpg"],
               "v6.jpg": encoded(picture(3), quality=70), "v7.jpg": encoded(picture(1), "PNG")}
    for name, body in bodies.items():
        (folder / name).write_bytes(body)
    table = [f"{name},{'train' if name[0] == 't' else 'val'},thing" for name in bodies]
    (folder / "images.csv").write_text("\n".join(["path,part,label", *table]) + "\n")
    source = dataclasses.replace(params.acquire, source="table", folder=str(folder), table=dataclasses.replace(
        params.acquire.table, files=[str(folder / "images.csv")], part="part", separator=";"))
    lists = acquire(source, machine, out=root / "acquired")
    return SmallDemo(lists, download(dataclasses.replace(params.download, files=str(folder)), machine, lists=lists,
                                     out=root / "images"))


@pytest.fixture
def converted(leaking: SmallDemo, small_convert: Convert, small_machine: Callable[..., Machine],
              tmp_path: Path) -> Callable[..., Path]:
    def run(workers: int = 1, **changes: Any) -> Path:
        # These lists name no image of ImageNet, so its archive is not needed.
        params = dataclasses.replace(small_convert, imagenet="no-such.tar", train_shards=2, val_shards=2, **changes)
        return convert(params, small_machine(tmp_path / "scratch", workers), lists=leaking.lists,
                       images=leaking.images, out=tmp_path / "tfrecords")

    return run


def table(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def keys(out: Path, part: str) -> list[str]:
    return [key.decode() for path in shard_paths(out, read_manifest(out, "convert"), part)
            for key in read_index(path)["key"].tolist()]


def test_copies_and_alike_pictures_are_counted_and_listed(converted: Callable[..., Path]) -> None:
    without = read_manifest(converted(), "convert")["files"]
    out = converted(duplicates="near")
    found = {(row["kind"], row["key"], row["duplicate_of"]) for row in table(out / "duplicates.csv")}
    # The two copies in train are in a random order.
    train = {key: {"train-00000002": "train-00000009", "train-00000009": "train-00000002"}.get(key, key)
             for _, key, _ in found if key.startswith("train")}
    [(copy, original)] = train.items()
    assert found == {("exact", copy, original), ("exact", "val-00000005", "train-00000003"),
                     ("exact", "val-00000006", "val-00000001"), ("near", "val-00000007", "train-00000004"),
                     ("near", "val-00000008", original)}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["duplicates"] == {"exact": {"train": 1, "val": 1, "val_in_train": 1},
                                     "near": {"train": 0, "val": 0, "val_in_train": 2}}
    files = read_manifest(out, "convert")["files"]
    assert {name: fact for name, fact in files.items() if ".tfrecord" in name} == {
        name: fact for name, fact in without.items() if ".tfrecord" in name}
    assert set(files) - set(without) == {"duplicates.csv"}


@pytest.mark.parametrize(("kind", "dropped"), [("exact", {5: "exact"}), ("near", {5: "exact", 7: "near", 8: "near"})])
def test_validation_images_that_are_in_train_are_left_out_with_a_reason(
        converted: Callable[..., Path], kind: str, dropped: dict[int, str]) -> None:
    before = keys(converted(), "val")
    out = converted(duplicates=kind, drop_val_duplicates=True)
    lost = {f"val-{line:08d}": f"{reason}_duplicate" for line, reason in dropped.items()}
    assert keys(out, "val") == [key for key in before if key not in lost]
    assert len(keys(out, "train")) == 9
    failures = table(out / "failures.csv")
    assert {row["key"]: row["reason"] for row in failures} == lost
    assert all(row["detail"].startswith("of train-") for row in failures)
    assert converted(workers=3, duplicates=kind, drop_val_duplicates=True) == out and keys(out, "val") != before


def test_an_interrupted_run_goes_on_with_the_same_result(converted: Callable[..., Path], tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    out = converted(duplicates="near", drop_val_duplicates=True)
    expected = (out / "manifest.json").read_bytes()
    for path in (*tmp_path.glob("scratch/convert/*/out/val-00000*"), *tmp_path.glob("scratch/convert/*/notes/val-*1-*"),
                 *tmp_path.glob("scratch/convert/*/notes/train-00001-of-00002.tfrecord.json")):
        path.unlink()
    converted(duplicates="near", drop_val_duplicates=True)
    assert (out / "manifest.json").read_bytes() == expected


def test_the_fingerprint_of_a_copy_is_the_same_and_that_of_another_file_is_not() -> None:
    body = encoded(picture(0))
    assert fingerprint("a", body, near=False)[:2] == fingerprint("b", body, near=False)[:2]
    assert fingerprint("a", body, near=False)[0] != fingerprint("a", body + b"0", near=False)[0]


def test_leaving_duplicates_out_needs_to_find_them(params: Params) -> None:
    with pytest.raises(ValueError, match="expected duplicates: exact or near"):
        dataclasses.replace(params.convert, drop_val_duplicates=True)


def test_the_plots_count_duplicates_and_show_them_beside_their_originals(
        converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[tuple[bytes, str]] = []
    monkeypatch.setattr(plots, "image_grid", lambda title, images, columns: shown.extend(images))
    plots.duplicate_pictures(out := converted())
    assert plots.duplicates_table(out).empty
    assert (shown, "convert.duplicates is null" in capsys.readouterr().out) == ([], True)
    out = converted(duplicates="near")
    assert plots.duplicates_table(out).to_dict("list") == {"train": ["1", "0"], "val": ["1", "0"],
                                                            "val in train": ["1", "2"]}
    plots.duplicate_pictures(out, count=3)
    captions = [caption.replace("\n", " ") for _, caption in shown]
    assert captions[:4] == ["exact, 0 bits val-00000005", "of train-00000003", "near, 0 bits val-00000007",
                            "of train-00000004"]
    assert shown[0][0] == shown[1][0] and shown[2][0] != shown[3][0]
    shown.clear()
    plots.duplicate_pictures(converted(duplicates="near", drop_val_duplicates=True), count=1)
    assert [caption for _, caption in shown] == ["of\ntrain-00000003"]
