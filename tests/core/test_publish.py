"""Files and folders are written atomically, and a manifest reveals every later change."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.faults import assert_user_error, needs_strace, needs_unshare, on_small_disk, python, with_fault

from mlimages.core.errors import UserError
from mlimages.core.publish import MANIFEST, atomic_write, publish, read_manifest, verify, write_csv, write_json


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder that a stage `bake` published: a.bin and deep/b.bin."""
    work = tmp_path / "work"
    (work / "deep").mkdir(parents=True)
    (work / "a.bin").write_bytes(b"abc")
    (work / "deep" / "b.bin").write_bytes(bytes(range(256)) * 1000)
    publish(work, tmp_path / "made", stage="bake", records={"deep/b.bin": 7}, classes=3)
    return tmp_path / "made"


def _rewrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_a_file_has_its_final_name_only_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"whole")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert os.listdir(path.parent) == ["file"]


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "file") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_an_exception_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half of the new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_json_and_csv_have_one_form(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [2]})
    write_json(tmp_path / "y.json", {"a": [2], "b": 1})
    assert (tmp_path / "x.json").read_bytes() == (tmp_path / "y.json").read_bytes()
    write_csv(tmp_path / "x.csv", ("name", "text"), [("ä", 'with "quotes", and a comma'), (1, "two\nlines")])
    expected = 'name,text\nä,"with ""quotes"", and a comma"\n1,"two\nlines"\n'
    assert (tmp_path / "x.csv").read_bytes() == expected.encode()


def test_the_manifest_holds_files_records_and_facts(made: Path) -> None:
    manifest = verify(made, "bake")
    assert manifest == read_manifest(made, "bake")
    assert {name: (fact["bytes"], fact["records"]) for name, fact in manifest["files"].items()} == {
        "a.bin": (3, None), "deep/b.bin": (256_000, 7)}
    assert manifest["files"]["a.bin"]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["classes"] == 3


def test_equal_contents_have_equal_manifests(made: Path, tmp_path: Path) -> None:
    publish(tmp_path / "work", tmp_path / "elsewhere", stage="bake", records={"deep/b.bin": 7}, classes=3)
    assert (tmp_path / "elsewhere" / MANIFEST).read_bytes() == (made / MANIFEST).read_bytes()


def test_a_flipped_bit_is_reported_with_its_file(made: Path) -> None:
    content = bytearray((made / "deep" / "b.bin").read_bytes())
    content[123_456] ^= 1
    _rewrite(made / "deep" / "b.bin", bytes(content))
    with pytest.raises(UserError, match=r"deep/b\.bin has the sha256 .* run `dvc repro --single-item --force bake`"):
        verify(made, "bake")


def test_a_cut_file_is_reported_with_both_lengths(made: Path) -> None:
    _rewrite(made / "a.bin", b"ab")
    with pytest.raises(UserError, match=r"a\.bin has 2 bytes, .* says 3; .*`dvc repro --single-item --force bake`"):
        verify(made, "bake")


def test_a_missing_file_is_reported(made: Path) -> None:
    (made / "a.bin").unlink()
    with pytest.raises(UserError, match=r"a\.bin is missing, .*`dvc repro --single-item --force bake`"):
        verify(made, "bake")


def test_the_folder_of_another_stage_is_refused(made: Path) -> None:
    advice = "remove scratch/fry and run `dvc repro --single-item --force fry`"
    with pytest.raises(UserError, match=f"expected fry; {advice}"):
        verify(made, "fry")


