"""Local pictures are copied and checked as downloads are, and nothing outside of their folder is read."""

import dataclasses
import os
from pathlib import Path

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, Lists, rows_of, serve

from mlimages.core.errors import UserError
from mlimages.core.params import Download, Machine
from mlimages.download.http.address_guard import Failure
from mlimages.download.http.local_files import LocalFiles
from mlimages.download.ledger import Reason
from mlimages.download.run import download
from mlimages.download.shards import read_shard


@pytest.fixture
def pictures(tmp_path: Path, jpeg: bytes) -> Path:
    """A folder of pictures, some damaged, with links inside and to the outside."""
    folder = tmp_path / "pictures"
    (folder / "cats").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    for name, content in (("cats/1.jpg", jpeg), ("cats/é ä.jpg", jpeg + b"2"), ("half.jpg", jpeg[: len(jpeg) // 2]),
                          ("page.jpg", b"<!DOCTYPE html>"), ("large.jpg", jpeg + bytes(2**20)),
                          ("../secret/1.jpg", jpeg)):
        (folder / name).write_bytes(content)
    (folder / "inner.jpg").symlink_to("cats/1.jpg")
    (folder / "inner").symlink_to(folder / "cats")
    (folder / "out.jpg").symlink_to(tmp_path / "secret" / "1.jpg")
    (folder / "out").symlink_to("../secret")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


FATES = {
    "cats/1.jpg": (Reason.OK, ""), "cats/é ä.jpg": (Reason.OK, ""), "inner.jpg": (Reason.OK, ""),
    "inner/1.jpg": (Reason.OK, ""), "half.jpg": (Reason.CORRUPT, None), "page.jpg": (Reason.NOT_IMAGE, None),
    "large.jpg": (Reason.TOO_LARGE, "more than 1000000 bytes"),
    "none.jpg": (Reason.NO_FILE, "No such file or directory"), "cats/1.jpg/2.jpg": (Reason.NO_FILE, "Not a directory"),
    "cats": (Reason.NO_FILE, "it is no regular file"),
    "out.jpg": (Reason.NO_FILE, "it lies outside of download.files"),
    "out/1.jpg": (Reason.NO_FILE, "it lies outside of download.files"),
    "loop.jpg": (Reason.NO_FILE, "Too many levels of symbolic links"),
    "pipe.jpg": (Reason.NO_FILE, "it is no regular file"),
}


def test_every_picture_has_one_row_with_the_right_reason(
        quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes, pictures: Path,
        tmp_path: Path) -> None:
    serve(server, [f"{HOST}/a.jpg"], jpeg)
    params = dataclasses.replace(quick, files=str(pictures), max_bytes=10**6, rate_per_host=0.01)
    lists = lists_of([f"file:{name}" for name in FATES], ["file:cats/1.jpg", f"{HOST}/a.jpg"])
    out = download(params, here, lists=lists, out=tmp_path / "images")
    rows = rows_of(out, "train")
    assert [row.url for row in rows] == [f"file:{name}" for name in FATES]
    for row, (reason, detail) in zip(rows, FATES.values(), strict=True):
        assert (row.reason, row.http_status or 200) == (reason, 200), row
        assert detail is None or row.detail == detail, row
    assert [row.reason for row in rows_of(out, "val")] == [Reason.OK, Reason.OK]
    members = [member for path in sorted((out / "train").glob("*.tar")) for member in read_shard(path)]
    assert [member.body for member in members] == [jpeg, jpeg + b"2", jpeg, jpeg]


@pytest.mark.parametrize("source", ["file:../secret/1.jpg", "file:cats/../../secret/1.jpg", "file:/etc/passwd",
                                    "file:cats\0/1.jpg", "file:"])
def test_no_path_leads_outside(pictures: Path, source: str) -> None:
    with pytest.raises(Failure) as raised:
        LocalFiles(str(pictures), 10**6).read(source)
    assert raised.value.reason is Reason.NO_FILE


def test_a_link_that_takes_a_folders_place_meanwhile_is_not_followed(pictures: Path, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)  # the link came after this
    for source in ("file:out/1.jpg", "file:out.jpg"):
        with pytest.raises(Failure) as raised:
            LocalFiles(str(pictures), 10**6).read(source)
        assert raised.value.reason is Reason.NO_FILE


def test_another_folder_is_read_again(quick: Download, here: Machine, lists_of: Lists, jpeg: bytes, pictures: Path,
                                      tmp_path: Path) -> None:
    lists = lists_of(["file:cats/1.jpg"], ["file:cats/1.jpg"])
    other = tmp_path / "other" / "cats"
    other.mkdir(parents=True)
    (other / "1.jpg").write_bytes(jpeg + b"other")
    for folder, expected in ((pictures, jpeg), (other.parent, jpeg + b"other")):
        out = download(dataclasses.replace(quick, files=str(folder)), here, lists=lists, out=tmp_path / "images")
        [member] = read_shard(out / "train" / "00000.tar")
        assert member.body == expected


def test_a_missing_folder_is_an_error_before_anything_is_copied(quick: Download, here: Machine, lists_of: Lists,
                                                                tmp_path: Path) -> None:
    lists = lists_of([f"{HOST}/a.jpg"], ["file:cats/1.jpg"])
    with pytest.raises(UserError, match="the lists name local pictures, but download.files is null"):
        download(quick, here, lists=lists, out=tmp_path / "images")
    with pytest.raises(UserError, match=r"download.files is .*/nowhere, which is no folder"):
        download(dataclasses.replace(quick, files=str(tmp_path / "nowhere")), here, lists=lists,
                 out=tmp_path / "images")
    assert not (tmp_path / "images").exists()
