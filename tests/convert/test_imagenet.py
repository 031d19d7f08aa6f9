"""ImageNet's images are found by their ids in all three kinds of archives."""

import io
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from mlimages.acquire.formats import PARTS, list_file
from mlimages.convert.imagenet import Archive, open_archive
from mlimages.convert.members import open_table
from mlimages.core.errors import UserError
from mlimages.core.params import Machine

KINDS = ("tar", "tars", "images")
WNIDS = ("n00000007", "n00000003", "n00000012")  # not in order, as in ImageNet's own archive


def body(wnid: str, number: int) -> bytes:
    """The content of an image. Number 100 is empty."""
    return f"{wnid} {number}".encode() * (600 + number % 1000) if number != 100 else b""


def class_tar(wnid: str, numbers: Iterable[int], prefix: str = "") -> bytes:
    return tar_of([(f"{prefix}{wnid}_{number}.JPEG", body(wnid, number)) for number in numbers])


def tar_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[str], Path]:
    """The same nine images as a tar of per-class tars, a folder of per-class tars, or a folder of images."""

    def build(kind: str) -> Path:
        path = tmp_path / kind
        if kind == "tar":
            path.write_bytes(tar_of([(f"{wnid}.tar", class_tar(wnid, (20, 3, 100))) for wnid in WNIDS]))
            return path
        for wnid in WNIDS:
            (path / wnid).mkdir(parents=True) if kind == "images" else path.mkdir(exist_ok=True)
            if kind == "tars":
                (path / f"{wnid}.tar").write_bytes(class_tar(wnid, (20, 3, 100), prefix="./"))
            for number in (20, 3, 100) if kind == "images" else ():
                (path / wnid / f"{wnid}_{number}.JPEG").write_bytes(body(wnid, number))
        return path

    return build


def read(archive: Archive, ids: list[str], folder: Path) -> dict[str, bytes]:
    """The images that convert reads for a list of these ids, by id."""
    folder.mkdir()
    for part in PARTS:
        lines = [f"{one}\t0:1\n" for one in ids] if part == "train" else []
        (folder / list_file(part, "imagenet")).write_text("".join(lines))
    table, _ = open_table(folder / "table", lists=folder, shards={part: [] for part in PARTS}, classes=1,
                          archive=archive, seed=0, lines=len(ids))
    samples = [table.read("train", row) for row in table.rows("train")]
    return {sample.url: sample.body for sample in samples}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_the_archive_are_found_and_others_are_not(archive: Callable[[str], Path], machine: Machine,
                                                            tmp_path: Path, kind: str) -> None:
    opened = open_archive(archive(kind), machine)
    assert len(opened) == 9
    there = [f"{wnid}/{wnid}_{number}.JPEG" for wnid in WNIDS for number in (3, 100, 20)]
    gone = ["n00000003/n00000003_30.JPEG", "n00000001/n00000001_3.JPEG", "n99999999/n99999999_3.JPEG",
            "n00000003/n00000003_3000000000000000.JPEG", "n00000003/n00000003_003.JPEG"]
    assert read(opened, [*gone, *there], tmp_path / "list") == {one: body(one[:9], int(one[20:-5])) for one in there}


