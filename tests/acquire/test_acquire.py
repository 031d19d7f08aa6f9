"""acquire publishes canonical lists with their counts, or names the wrong line and publishes nothing."""

import csv
import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import PATIENCE_SECONDS

from mlimages.acquire.formats import ARCHIVE, CLASSES, DICTIONARY, LISTS, REJECTED, STATISTICS, read_list
from mlimages.acquire.run import acquire
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine, Params
from mlimages.core.publish import MANIFEST, verify

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN_IDS, TRAIN_URLS, VAL_IDS, VAL_URLS = (name for *_, name in LISTS)


def _url(number: int) -> str:
    return f"http://images.example/{number}.jpg"


def _statistics(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / STATISTICS).read_text())["lists"][name]


def _rejected(out: Path) -> list[list[str]]:
    return list(csv.reader((out / REJECTED).read_text().splitlines()))[1:]


def test_lists_are_published_in_canonical_form(from_release: Acquire, machine: Machine, release: Path,
                                               tmp_path: Path) -> None:
    (release / TRAIN_URLS).write_bytes(f"\ufeff{_url(1)}\t3:0.50\t2\r\n{_url(2)}\t1:1.0 \r\n".encode())
    out = acquire(from_release, machine, out=tmp_path / "lists")
    assert (out / TRAIN_URLS).read_bytes() == f"{_url(1)}\t2:1\t3:0.5\n{_url(2)}\t1:1\n".encode()


def test_canonical_lists_are_published_as_they_are(from_release: Acquire, machine: Machine, tmp_path: Path) -> None:
    first = acquire(from_release, machine, out=tmp_path / "lists")
    again = acquire(dataclasses.replace(from_release, folder=str(first)), machine, out=tmp_path / "again")
    assert verify(again, "acquire")["files"] == verify(first, "acquire")["files"]


def test_the_manifest_gives_the_lines_of_every_list_and_the_number_of_classes(
        from_release: Acquire, machine: Machine, release: Path, tmp_path: Path) -> None:
    (release / TRAIN_URLS).write_text("".join(f"{_url(number)}\t2:1\n" for number in range(7)))
    manifest = verify(acquire(from_release, machine, out=tmp_path / "lists"), "acquire")
    assert {name: manifest["files"][name]["records"] for *_, name in LISTS} == {
        TRAIN_IDS: 1, TRAIN_URLS: 7, VAL_IDS: 1, VAL_URLS: 1}
    assert (manifest["source"], manifest["classes"]) == ("folder", 5)
    assert ARCHIVE not in manifest["files"]


def test_malformed_lines_are_omitted_and_listed_with_their_numbers(
        from_release: Acquire, machine: Machine, release: Path, tmp_path: Path) -> None:
    lines = [f"{_url(number)}\t2:1".encode() for number in range(6)]
    lines[1] = _url(1).encode() + b"\t2:nan"
    lines[3] = b"http://\xff\xfe/\t2:1"
    lines[4] = _url(4).encode() + b"\t5:1"
    lines[5] = b"http://images.example/\0.jpg\t2:1"
    lines.append(b"x" * 10_000_000 + b"\t2:1")
    (release / TRAIN_URLS).write_bytes(b"\n".join(lines) + b"\n")
    out = acquire(dataclasses.replace(from_release, malformed_fraction=0.9), machine, out=tmp_path / "lists")
    assert [entry.source for entry in read_list(out / TRAIN_URLS, "openimages", 5)] == [_url(0), _url(2)]
    assert _rejected(out) == [
        [TRAIN_URLS, "2", "confidence 'nan' is not a number from 0 to 1"],
        [TRAIN_URLS, "4", "not UTF-8 at byte 7"],
        [TRAIN_URLS, "5", "class 5 is not in the dictionary of 5 classes"],
        [TRAIN_URLS, "6", "holds a control character"],
        [TRAIN_URLS, "7", "longer than 65536 bytes"]]
    assert _statistics(out, TRAIN_URLS)["malformed_lines"] == 5
    assert _statistics(out, VAL_URLS)["malformed_lines"] == 0


def test_too_many_malformed_lines_are_an_error_that_names_the_first_one(
        from_release: Acquire, machine: Machine, release: Path, tmp_path: Path) -> None:
    lines = [f"{_url(number)}\t2:1" for number in range(1000)]
    lines[41] = f"{_url(41)}\t2:1.5"
    (release / VAL_URLS).write_text("\n".join(lines) + "\n")
    acquire(from_release, machine, out=tmp_path / "allowed")  # 0.001 of 1,000 lines is one
    lines[700] = "no labels"
    (release / VAL_URLS).write_text("\n".join(lines) + "\n")
    named = re.escape(f"{release / VAL_URLS}: at least 2 of 1000 lines are malformed") + ".* line 42: confidence '1.5'"
    with pytest.raises(UserError, match=named):
        acquire(from_release, machine, out=tmp_path / "lists")


