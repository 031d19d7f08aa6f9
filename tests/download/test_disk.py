"""Full and failing disks are reported with what to do, and the same command resumes."""

import subprocess
from pathlib import Path

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import (
    URLS,
    VAL,
    Lists,
    command,
    kill_amid_the_second_shard,
    no_final_name,
    serve,
    serve_and_hold,
    started,
    straight,
    wait_for,
)
from tests.faults import DISK, assert_user_error, environment, needs_strace, needs_unshare, on_small_disk, with_fault

from mlimages.core.params import Download, Machine
from mlimages.core.publish import MANIFEST
from mlimages.download.run import download


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failing_disk_is_reported_and_the_same_command_resumes(quick: Download, here: Machine, server: ScriptedServer,
                                                                 lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                                 error: str) -> None:
    serve(server, URLS + VAL, jpeg)
    lists = lists_of(URLS, VAL)
    assert_user_error(with_fault(f"fsync:error={error}:when=7+", command(quick, here, lists, tmp_path / "images")),
                      "scratch/download", *DISK)
    no_final_name(tmp_path)
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    assert (out / MANIFEST).read_bytes() == straight(quick, here, lists, tmp_path)


@needs_strace
def test_a_disk_that_is_full_when_a_journal_grows_is_reported_and_the_same_command_resumes(
        quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    lists = kill_amid_the_second_shard(quick, here, server, lists_of, jpeg, tmp_path)
    [journal] = tmp_path.glob("scratch/download/*/spools/train-00001.journal")
    assert_user_error(with_fault("write:error=ENOSPC", command(quick, here, lists, tmp_path / "images"), path=journal),
                      journal.name, *DISK)
    no_final_name(tmp_path)
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    assert [server.requests[f"/{number}.jpg"] for number in range(6)] == [1] * 6, "fetched twice"
    assert (out / MANIFEST).read_bytes() == straight(quick, here, lists, tmp_path)


@needs_unshare
@pytest.mark.parametrize("limit", ["size=48k", "nr_inodes=14"])
def test_a_full_disk_is_reported_and_the_same_command_resumes(quick: Download, here: Machine, server: ScriptedServer,
                                                              lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                              limit: str) -> None:
    serve(server, URLS + VAL, jpeg + bytes(8000))
    lists = lists_of(URLS, VAL)
    (tmp_path / "scratch").rename(tmp_path / "lists_scratch")
    ended = on_small_disk(tmp_path / "scratch", limit, command(quick, here, lists, tmp_path / "images"))
    assert_user_error(ended, "scratch/download", *DISK)
    assert ".partial" not in ended.stdout
    no_final_name(tmp_path)
    assert list(tmp_path.glob("scratch/download/*/spools/*")) != [], "nothing is left to go on from"
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    assert (out / MANIFEST).read_bytes() == straight(quick, here, lists, tmp_path)


@needs_unshare
def test_a_lack_of_space_is_reported_before_anything_is_fetched(quick: Download, here: Machine, server: ScriptedServer,
                                                                lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    """The size of the remaining lines is estimated from the finished shards."""
    released = serve_and_hold(server, URLS, jpeg + bytes(200_000), at_once=6)
    lists = lists_of(URLS, VAL)
    with started(quick, here, lists, tmp_path / "images"):
        wait_for(lambda: list(tmp_path.glob("scratch/download/*/accounts/train-00000.json")) != []
                 and not list(tmp_path.glob("scratch/download/*/spools/train-00000.*")))
    released.set()
    asked = sum(server.requests.values())
    script = 'cp -a "$1" "$1.was" && mount -t tmpfs -o size=1500k tmpfs "$1" && cp -a "$1.was/." "$1" && shift && "$@"'
    ended = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path / "scratch"),
                            *command(quick, here, lists, tmp_path / "images")], env=environment(),
                           capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "UserError: the images of" in ended.stderr and "GB, but" in ended.stderr, ended.stderr
    assert sum(server.requests.values()) == asked
