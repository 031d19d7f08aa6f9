"""Kills, full disks and other processes lose nothing that was kept."""

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import (
    HOST,
    URLS,
    VAL,
    Lists,
    accounts_are_true,
    command,
    serve,
    started,
    straight,
    wait_for,
)
from tests.download.kept.conftest import Grown
from tests.faults import DISK, assert_user_error, environment, needs_strace, needs_unshare, with_fault

from mlimages.acquire.formats import LISTS
from mlimages.acquire.run import acquire
from mlimages.core.params import Acquire, Download, Machine
from mlimages.core.publish import MANIFEST, verify

RunWithFault = Callable[[str], subprocess.CompletedProcess[str]]


def test_what_a_killed_download_fetched_is_kept_for_another_list(
        grown: Grown, quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes,
        tmp_path: Path) -> None:
    """The first shard is finished then, and of the second one two lines are in a journal."""
    released = threading.Event()
    serve(server, [f"{HOST}/b{number}.jpg" for number in range(10)], jpeg, until=released)
    held = [f"{HOST}/b{number}.jpg" for number in range(10)]
    lists = lists_of(URLS[:7] + held, held[:1])
    with started(quick, here, lists, tmp_path / "images"):
        journal = wait_for_journal(tmp_path, lines=2)
    assert journal.name == "train-00001.journal"
    released.set()
    lists = grown.download([URLS[8], *URLS[:7]])
    assert grown.asked == {"/8.jpg": 1, "/val.jpg": 1}
    assert grown.equals_fresh(lists)


def wait_for_journal(tmp_path: Path, lines: int) -> Path:
    """The journal of the second shard, once it has `lines` lines and the first shard is finished."""
    pattern = "scratch/download/*/spools/train-00001.journal"
    wait_for(lambda: [*tmp_path.glob("scratch/download/*/accounts/train-00000.json")] != []
             and any(path.read_bytes().count(b"\n") >= lines for path in tmp_path.glob(pattern)))
    [journal] = tmp_path.glob(pattern)
    return journal


@pytest.fixture
def killed(grown: Grown, lists_of: Lists, tmp_path: Path) -> RunWithFault:
    """After a download of 12 lines: downloads 14 in another order with a fault injected, from the same scratch."""
    grown.download(URLS[:12])
    shutil.copytree(tmp_path / "scratch", tmp_path / "before")
    lists = lists_of(URLS[13::-1], VAL)

    def run(fault: str) -> subprocess.CompletedProcess[str]:
        shutil.rmtree(tmp_path / "scratch" / "download")
        shutil.rmtree(tmp_path / "scratch" / "fetched")
        for name in ("download", "fetched"):
            shutil.copytree(tmp_path / "before" / name, tmp_path / "scratch" / name)
        return with_fault(fault, command(grown.params, grown.machine, lists, tmp_path / "images"))

    return run


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize(("call", "moments"), [
    ("rename", (4, 9)), ("fsync", (3, 14)), ("write", (20, 45)), ("unlink", (1, 4)), ("fdatasync,pwrite64", (1, 12)),
    ("linkat,link", (1, 3))])
def test_a_kill_at_any_system_call_loses_nothing_that_was_kept(
        killed: RunWithFault, grown: Grown, server: ScriptedServer, call: str, moments: tuple[int, ...],
        tmp_path: Path) -> None:
    ended = 0
    for nth in moments:
        before = server.requests.copy()
        ended += killed(f"{call}:signal=KILL:when={nth}").returncode != 0
        accounts_are_true(tmp_path)
        lists = grown.download(URLS[13::-1])
        assert {*(server.requests - before)} <= {"/12.jpg", "/13.jpg"}, f"after a kill at call {nth}"
        assert grown.equals_fresh(lists)
    assert ended >= 1, "no kill happened"


@needs_strace
@pytest.mark.parametrize("fault", ["pwrite64:error=ENOSPC:when=1+", "pwrite64:error=EIO:when=3+"])
def test_a_disk_that_does_not_take_the_index_is_reported_and_the_same_command_resumes(
        killed: RunWithFault, grown: Grown, server: ScriptedServer, fault: str) -> None:
    before = server.requests.copy()
    assert_user_error(killed(fault), "fetched/", *DISK)
    lists = grown.download(URLS[13::-1])
    assert {*(server.requests - before)} <= {"/12.jpg", "/13.jpg"}
    assert grown.equals_fresh(lists)


