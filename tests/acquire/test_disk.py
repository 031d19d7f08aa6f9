"""acquire resumes after a full or failing disk and after a kill, and never publishes a partial file."""

import dataclasses
import pickle
from pathlib import Path

import pytest
from tests.faults import DISK, assert_user_error, needs_strace, needs_unshare, on_small_disk, python, with_fault

from mlimages.acquire.formats import LISTS
from mlimages.acquire.run import acquire
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import MANIFEST

ACQUIRE = """
import pickle, sys
from mlimages.acquire.run import acquire
from mlimages.core.errors import UserError
params, machine, out = pickle.loads(bytes.fromhex(sys.argv[1]))
try:
    acquire(params, machine, out=out)
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


def command(params: Acquire, machine: Machine, tmp_path: Path) -> list[str]:
    """The command that runs acquire in a separate process."""
    return python(ACQUIRE, pickle.dumps([params, machine, tmp_path / "lists"]).hex())


def assert_resumes(params: Acquire, machine: Machine, tmp_path: Path) -> None:
    """Nothing was published, and the same command now publishes what an undisturbed run publishes."""
    assert not (tmp_path / "lists").exists()
    straight = acquire(params, dataclasses.replace(machine, scratch=str(tmp_path / "other")), out=tmp_path / "straight")
    out = acquire(params, machine, out=tmp_path / "lists")
    assert (out / MANIFEST).read_bytes() == (straight / MANIFEST).read_bytes()


@needs_unshare
@pytest.mark.parametrize("limit", ["nr_inodes=3", "nr_inodes=9", "size=60k"])
def test_a_full_disk_is_reported_and_the_same_command_resumes(from_release: Acquire, machine: Machine, release: Path,
                                                          tmp_path: Path, limit: str) -> None:
    (release / LISTS[0].name).unlink()
    lines = "".join(f"http://images.example/{number}.jpg\t2:1\n" for number in range(1000))
    (release / LISTS[1].name).write_text(lines)
    ended = on_small_disk(Path(machine.scratch), limit, command(from_release, machine, tmp_path))
    assert_user_error(ended, machine.scratch, *DISK)
    assert_resumes(from_release, machine, tmp_path)


@needs_strace
def test_a_failing_disk_is_reported_and_the_same_command_resumes(from_release: Acquire, machine: Machine,
                                                                tmp_path: Path) -> None:
    ended = with_fault("fsync:error=EIO:when=3+", command(from_release, machine, tmp_path))
    assert_user_error(ended, machine.scratch, *DISK)
    assert_resumes(from_release, machine, tmp_path)


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize(("call", "moments"), [("rename", (1, 6, 12, 5, 6)), ("fsync", (1, 9, 25, 9, 11)),
                                               ("write", (10, 23, 30, 8))])
def test_a_kill_at_any_call_leaves_no_partial_file(from_release: Acquire, machine: Machine, tmp_path: Path,
                                                     call: str, moments: tuple[int, ...]) -> None:
    other = dataclasses.replace(machine, scratch=str(tmp_path / "other"))
    straight = acquire(from_release, other, out=tmp_path / "straight")
    for nth in moments:
        killed = with_fault(f"{call}:signal=KILL:when={nth}", command(from_release, machine, tmp_path))
        assert killed.returncode != 0, "acquire was not killed"
        for path in tmp_path.glob("scratch/acquire/*/out/[!.]*"):
            assert path.read_bytes() == (straight / path.name).read_bytes()
    assert_resumes(from_release, machine, tmp_path)