def test_a_list_with_only_malformed_lines_is_never_published(from_release: Acquire, machine: Machine,
                                                                  release: Path, tmp_path: Path) -> None:
    (release / VAL_URLS).write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"at least 2 of 2 lines .*; the first is line 1: expected an image .*'one'"):
        acquire(dataclasses.replace(from_release, malformed_fraction=1.0), machine, out=tmp_path / "lists")


def test_an_empty_list_is_an_error(from_release: Acquire, machine: Machine, release: Path,
                                           tmp_path: Path) -> None:
    (release / VAL_URLS).write_bytes(b"")
    with pytest.raises(UserError, match=re.escape(f"{release / VAL_URLS}: the list is empty")):
        acquire(from_release, machine, out=tmp_path / "lists")


def test_a_web_page_instead_of_a_list_is_an_error(from_release: Acquire, machine: Machine, release: Path,
                                                               tmp_path: Path) -> None:
    (release / VAL_URLS).write_text("\ufeff\n <!DOCTYPE html>\n<title>Quota exceeded</title>\n")
    with pytest.raises(UserError, match=re.escape(f"{release / VAL_URLS} is a web page, not a list")):
        acquire(dataclasses.replace(from_release, malformed_fraction=1.0), machine, out=tmp_path / "lists")


def test_a_missing_dictionary_is_an_error(from_release: Acquire, machine: Machine, release: Path,
                                          tmp_path: Path) -> None:
    (release / DICTIONARY).unlink()
    with pytest.raises(UserError, match=re.escape(f"{release / DICTIONARY} is missing")):
        acquire(from_release, machine, out=tmp_path / "lists")


@pytest.mark.parametrize("ids", [TRAIN_IDS, VAL_IDS])
def test_a_part_can_lack_one_of_its_lists(from_release: Acquire, machine: Machine, release: Path, tmp_path: Path,
                                          ids: str) -> None:
    (release / ids).unlink()
    out = acquire(from_release, machine, out=tmp_path / "lists")
    assert (out / ids).read_bytes() == b""
    assert verify(out, "acquire")["files"][ids]["records"] == 0
    assert _statistics(out, ids)["images"] == 0


def test_the_training_part_must_have_a_list(from_release: Acquire, machine: Machine, release: Path,
                                            tmp_path: Path) -> None:
    (release / TRAIN_IDS).unlink()
    (release / TRAIN_URLS).unlink()
    with pytest.raises(UserError, match=re.escape(f"{release / TRAIN_IDS} and {release / TRAIN_URLS} are missing")):
        acquire(from_release, machine, out=tmp_path / "lists")


def test_the_first_of_repeated_images_is_kept_and_conflicting_labels_are_counted(
        from_release: Acquire, machine: Machine, release: Path, tmp_path: Path) -> None:
    (release / TRAIN_URLS).write_text(f"{_url(1)}\t2:1\n{_url(2)}\t2:1\n{_url(1)}\t2:1.0\n{_url(1)}\t3:1\n"
                                      f"{_url(2)}\t2:0.5\n{_url(3)}\t2:1\n")
    out = acquire(from_release, machine, out=tmp_path / "lists")
    assert (out / TRAIN_URLS).read_text() == f"{_url(1)}\t2:1\n{_url(2)}\t2:1\n{_url(3)}\t2:1\n"
    counts = _statistics(out, TRAIN_URLS)
    assert (counts["images"], counts["repeated_lines"], counts["repeated_with_other_labels"]) == (3, 3, 2)


def test_images_are_counted_by_class_host_and_number_of_labels(from_release: Acquire, machine: Machine,
                                                               release: Path, tmp_path: Path) -> None:
    (release / TRAIN_URLS).write_text("http://a.example/1.jpg\t2:1\t1:1\nhttp://A.example/2.jpg\t2:1\n"
                                      "https://b.example/3.jpg\t4:1\nhttp://[broken/4.jpg\t4:1\n")
    out = acquire(from_release, machine, out=tmp_path / "lists")
    counts = _statistics(out, TRAIN_URLS)
    assert counts["hosts"] == {"a.example": 2, "b.example": 1, "": 1}
    assert counts["labels_per_image"] == {"1": 3, "2": 1}
    assert counts["mean_labels_per_image"] == 1.25
    rows = list(csv.DictReader((out / CLASSES).read_text().splitlines()))
    # Each of the other lists adds one image of the classes 1 and 2.
    assert [(int(row["train_images"]), int(row["val_images"])) for row in rows] == [
        (0, 0), (2, 2), (3, 2), (0, 0), (2, 0)]
    assert [row["depth"] for row in rows] == ["0", "1", "2", "2", "1"]
    assert rows[3]["names"] == "dog, hound"


