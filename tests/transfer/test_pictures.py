"""Labelled pictures are found in every layout, with names of any kind, and what cannot be used is named."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mlimages.core.errors import UserError
from mlimages.core.params import Machine
from mlimages.core.publish import read_manifest
from mlimages.inputs.pipeline import Records
from mlimages.transfer.pictures import LabelledPicture, find_pictures
from mlimages.transfer.records import write_records


def picture(colour: int, kind: str = "JPEG", mode: str = "RGB", side: int = 20) -> bytes:
    data = io.BytesIO()
    Image.new(mode, (side, side), colour).save(data, kind)
    return data.getvalue()


def fill(folder: Path, names: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(names.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index}.jpg").write_bytes(picture(40 * number + index))
    return folder


def tar(path: Path, members: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as archive:
        for name, body in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return path.read_bytes()


def keys(pictures: list[LabelledPicture]) -> list[tuple[int, str]]:
    return [(one.label, one.key) for one in pictures]


def test_folders_for_each_class(tmp_path: Path) -> None:
    fill(tmp_path, {"train/cat": 2, "train/dog": 1, "val/dog": 1})
    found = find_pictures(tmp_path, 0.5)
    assert found.classes == ["cat", "dog"]
    assert keys(found.train) == [(0, "train/cat/0.jpg"), (0, "train/cat/1.jpg"), (1, "train/dog/0.jpg")]
    assert keys(found.val) == [(1, "val/dog/0.jpg")]


@pytest.mark.parametrize("packed", ["folder of tars", "tar of tars"])
def test_archives_as_imagenets(tmp_path: Path, packed: str) -> None:
    bodies = {name: tar(tmp_path / f"{name}.tar", {f"a/{name} (1).png": picture(9, "PNG"), "notes.txt": b"-"})
              for name in ("n01", "n02")}
    root = tmp_path / "root"
    root.mkdir()
    for part in ("train", "val"):
        if packed == "tar of tars":
            tar(root / f"{part}.tar", {f"{name}.tar": body for name, body in bodies.items()})
        else:
            (root / part).mkdir()
            for name, body in bodies.items():
                (root / part / f"{name}.tar").write_bytes(body)
    found = find_pictures(root, 0.5)
    assert found.classes == ["n01", "n02"] and [one.label for one in found.val] == [0, 1]
    assert all(one.key.endswith(f"n0{one.label + 1} (1).png") for one in found.train)
    assert [one.read() for one in found.train] == [picture(9, "PNG")] * 2


def test_a_share_of_each_class_is_held_out_by_the_names_alone(tmp_path: Path) -> None:
    first, second = (find_pictures(fill(tmp_path / name, {"cat": 10, "dog": 4}), 0.25) for name in ("one", "other"))
    assert keys(first.val) == keys(second.val) and len(first.val) == 3
    assert {one.label for one in first.val} == {0, 1}
    assert not {one.key for one in first.train} & {one.key for one in first.val}


@pytest.mark.parametrize(("names", "expected"), [
    ({"train/cat": 1}, r"has 1 classes \(cat\), expected two or more"),
    ({"train/cat": 1, "train/dog": 0}, r"train: the class dog has no pictures"),
    ({"train/cat": 1, "train/dog": 1, "val/cow": 1}, r"val has the class cow, for which .*train has no pictures"),
    ({"train/cat": 1, "train/dog": 1, "val/cat": 0}, r"val holds no pictures"),
    ({"cat": 1, "dog": 2}, r"cat/0.jpg is the only picture of its class"),
    ({}, r"is not a folder of per-class tars or of folders CLASS")])
def test_what_is_no_set_of_classes_is_refused(tmp_path: Path, names: dict[str, int], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        find_pictures(fill(tmp_path, names), 0.5)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is no folder; expected transfer.folder to hold train/CLASS"):
        find_pictures(tmp_path / "nowhere", 0.5)


def test_pictures_of_every_kind_become_records_and_others_are_named(
        tmp_path: Path, small_machine: object, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fill(tmp_path / "set", {"train/cat": 1, "train/dog": 1, "val/cat": 1})
    (folder / "train/cat/cmyk.jpg").write_bytes(picture(3, mode="CMYK"))
    (folder / "train/cat/deep.png").write_bytes(picture(3000, "PNG", "I;16"))
    (folder / "train/cat/dot.gif").write_bytes(picture(3, "GIF", "P", 1))
    (folder / "train/dog/\u65e5\u672c.jpg").write_bytes(picture(3))
    Path(os.fsdecode(os.fsencode(folder / "train/dog") + b"/\xff.jpg")).write_bytes(picture(3))
    (folder / "train/dog/broken.jpg").write_bytes(picture(3)[:300])
    pictures = find_pictures(folder, 0.5)
    machine: Machine = small_machine(tmp_path / "scratch")  # type: ignore[operator]
    for name in ("one", "other"):
        write_records(pictures, tmp_path / name, tmp_path / f"work-{name}", machine, 0)
    assert "train/dog/broken.jpg is left out: " in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "one", "convert")
    assert manifest == read_manifest(tmp_path / "other", "convert")
    records = Records(tmp_path / "one", manifest, "train")
    labels = {key.decode(): records.reader.example(*place).indices
              for key, place in zip(records.keys().tolist(), records.positions().tolist(), strict=True)}
    assert labels == {"train/cat/0.jpg": [0], "train/cat/cmyk.jpg": [0], "train/cat/deep.png": [0],
                      "train/cat/dot.gif": [0], "train/dog/0.jpg": [1], "train/dog/\u65e5\u672c.jpg": [1],
                      "train/dog/\\xff.jpg": [1]}


def test_a_class_without_a_readable_picture_is_named(tmp_path: Path, small_machine: object) -> None:
    folder = fill(tmp_path / "set", {"train/cat": 1, "train/dog": 1, "val/cat": 1})
    (folder / "train/dog/0.jpg").write_bytes(b"no picture")
    machine: Machine = small_machine(tmp_path / "scratch")  # type: ignore[operator]
    with pytest.raises(UserError, match="no training picture of the class dog can be read"):
        write_records(find_pictures(folder, 0.5), tmp_path / "out", tmp_path / "work", machine, 0)