def test_a_folder_without_a_manifest_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json is missing: the stage bake has not finished; run `dvc repro"):
        verify(tmp_path / "nowhere", "bake")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null"])
def test_a_damaged_manifest_is_reported(made: Path, content: bytes) -> None:
    _rewrite(made / MANIFEST, content)
    with pytest.raises(UserError, match=r"manifest\.json is damaged .*`dvc repro --single-item --force bake`"):
        verify(made, "bake")


def test_an_older_folder_is_replaced_completely(made: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "c.bin").write_bytes(b"c")
    publish(fresh, made, stage="bake", records={})
    assert sorted(os.listdir(made)) == ["c.bin", MANIFEST]
    assert list(verify(made, "bake")["files"]) == ["c.bin"]
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_leftovers_of_a_killed_publish_are_removed(made: Path, tmp_path: Path) -> None:
    for state in ("partial", "old"):
        (tmp_path / f".made.{state}").mkdir()
        (tmp_path / f".made.{state}" / "junk").write_bytes(b"junk")
    publish(tmp_path / "work", made, stage="bake", records={})
    assert sorted(os.listdir(made)) == ["a.bin", "deep", MANIFEST]
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_a_publish_that_fails_leaves_the_older_folder(made: Path, tmp_path: Path) -> None:
    before = json.loads((made / MANIFEST).read_text())
    with pytest.raises(TypeError):
        publish(tmp_path / "work", made, stage="bake", records={}, fact=object())
    assert verify(made, "bake") == before


@pytest.mark.parametrize("finished", [{"records": {"a.bin": 1, "gone.bin": 2}},
                                      {"records": {}, "digests": {"gone.bin": "0" * 64}}])
def test_a_missing_finished_file_is_an_error(made: Path, tmp_path: Path, finished: dict[str, Any]) -> None:
    before = verify(made, "bake")
    with pytest.raises(UserError, match=r"work/gone\.bin is missing, but bake had finished it \(1 such .*run the same"):
        publish(tmp_path / "work", made, stage="bake", **finished)
    assert verify(made, "bake") == before


def test_two_simultaneous_writers_of_a_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first")
        second.write(b"2nd")
    assert path.read_bytes() == b"first"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_unfinished_files_are_not_published(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_json(folder / "whole.json", {})
    with atomic_write(folder / "half.json"):
        publish(folder, tmp_path / "out", stage="bake", records={})
    assert list(verify(tmp_path / "out", "bake")["files"]) == ["whole.json"]


PUBLISH = """
import sys
from pathlib import Path
from mlimages.core.errors import UserError
from mlimages.core.publish import publish
try:
    publish(Path(sys.argv[1]), sys.argv[2], stage="bake", records={})
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


VERIFY = """
import sys
from mlimages.core.errors import UserError
from mlimages.core.publish import verify
try:
    verify(sys.argv[1], "bake")
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@needs_strace
@pytest.mark.parametrize("name", ["deep/b.bin", str(MANIFEST)])
def test_a_file_that_cannot_be_read_is_reported(made: Path, name: str) -> None:
    path = made / name
    assert_user_error(with_fault("read:error=EIO", python(VERIFY, str(made)), path=path),
                      f"{path} cannot be read: Input/output error; ", "run the same command again")


@needs_unshare
def test_a_copy_that_does_not_fit_on_another_disk_does_not_begin(made: Path, tmp_path: Path) -> None:
    command = python(PUBLISH, str(tmp_path / "work"), str(tmp_path / "data" / "made"))
    ended = on_small_disk(tmp_path / "data", "size=100k", command)
    assert_user_error(ended, f"the copy of {tmp_path / 'work'}, which lies on another disk than", "GB, but",
                      "make room there")
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


@needs_unshare
@needs_strace
def test_copies_on_another_disk_are_complete_and_flushed(made: Path, tmp_path: Path) -> None:
    calls = ["strace", "-f", "-qq", "-y", "-e", "trace=fsync", "-o", str(tmp_path / "calls")]
    out = tmp_path / "data" / "made"
    ended = on_small_disk(tmp_path / "data", "size=1m", [*calls, *python(PUBLISH, str(tmp_path / "work"), str(out))])
    assert ended.returncode == 0, ended.stderr
    assert set(verify(out, "bake")["files"]) == {"a.bin", "deep/b.bin"}
    written = re.findall(r"fsync\(\d+<(.*)>\)", (tmp_path / "calls").read_text())
    partial = out.with_name(".made.partial")
    assert {str(partial), *(str(partial / name) for name in ("a.bin", "deep/b.bin", "deep"))} <= set(written)