def test_a_longer_id_does_not_match_its_prefix(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "imagenet.tar"
    path.write_bytes(tar_of([("n00000003.tar", class_tar("n00000003", (1234567890,)))]))
    ids = ["n00000003/n00000003_12345678901.JPEG", "n00000003/n00000003_1234567890.JPEG"]
    assert open_archive(path, machine).find(ids)[0].tolist() == [False, True]


def test_the_index_is_built_once_and_again_when_the_archive_changes(archive: Callable[[str], Path], machine: Machine,
                                                                    tmp_path: Path,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    path = archive("tar")
    first = open_archive(path, machine).fingerprint
    assert "building the index" in capsys.readouterr().out
    assert open_archive(path, machine).fingerprint == first
    assert capsys.readouterr().out == ""
    path.write_bytes(tar_of([("n00000003.tar", class_tar("n00000003", (3, 4, 5)))]))
    changed = open_archive(path, machine)
    assert changed.fingerprint != first
    ids = ["n00000003/n00000003_4.JPEG", "n00000007/n00000007_3.JPEG"]
    assert set(read(changed, ids, tmp_path / "list")) == {ids[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_names_with_other_bytes_have_another_fingerprint(archive: Callable[[str], Path], machine: Machine,
                                                                  kind: str) -> None:
    path = archive(kind)
    first = open_archive(path, machine).fingerprint
    one = {"tar": path, "tars": path / "n00000003.tar", "images": path / "n00000003"}[kind]
    os.utime(one, ns=(0, one.stat().st_mtime_ns + 1))
    assert open_archive(path, machine).fingerprint != first


def test_the_error_for_a_missing_archive_names_the_parameter(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no-such\.tar is missing: convert\.imagenet names .*null to convert without"):
        open_archive(tmp_path / "no-such.tar", machine)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>" * 100, b"\x1f\x8b" + bytes(600)])
def test_a_file_that_is_not_a_tar_is_an_error(machine: Machine, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "imagenet.tar"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"imagenet\.tar is not an uncompressed tar"):
        open_archive(path, machine)


def test_a_tar_or_folder_of_other_files_is_an_error(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "flat.tar").write_bytes(class_tar("n00000003", (1, 2)))
    with pytest.raises(UserError, match=r"flat\.tar is not a plain tar of per-class tars"):
        open_archive(tmp_path / "flat.tar", machine)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is not a folder of per-class tars or of folders"):
        open_archive(tmp_path / "empty", machine)
    (tmp_path / "other" / "pictures").mkdir(parents=True)
    with pytest.raises(UserError, match=r"other holds no image named like n04310904_8388\.JPEG"):
        open_archive(tmp_path / "other", machine)


@pytest.mark.parametrize("kept", ["inside an image", "between two images", "before the end"])
@pytest.mark.parametrize("kind", ["tar", "tars"])
def test_a_cut_archive_is_an_error(archive: Callable[[str], Path], machine: Machine, kind: str,
                                   kept: str) -> None:
    path = archive(kind)
    cut = path if kind == "tar" else path / "n00000003.tar"
    with tarfile.open(cut) as tar:
        members = tar.getmembers()
    second, last = (members[index].offset_data + -(-members[index].size // 512) * 512 for index in (1, -1))
    bytes_kept = {"inside an image": second - 700, "between two images": second, "before the end": last}[kept]
    cut.write_bytes(cut.read_bytes()[:bytes_kept])
    with pytest.raises(UserError, match=rf"{cut.name}.* is truncated"):
        open_archive(path, machine)


@pytest.mark.parametrize("kind", ["tar", "tars"])
def test_an_archive_that_was_cut_after_indexing_is_reported(archive: Callable[[str], Path], machine: Machine,
                                                            tmp_path: Path, kind: str) -> None:
    path, one = archive(kind), "n00000003/n00000003_20.JPEG"
    opened = open_archive(path, machine)
    [place] = opened.find([one])[1]
    cut = path if kind == "tar" else path / "n00000003.tar"
    os.truncate(cut, int(place["offset"]) + 100)
    with pytest.raises(UserError, match=rf"{cut.name}: it ends after 100 of the 7,440 bytes of {one}, but"):
        read(opened, [one], tmp_path / "list")


def test_a_damaged_header_is_an_error(archive: Callable[[str], Path], machine: Machine) -> None:
    path = archive("tars") / "n00000003.tar"
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    content = bytearray(path.read_bytes())
    content[second + 150] ^= 1  # its checksum
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"n00000003\.tar is not an uncompressed tar"):
        open_archive(path.parent, machine)


def test_a_class_cut_within_a_whole_archive_is_an_error(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "imagenet.tar"
    path.write_bytes(tar_of([("n00000003.tar", class_tar("n00000003", (1, 2))[:2048]),
                             ("n00000007.tar", class_tar("n00000007", (1, 2)))]))
    with pytest.raises(UserError, match=r"imagenet\.tar, the tar of 2,048 bytes at byte 512, .* is truncated"):
        open_archive(path, machine)
