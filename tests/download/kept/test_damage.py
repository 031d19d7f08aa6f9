"""A damaged index or image costs at most a request and never a byte."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.download.conftest import URLS
from tests.download.kept.conftest import Grown


def garbage(index: Path) -> None:
    index.write_bytes(b"garbage" * 1000)


def empty(index: Path) -> None:
    index.write_bytes(b"")


def cut(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:6000])


def overwritten(index: Path) -> None:
    """All pages but the first two are noise."""
    content = index.read_bytes()
    index.write_bytes(content[:8192] + b"\xff\x07" * ((len(content) - 8192) // 2))


def without_tables(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.executescript("DROP TABLE lines")


def of_another_version(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.executescript("PRAGMA user_version = 99; DROP TABLE files")


def with_wrong_images(index: Path) -> None:
    """No line has the place of its image."""
    with sqlite3.connect(index) as database:
        database.executescript("UPDATE lines SET offset = offset + 512")


@pytest.mark.parametrize("damage", [Path.unlink, garbage, empty, cut, overwritten, without_tables, of_another_version])
def test_a_damaged_index_is_built_again_from_the_shards(grown: Grown, tmp_path: Path,
                                                        damage: Callable[[Path], None]) -> None:
    grown.download(URLS[:12])
    [index] = tmp_path.glob("scratch/fetched/*.sqlite")
    damage(index)
    lists = grown.download(URLS[13::-1])
    assert grown.asked == {"/12.jpg": 1, "/13.jpg": 1}
    assert grown.equals_fresh(lists)


def test_a_wrong_index_publishes_no_wrong_image(grown: Grown, tmp_path: Path) -> None:
    grown.download(URLS[:7])
    [index] = tmp_path.glob("scratch/fetched/*.sqlite")
    with_wrong_images(index)
    lists = grown.download(URLS[7::-1])
    assert grown.asked == {f"/{number}.jpg": 1 for number in range(8)}
    assert grown.equals_fresh(lists)


@pytest.mark.parametrize("damage", ["removed", "zeros"])
def test_images_that_are_gone_or_damaged_are_fetched_again(
        grown: Grown, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    grown.download(URLS[:12])
    [tar] = tmp_path.glob("scratch/download/*/out/train/00001.tar")
    size = tar.stat().st_size
    tar.unlink()
    if damage == "zeros":
        tar.write_bytes(bytes(size))
    lists = grown.download(URLS[12::-1])
    assert grown.asked == {f"/{number}.jpg": 1 for number in (5, 6, 7, 8, 9, 12)}
    assert "are missing or damaged in scratch" in capsys.readouterr().out
    assert grown.equals_fresh(lists)
    grown.download(URLS[13::-1])
    assert grown.asked == {"/13.jpg": 1}, "what was fetched again is not kept"


@pytest.mark.parametrize(("removed", "asked"), [("first", ["/0.jpg", "/1.jpg", "/9.jpg"]),
                                                ("second", ["/7.jpg", "/8.jpg", "/9.jpg"])])
def test_a_work_folder_that_was_removed_is_forgotten_and_others_are_found(grown: Grown, tmp_path: Path, removed: str,
                                                                          asked: list[str]) -> None:
    """The second folder has copies of some images of the first one."""
    grown.download(URLS[:7])
    [first] = (tmp_path / "scratch" / "download").iterdir()
    grown.download(URLS[8:1:-1])
    [second] = {*(tmp_path / "scratch" / "download").iterdir()} - {first}
    shutil.rmtree(first if removed == "first" else second)
    lists = grown.download(URLS[9::-1])
    assert grown.asked == dict.fromkeys(asked, 1)
    assert grown.equals_fresh(lists)