@needs_unshare
def test_a_disk_that_does_not_hold_the_copies_is_reported_before_anything_is_fetched(
        grown: Grown, lists_of: Lists, server: ScriptedServer, jpeg: bytes, tmp_path: Path) -> None:
    urls = [f"{HOST}/b{number}.jpg" for number in range(6)]
    serve(server, urls, jpeg + bytes(300_000))
    grown.download(urls[:5])
    lists = lists_of(urls[::-1], VAL)
    before = server.requests.copy()
    script = 'cp -a "$1" "$1.was" && mount -t tmpfs -o size=2500k tmpfs "$1" && cp -a "$1.was/." "$1" && shift && "$@"'
    ended = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path / "scratch"),
                            *command(grown.params, grown.machine, lists, tmp_path / "images")], env=environment(),
                           capture_output=True, text=True, timeout=120)
    assert_user_error(ended, "the images of 1 list lines and copies of 5 kept images needs about")
    assert server.requests == before


@needs_unshare
def test_a_full_disk_amid_the_copies_is_reported_and_the_same_command_resumes(
        grown: Grown, lists_of: Lists, server: ScriptedServer, tmp_path: Path) -> None:
    grown.download(URLS[:20])
    lists = lists_of(URLS[20::-1], VAL)
    before = server.requests.copy()
    used = len({path.stat().st_ino for path in (tmp_path / "scratch").rglob("*")})
    shutil.rmtree(tmp_path / "images")
    script = f'mount -t tmpfs -o nr_inodes={used + 14} tmpfs "$1" && cp -a "$1.was/." "$1" && shift && "$@"; ' \
             f'code=$?; rm -rf "$0"; cp -a scratch "$0"; exit $code'
    shutil.copytree(tmp_path / "scratch", tmp_path / "scratch.was", copy_function=shutil.copy2)
    ended = subprocess.run(["unshare", "-rm", "sh", "-c", script, str(tmp_path / "left"), str(tmp_path / "scratch"),
                            *command(grown.params, grown.machine, lists, tmp_path / "images")], env=environment(),
                           capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert_user_error(ended, *DISK)
    shutil.rmtree(tmp_path / "scratch")
    (tmp_path / "left").rename(tmp_path / "scratch")
    lists = grown.download(URLS[20::-1])
    assert server.requests - before == {"/20.jpg": 1}
    assert grown.equals_fresh(lists)


def test_two_processes_at_once_both_use_what_was_kept(
        grown: Grown, here: Machine, server: ScriptedServer, release: Path, from_release: Acquire, jpeg: bytes,
        tmp_path: Path) -> None:
    released = threading.Event()
    for number in range(2):
        server.on(f"/new{number}.jpg", body=jpeg, until=released)
    grown.download(URLS[:12])
    processes = []
    for number in range(2):
        urls = [f"{HOST}/new{number}.jpg", *URLS[:12]]
        (release / LISTS[1].name).write_text("".join(f"{url}\t2:0.9\n" for url in urls))
        lists = acquire(from_release, here, out=tmp_path / f"lists{number}")
        processes.append(subprocess.Popen(command(grown.params, here, lists, tmp_path / f"images{number}"),
                                          stdout=subprocess.DEVNULL, env=environment()))
    server.wait_until(lambda: server.requests["/new0.jpg"] == server.requests["/new1.jpg"] == 1)
    released.set()
    assert [process.wait(240) for process in processes] == [0, 0]
    assert {*server.requests.values()} == {1}
    for number in range(2):
        verify(tmp_path / f"images{number}", "download")
        made = (tmp_path / f"images{number}" / MANIFEST).read_bytes()
        shutil.rmtree(tmp_path / "straight", ignore_errors=True)
        assert made == straight(grown.params, here, tmp_path / f"lists{number}", tmp_path)
