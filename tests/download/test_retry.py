"""A round of retries fetches the lines that failed for the named reasons, and keeps all other bytes."""

import dataclasses
import shutil
import threading
from pathlib import Path

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, VAL, Lists, accounts_are_true, command, rows_of, serve, started, straight
from tests.faults import DISK, assert_user_error, needs_strace, with_fault

from mlimages.core.errors import UserError
from mlimages.core.params import Download, Machine
from mlimages.core.publish import MANIFEST, verify
from mlimages.download.ledger import Reason
from mlimages.download.run import download
from mlimages.download.shards import read_shard

URLS = [f"{HOST}/{number}.jpg" for number in range(20)]


def test_only_lines_with_the_named_reasons_are_retried(quick: Download, here: Machine, server: ScriptedServer,
                                                       lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    for number in (2, 7):
        server.on(f"/{number}.jpg", status=500)
        server.on(f"/{number}.jpg", status=500)
    server.on("/3.jpg", status=200, body=b"<html>")
    serve(server, URLS + VAL, jpeg)
    lists, out = lists_of(URLS, VAL), tmp_path / "images"
    download(quick, here, lists=lists, out=out)
    rows, before = rows_of(out, "train"), {path.name: path.read_bytes() for path in (out / "train").iterdir()}
    assert [row.line for row in rows if row.reason is Reason.HTTP_ERROR] == [3, 8]
    asked = server.requests.copy()
    retry = dataclasses.replace(quick, retry=["http_error", "timeout"])
    verify(download(retry, here, lists=lists, out=out), "download")
    assert server.requests - asked == {"/2.jpg": 1, "/7.jpg": 1}
    after = rows_of(out, "train")
    assert [row for row in after if row.line not in (3, 8)] == [row for row in rows if row.line not in (3, 8)]
    assert [row.reason for row in after if row.line in (3, 8)] == [Reason.OK, Reason.OK]
    assert [member.key for member in read_shard(out / "train" / "00000.tar")] == [
        "train-00000001", "train-00000002", "train-00000003", "train-00000005"]
    unchanged = {path.name for path in (out / "train").iterdir() if before[path.name] == path.read_bytes()}
    assert unchanged == {f"0000{shard}.{end}" for shard in (2, 3) for end in ("tar", "ledger.csv")}


def test_a_line_that_fails_again_has_one_row_and_each_run_is_a_new_round(quick: Download, here: Machine,
                                                                         server: ScriptedServer, lists_of: Lists,
                                                                         jpeg: bytes, tmp_path: Path) -> None:
    server.on("/1.jpg", status=404)
    serve(server, [URLS[0], *VAL], jpeg)
    lists, out = lists_of(URLS[:2], VAL), tmp_path / "images"
    retry = dataclasses.replace(quick, retry=["gone"])
    first = (download(retry, here, lists=lists, out=out) / MANIFEST).read_bytes()
    assert server.requests["/1.jpg"] == 1, "a first run retries nothing"
    for rounds in (2, 3):
        assert (download(retry, here, lists=lists, out=out) / MANIFEST).read_bytes() == first
        assert server.requests["/1.jpg"] == rounds
    assert server.requests["/0.jpg"] == 1


def test_a_killed_round_resumes_and_retries_no_shard_twice(quick: Download, here: Machine, server: ScriptedServer,
                                                           lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    released = threading.Event()
    for number in (0, 6, 12):
        server.on(f"/{number}.jpg", status=404)
    server.on("/0.jpg", status=404)
    for number in (6, 12):
        server.on(f"/{number}.jpg", body=jpeg, until=released)
    serve(server, [url for number, url in enumerate(URLS) if number not in (0, 6, 12)] + VAL, jpeg)
    lists, out = lists_of(URLS, VAL), tmp_path / "images"
    download(quick, here, lists=lists, out=out)
    retry = dataclasses.replace(quick, retry=["gone"])
    with started(retry, here, lists, out):
        server.wait_until(lambda: server.requests["/0.jpg"] == 2)
        while not list(tmp_path.glob("scratch/download/*/round/train-00000")):
            server.closing.wait(0.02)
    released.set()
    shutil.rmtree(out)
    download(retry, here, lists=lists, out=out)
    assert server.requests["/0.jpg"] == 2
    assert [row.line for row in rows_of(out, "train") if row.reason is not Reason.OK] == [1]


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize(("call", "moments"), [("rename", (1, 3, 4, 5, 7)), ("unlink", (1, 2, 3, 5, 8)),
                                               ("fsync", (1, 4, 6, 8, 11)), ("write", (10, 20, 30, 45, 70))])
def test_a_round_killed_at_any_system_call_resumes_to_the_same_bytes(
        quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes, tmp_path: Path, call: str,
        moments: tuple[int, ...]) -> None:
    """Two shards have one line each to retry, which succeeds."""
    for number in (1, 6):
        server.on(f"/{number}.jpg", status=404)
    serve(server, URLS[:10] + VAL, jpeg)
    lists, out = lists_of(URLS[:10], VAL), tmp_path / "images"
    download(quick, here, lists=lists, out=out)
    expected = straight(quick, here, lists, tmp_path)  # now all lines give an image
    retry = dataclasses.replace(quick, retry=["gone"])
    shutil.copytree(tmp_path / "scratch", tmp_path / "before")
    ended = 0
    for nth in moments:
        shutil.rmtree(tmp_path / "scratch")
        shutil.copytree(tmp_path / "before", tmp_path / "scratch")
        shutil.rmtree(out)
        killed = with_fault(f"{call}:signal=KILL:when={nth}", command(retry, here, lists, out))
        ended += killed.returncode != 0
        accounts_are_true(tmp_path)
        download(retry, here, lists=lists, out=out)
        assert (out / MANIFEST).read_bytes() == expected, f"after a kill at call {nth}"
        verify(out, "download")
    assert ended >= 1, "no kill met the round"


@needs_strace
@pytest.mark.parametrize("retried", [["gone"], []])
def test_a_round_that_ended_before_a_shard_was_marked_as_finished_is_completed(
        quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes, tmp_path: Path,
        retried: list[str]) -> None:
    """The tar and the ledger are new and nothing is left to retry, whether or not the next command retries."""
    server.on("/1.jpg", status=404)
    serve(server, URLS[:5] + VAL, jpeg)
    lists, out = lists_of(URLS[:5], VAL), tmp_path / "images"
    download(quick, here, lists=lists, out=out)
    expected = straight(quick, here, lists, tmp_path)
    shutil.copytree(tmp_path / "scratch", tmp_path / "before")
    ended_between = 0
    for nth in (6, 7, 8, 9):
        shutil.rmtree(tmp_path / "scratch")
        shutil.copytree(tmp_path / "before", tmp_path / "scratch")
        retry = dataclasses.replace(quick, retry=["gone"])
        assert_user_error(with_fault(f"fsync:error=EIO:when={nth}+", command(retry, here, lists, out)), *DISK)
        accounts_are_true(tmp_path)
        [account] = tmp_path.glob("scratch/download/*/accounts/val-00000.json")
        ended_between += rows_of(account.parents[1] / "out", "train")[1].reason is Reason.OK
        download(dataclasses.replace(quick, retry=retried), here, lists=lists, out=out)
        assert (out / MANIFEST).read_bytes() == expected
    assert ended_between > 0


def test_a_lost_shard_does_not_end_the_round_of_the_others(quick: Download, here: Machine, server: ScriptedServer,
                                                           lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    for number in (1, 6):
        server.on(f"/{number}.jpg", status=404)
    serve(server, URLS[:10] + VAL, jpeg)
    lists, out = lists_of(URLS[:10], VAL), tmp_path / "images"
    download(quick, here, lists=lists, out=out)
    [tar] = tmp_path.glob("scratch/download/*/out/train/00000.tar")
    tar.unlink()
    asked = server.requests.copy()
    download(dataclasses.replace(quick, retry=["gone"]), here, lists=lists, out=out)
    assert server.requests - asked == {f"/{number}.jpg": 1 for number in (0, 1, 2, 3, 4, 6)}
    assert {row.reason for row in rows_of(out, "train")} == {Reason.OK}


@pytest.mark.parametrize("shorter_side", [None, 16])
def test_an_image_that_became_a_known_placeholder_is_retried(quick: Download, here: Machine, server: ScriptedServer,
                                                             lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                             shorter_side: int | None) -> None:
    serve(server, URLS + VAL, jpeg)
    lists, out = lists_of(URLS, VAL), tmp_path / "images"
    quick = dataclasses.replace(quick, shorter_side=shorter_side)
    download(quick, here, lists=lists, out=out)
    rows = rows_of(out, "train")
    known = dataclasses.replace(quick, placeholders=[rows[3].sha256])
    asked = server.requests.copy()
    download(known, here, lists=lists, out=out)
    assert rows_of(out, "train") == rows
    assert server.requests == asked
    download(dataclasses.replace(known, retry=["placeholder"]), here, lists=lists, out=out)
    listed = [row.url for row in rows_of(out, "train") if row.reason is Reason.PLACEHOLDER]
    assert listed == [row.url for row in rows if row.sha256 == rows[3].sha256]
    assert {f"{HOST}{path}" for path in server.requests - asked} - {*VAL} == {*listed}


@pytest.mark.parametrize("reasons", [["tiemout"], ["ok"]])
def test_an_unknown_reason_is_an_error(quick: Download, here: Machine, lists_of: Lists, tmp_path: Path,
                                       reasons: list[str]) -> None:
    with pytest.raises(UserError, match=f"download.retry names {reasons[0]}; expected some of bad_url, dns"):
        download(dataclasses.replace(quick, retry=reasons), here, lists=lists_of(URLS[:1], VAL), out=tmp_path / "out")
