"""A local picture that changed under its name is copied again, and nothing else is."""

import dataclasses
import os
from pathlib import Path

import pytest
from tests.download.conftest import URLS, VAL, rows_of, wait_for
from tests.download.kept.conftest import Grown

from mlimages.core.errors import UserError
from mlimages.download.http.local_files import LocalFiles
from mlimages.download.ledger import Reason
from mlimages.download.shards import read_shard

NAMES = [f"{number}.jpg" for number in range(7)]
LISTED = [*URLS[:3], *(f"file:{name}" for name in NAMES)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The local pictures that were read."""
    sources: list[str] = []
    original = LocalFiles.read

    def note(self: LocalFiles, source: str) -> bytes:
        sources.append(source)
        return original(self, source)

    monkeypatch.setattr(LocalFiles, "read", note)
    return sources


@pytest.fixture
def pictures(grown: Grown, tmp_path: Path, jpeg: bytes) -> Path:
    """A folder of pictures, of which the last one is missing."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in NAMES[:6]:
        (folder / name).write_bytes(jpeg + name.encode())
    grown.params = dataclasses.replace(grown.params, files=str(folder))
    return folder


def bodies(grown: Grown) -> dict[str, bytes]:
    return {member.url: member.body for path in (grown.out / "train").glob("*.tar")
            for member in read_shard(path)}


@pytest.mark.parametrize("same_size", [True, False])
def test_only_a_changed_picture_is_copied_again(grown: Grown, pictures: Path, read: list[str], jpeg: bytes,
                                                same_size: bool) -> None:
    grown.download(LISTED)
    read.clear()
    lists = grown.download(LISTED)
    assert (read, grown.asked) == ([], {})
    changed = pictures / NAMES[3]
    state = changed.stat()
    changed.write_bytes(jpeg + b"3.JPG" + (b"" if same_size else b" "))
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns + same_size))
    lists = grown.download(LISTED)
    assert (read, grown.asked) == ([f"file:{NAMES[3]}"], {})
    assert bodies(grown)[f"file:{NAMES[3]}"] == changed.read_bytes()
    assert grown.equals_fresh(lists)
    read.clear()
    grown.download(LISTED)
    assert read == []


def test_a_picture_that_appears_or_vanishes_is_noticed(grown: Grown, pictures: Path, read: list[str],
                                                       jpeg: bytes) -> None:
    grown.download(LISTED)
    assert rows_of(grown.out, "train")[-1].reason is Reason.NO_FILE
    (pictures / NAMES[0]).rename(pictures / NAMES[6])
    read.clear()
    lists = grown.download(LISTED)
    assert (sorted(read), grown.asked) == ([f"file:{NAMES[0]}", f"file:{NAMES[6]}"], {})
    assert [row.reason is Reason.OK for row in rows_of(grown.out, "train")] == [True] * 3 + [False] + [True] * 6
    assert grown.equals_fresh(lists)


def test_a_picture_that_changes_while_a_download_is_interrupted_is_copied_again(
        grown: Grown, pictures: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LocalFiles.read

    def is_stored() -> bool:
        journals = grown.out.parent.glob("scratch/download/*/spools/train-00001.journal")
        return any(f"file:{NAMES[2]}" in journal.read_text() for journal in journals)

    def fail_at_the_last(self: LocalFiles, source: str) -> bytes:
        if source.endswith(NAMES[5]):
            wait_for(is_stored)
            raise UserError("interrupted")
        return original(self, source)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "read", fail_at_the_last)
        with pytest.raises(UserError, match="interrupted"):
            grown.download(LISTED)
    assert is_stored()
    (pictures / NAMES[2]).write_bytes(jpeg + b"another")
    lists = grown.download(LISTED)
    assert bodies(grown)[f"file:{NAMES[2]}"] == jpeg + b"another"
    assert grown.equals_fresh(lists)


def test_shards_without_local_pictures_are_not_built_again(grown: Grown, pictures: Path) -> None:
    grown.download([*URLS[:5], *LISTED[3:]], VAL)
    before = {path.name: path.stat().st_ino for path in (grown.out / "train").iterdir()}
    (pictures / NAMES[0]).write_bytes((pictures / NAMES[1]).read_bytes() + b"more")
    grown.download([*URLS[:5], *LISTED[3:]], VAL)
    after = {path.name: path.stat().st_ino for path in (grown.out / "train").iterdir()}
    assert {name[:5] for name in before if before[name] != after[name]} == {"00001"}
