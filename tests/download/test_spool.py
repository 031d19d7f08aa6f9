"""Images in spools are read back unchanged, with concurrent threads and partial writes."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlimages.download.check_image import CheckedImage
from mlimages.download.spool import Spools


def pictures(count: int) -> list[CheckedImage]:
    return [CheckedImage(bytes([number]) * (1 + 997 * number), "jpg", 1, 1) for number in range(count)]


def test_images_of_many_threads_are_read_back_complete(tmp_path: Path) -> None:
    spools, kept = Spools(tmp_path), pictures(200)
    with ThreadPoolExecutor(16) as pool:
        stored = list(pool.map(lambda one: spools.append("train-00000", one, ""), kept))
    assert [spools.read(one) for one in stored] == [one.body for one in kept]
    assert len({one.path for one in stored}) == 1


def test_an_image_is_stored_completely_after_a_partial_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:1000]))
    spools, kept = Spools(tmp_path), pictures(5)
    stored = [spools.append("train-00000", one, "") for one in kept]
    assert [spools.read(one) for one in stored] == [one.body for one in kept]
