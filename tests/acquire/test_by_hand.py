"""Released lists fetched by hand: a list with another number of lines is used, with a warning."""

import hashlib
from pathlib import Path

import pytest

from mlimages.acquire import sources
from mlimages.acquire.formats import LISTS
from mlimages.acquire.run import acquire
from mlimages.acquire.sources import ReleasedList
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import verify

TRAIN_URLS = LISTS[1].name


@pytest.mark.parametrize("classes", [5, 6])
def test_a_list_of_another_length_than_the_released_one_causes_a_warning(
        from_release: Acquire, release: Path, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    """Only if the dictionary is the released one: the folder's has five classes and one root."""
    monkeypatch.setattr(sources, "RELEASED_CLASSES", classes)
    monkeypatch.setattr(sources, "RELEASED_ROOTS", 1)
    monkeypatch.setattr(sources, "RELEASED_LISTS",
                        {name: ReleasedList("", 1 + 5 * (name == TRAIN_URLS)) for *_, name in LISTS})
    content = "".join(f"http://images.example/{number}.jpg\t2:1\n" for number in range(5))
    (release / TRAIN_URLS).write_text(content)
    manifest = verify(acquire(from_release, machine, out=tmp_path / "lists"), "acquire")
    found = (f"{TRAIN_URLS}: expected 6 lines, found 5 in {len(content)} bytes with the sha256 "
             f"{hashlib.sha256(content.encode()).hexdigest()}")
    expected = {TRAIN_URLS: found} if classes == 5 else {}
    assert manifest["unlike_release"] == expected
    assert [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line] == [
        f"WARNING: {difference}; if you did not mean to use a part of the list, fetch it again"
        for difference in expected.values()]
    assert manifest["files"][TRAIN_URLS]["records"] == 5