def test_a_failure_publishes_nothing_and_keeps_the_published_lists(from_release: Acquire, machine: Machine,
                                                                   release: Path, tmp_path: Path) -> None:
    out = acquire(from_release, machine, out=tmp_path / "lists")
    before = verify(out, "acquire")
    (release / VAL_URLS).write_bytes(b"")
    with pytest.raises(UserError):
        acquire(from_release, machine, out=out)
    with pytest.raises(UserError):
        acquire(from_release, machine, out=tmp_path / "other")
    assert verify(out, "acquire") == before
    assert sorted(os.listdir(tmp_path)) == ["lists", "release", "scratch"]


def test_the_demo_is_published_completely_and_reproducibly(tiny_params: Params, tiny_lists: Path, machine: Machine,
                                                             tmp_path: Path) -> None:
    manifest = verify(tiny_lists, "acquire")
    assert {manifest["files"][name]["records"] for *_, name in LISTS} == {30, 10}
    assert ARCHIVE in manifest["files"]
    again = acquire(tiny_params.acquire, machine, out=tmp_path / "again")
    assert (again / MANIFEST).read_bytes() == (tiny_lists / MANIFEST).read_bytes()
    assert _rejected(again) == []


KILLED = """
import pickle, sys
from mlimages.acquire.run import acquire
params, machine, out = pickle.loads(bytes.fromhex(sys.argv[1]))
acquire(params, machine, out=out)
"""


def test_after_a_kill_it_resumes_with_the_unfinished_list(from_release: Acquire, machine: Machine,
                                                                   release: Path, tmp_path: Path) -> None:
    (release / TRAIN_IDS).write_text("n00000003/n00000003_1.JPEG\t2:1\nn00000003/n00000003_2.JPEG\t9:1\n" * 2)
    (release / TRAIN_URLS).write_text("".join(f"{_url(number)}\t2:1\n" for number in range(200_000)))
    params = dataclasses.replace(from_release, malformed_fraction=0.5)
    arguments = pickle.dumps([params, machine, tmp_path / "lists"]).hex()
    process = subprocess.Popen([sys.executable, "-c", KILLED, arguments],
                               env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")})
    ends = time.monotonic() + PATIENCE_SECONDS
    while not (partials := list(tmp_path.glob(f"scratch/acquire/*/out/.{TRAIN_URLS}.*.partial"))):
        assert time.monotonic() < ends and process.poll() is None
    process.kill()
    process.wait()
    finished = partials[0].with_name(TRAIN_IDS)
    before = finished.stat().st_mtime_ns
    out = acquire(params, machine, out=tmp_path / "lists")
    assert (out / TRAIN_IDS).stat().st_mtime_ns == before
    straight = acquire(params, dataclasses.replace(machine, scratch=str(tmp_path / "other")), out=tmp_path / "straight")
    assert (out / MANIFEST).read_bytes() == (straight / MANIFEST).read_bytes()
    assert len(_rejected(out)) == 2


def test_a_finished_list_that_was_removed_from_scratch_is_checked_again(from_release: Acquire, machine: Machine,
                                                                     tmp_path: Path) -> None:
    before = (acquire(from_release, machine, out=tmp_path / "lists") / MANIFEST).read_bytes()
    [finished] = tmp_path.glob(f"scratch/acquire/*/out/{TRAIN_URLS}")
    finished.unlink()
    assert (acquire(from_release, machine, out=tmp_path / "lists") / MANIFEST).read_bytes() == before


def test_a_changed_list_is_checked_again(from_release: Acquire, machine: Machine, release: Path,
                                             tmp_path: Path) -> None:
    out = acquire(from_release, machine, out=tmp_path / "lists")
    kept = {path: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "cache").mkdir()
    for path in kept:  # as DVC's cache does with cache.type = hardlink
        (tmp_path / "cache" / path.name).hardlink_to(path)
    (release / TRAIN_URLS).write_text(f"{_url(7)}\t3:1\n")
    (release / VAL_IDS).unlink()
    assert acquire(from_release, machine, out=tmp_path / "lists") == out
    assert {path: (tmp_path / "cache" / path.name).read_bytes() for path in kept} == kept
    assert (out / TRAIN_URLS).read_text() == f"{_url(7)}\t3:1\n"
    assert (out / VAL_IDS).read_bytes() == b""
    assert _statistics(out, VAL_IDS)["images"] == 0
