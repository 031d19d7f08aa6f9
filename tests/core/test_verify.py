"""A stage verifies only the inputs that it uses, and reads no file twice unless it has changed."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mlimages.core.errors import UserError
from mlimages.core.publish import MANIFEST, main, publish, read_manifest, verify


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder that a stage `bake` published: a.bin and deep/b.bin."""
    (tmp_path / "work" / "deep").mkdir(parents=True)
    (tmp_path / "work" / "a.bin").write_bytes(b"abc")
    (tmp_path / "work" / "deep" / "b.bin").write_bytes(bytes(range(256)) * 1000)
    publish(tmp_path / "work", tmp_path / "made", stage="bake", records={})
    return tmp_path / "made"


def in_place(path: Path, *, keep: bool) -> None:
    """Flip a bit of a file. `keep` its modification time."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + (0 if keep else 1)))


def by_another_file(path: Path) -> None:
    """Replace a file by another one of the same size and modification time."""
    state, held = path.stat(), path.open("rb")  # an open file keeps its inode, so that the new one gets another
    path.unlink()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_ino != state.st_ino
    held.close()


def test_verified_files_are_not_read_again_except_by_the_full_check(
        made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = tmp_path / "stamps"
    assert verify(made, "bake", stamps=stamps) == read_manifest(made, "bake")
    assert main(str(made)) == 0
    assert capsys.readouterr().out == f"{made}: 2 undamaged files of 256,003 bytes\n"
    in_place(made / "deep" / "b.bin", keep=True)
    assert verify(made, "bake", stamps=stamps) == read_manifest(made, "bake")
    assert main(str(made)) == 2
    assert re.search(r"ERROR: .*deep/b\.bin has the sha256 .* --force bake", capsys.readouterr().err)


@pytest.mark.parametrize("damage", [lambda path: in_place(path, keep=False), by_another_file,
                                    lambda path: path.write_bytes(b"ab"), Path.unlink])
def test_a_change_since_the_last_check_is_found(made: Path, tmp_path: Path,
                                                damage: Callable[[Path], object]) -> None:
    verify(made, "bake", stamps=tmp_path / "stamps")
    damage(made / "a.bin")
    for _ in range(2):  # damaged files get no stamp
        with pytest.raises(UserError, match=r"a\.bin .*`dvc repro --single-item --force bake`"):
            verify(made, "bake", stamps=tmp_path / "stamps")


def test_a_stamp_is_valid_only_for_the_sha256_in_the_manifest(made: Path, tmp_path: Path) -> None:
    verify(made, "bake", stamps=tmp_path / "stamps")
    manifest = (made / MANIFEST).read_text()
    assert manifest.count("ba7816bf") == 1
    (made / MANIFEST).write_text(manifest.replace("ba7816bf", "00000000"))
    with pytest.raises(UserError, match=r"a\.bin has the sha256 ba7816bf"):
        verify(made, "bake", stamps=tmp_path / "stamps")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_stamp_is_ignored(made: Path, tmp_path: Path, content: bytes) -> None:
    verify(made, "bake", stamps=tmp_path / "stamps")
    [stamp] = (tmp_path / "stamps").iterdir()
    sound = stamp.read_bytes()
    stamp.write_bytes(content)
    verify(made, "bake", stamps=tmp_path / "stamps")
    assert stamp.read_bytes() == sound


def test_only_selected_files_are_checked_and_the_stamps_of_others_stay(made: Path, tmp_path: Path) -> None:
    verify(made, "bake", stamps=tmp_path / "stamps")
    [stamp] = (tmp_path / "stamps").iterdir()
    os.utime(made / "a.bin", ns=(0, 1))
    (made / "deep" / "b.bin").rename(tmp_path / "away")
    verify(made, "bake", stamps=tmp_path / "stamps", select="a.bin".__eq__)
    assert sorted(json.loads(stamp.read_text())) == ["a.bin", "deep/b.bin"]


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["/nowhere"]])
def test_wrong_arguments_of_the_full_check_are_reported(arguments: list[str],
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*arguments) == 2
    assert "expected a folder that a stage published" in capsys.readouterr().err
