"""Images that wait in spools are read back as they were put there, also where threads and writes mix."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlimages.download.check_image import Picture
from mlimages.download.spool import Spools


def pictures(count: int) -> list[Picture]:
    return [Picture(bytes([number]) * (1 + 997 * number), "jpg", 1, 1) for number in range(count)]


def test_images_of_many_threads_come_back_whole(tmp_path: Path) -> None:
    spools, kept = Spools(tmp_path), pictures(200)
    with ThreadPoolExecutor(16) as pool:
        stored = list(pool.map(lambda one: spools.keep("train-00000", one, ""), kept))
    assert [spools.read(one) for one in stored] == [one.body for one in kept]
    assert len({one.spool for one in stored}) == 1


def test_an_image_of_which_a_write_takes_only_a_part_is_stored_whole(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:1000]))
    spools, kept = Spools(tmp_path), pictures(5)
    stored = [spools.keep("train-00000", one, "") for one in kept]
    assert [spools.read(one) for one in stored] == [one.body for one in kept]
