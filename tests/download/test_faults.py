"""After crashes and kills nothing is lost, no partial file has a final name, and the same command resumes."""

import dataclasses
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
from tests.conftest import PATIENCE_SECONDS, ScriptedServer
from tests.download.conftest import (
    HOST,
    URLS,
    VAL,
    Lists,
    command,
    no_final_name,
    rows_of,
    serve,
    serve_and_hold,
    started,
    straight,
    wait_for,
)
from tests.faults import environment, needs_strace, with_fault

from mlimages.core.params import Download, Machine
from mlimages.core.publish import MANIFEST, verify
from mlimages.core.worker_pool import LostWorker
from mlimages.download.ledger import Reason
from mlimages.download.run import download
from mlimages.download.schedule import scheduler
from mlimages.download.schedule.scheduler import Scheduler

# No image is known to crash or hang this decoder, so every worker process simulates it.
POISON = """
import os, time
from PIL import Image
real = Image.open
def open(file, *rest, **how):
    body = file.getvalue()
    if b"CRASH" in body: os.abort()
    if b"HANG" in body: time.sleep(3600)
    return real(file, *rest, **how)
Image.open = open
"""


@pytest.fixture
def here(here: Machine) -> Machine:
    """Two workers, so that one can be killed while the other works."""
    return dataclasses.replace(here, workers=2)


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, PATIENCE_SECONDS)[1]


def settled(tmp_path: Path, *shards: str) -> int:
    """How many lines of these shards are saved: those in journals, and all five of a finished shard."""
    def of(shard: str) -> int:
        if [*tmp_path.glob(f"scratch/download/*/accounts/{shard}.json")]:
            return 5
        try:
            return sum(path.read_bytes().count(b"\n")
                       for path in tmp_path.glob(f"scratch/download/*/spools/{shard}.journal"))
        except FileNotFoundError:  # finished in the meantime
            return 5

    return sum(map(of, shards))


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr(scheduler, "HANG_SECONDS", 0.5)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("poison", [b"CRASH", b"HANG"])
def test_an_image_that_crashes_or_hangs_the_decoder_fails_alone(quick: Download, here: Machine, server: ScriptedServer,
                                                                lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                                poison: bytes) -> None:
    for number, url in enumerate([*URLS, *VAL]):
        server.on(url.removeprefix(HOST), body=jpeg + (poison if number in (3, 11) else b""))
    quick = dataclasses.replace(quick, deadline_seconds=3.0)
    rows = rows_of(download(quick, here, lists=lists_of(URLS, VAL), out=tmp_path / "images"), "train")
    assert [row.line - 1 for row in rows if row.reason is Reason.CRASHED] == [3, 11]
    assert {row.reason for row in rows if row.line - 1 not in (3, 11)} == {Reason.OK}


@pytest.mark.usefixtures("poisoned")
def test_an_image_that_kills_behind_redirects_costs_two_workers(quick: Download, here: Machine, server: ScriptedServer,
                                                                lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[int] = []
    real = Scheduler._take_back

    def take_back(one: Scheduler, lost: Mapping[int, LostWorker]) -> None:
        losses.extend(lost)
        real(one, lost)

    monkeypatch.setattr(Scheduler, "_take_back", take_back)
    urls = [f"{HOST}/{number}.jpg" for number in range(200)]
    serve(server, [url for number, url in enumerate(urls) if number != 100] + VAL, jpeg)
    server.on("/100.jpg", status=302, headers={"Location": "/once.jpg"})
    server.on("/once.jpg", status=302, headers={"Location": "/twice.jpg"})
    server.on("/twice.jpg", body=jpeg + b"CRASH")
    quick = dataclasses.replace(quick, rate_per_host=100_000.0, images_per_shard=100)
    rows = rows_of(download(quick, here, lists=lists_of(urls, VAL), out=tmp_path / "images"), "train")
    assert [row.line - 1 for row in rows if row.reason is not Reason.OK] == [100]
    assert rows[100].reason is Reason.CRASHED
    assert len(losses) == 2


@pytest.mark.usefixtures("poisoned")
def test_no_shard_is_built_beside_a_line_that_may_kill_its_worker(
        quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[int] = []
    real = Scheduler._take_back

    def take_back(one: Scheduler, lost: Mapping[int, LostWorker]) -> None:
        if lost and one.tries_alone(0):
            beside.append(one._other_work(0))
        real(one, lost)

    monkeypatch.setattr(Scheduler, "_take_back", take_back)
    serve(server, URLS[:4], jpeg + b"CRASH")
    serve(server, URLS[4:6] + VAL, jpeg)
    here = dataclasses.replace(here, workers=1)
    quick = dataclasses.replace(quick, images_per_shard=1, connections_per_host=4)
    rows = rows_of(download(quick, here, lists=lists_of(URLS[:6], VAL), out=tmp_path / "images"), "train")
    assert [row.reason for row in rows] == [Reason.CRASHED] * 4 + [Reason.OK] * 2
    assert len(beside) == 4 and not any(beside), "a shard was written beside a line that was tried alone"


def test_a_killed_worker_is_replaced_and_nothing_is_lost(quick: Download, here: Machine, server: ScriptedServer,
                                                         lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    released = serve_and_hold(server, URLS, jpeg, at_once=10)
    lists = lists_of(URLS, VAL)
    process = subprocess.Popen(command(quick, here, lists, tmp_path / "images"), env=environment(),
                               stdout=subprocess.DEVNULL)
    server.wait_until(lambda: server.requests.total() > 12)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    wait_for(lambda: all(worker.num_threads() > here.threads for worker in workers))  # it has started its threads
    for worker in workers:
        worker.kill()
    released.set()
    assert process.wait(PATIENCE_SECONDS) == 0
    assert {row.reason for row in rows_of(tmp_path / "images", "train")} == {Reason.OK}


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_all_processes_and_the_same_command_resumes(quick: Download, here: Machine,
                                                                  server: ScriptedServer, lists_of: Lists, jpeg: bytes,
                                                                  tmp_path: Path, by: signal.Signals) -> None:
    released = serve_and_hold(server, URLS, jpeg, at_once=13)
    lists = lists_of(URLS, VAL)
    process = subprocess.Popen(command(quick, here, lists, tmp_path / "images"), env=environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    server.wait_until(lambda: all(server.finished[f"/{number}.jpg"] for number in range(13)))
    wait_for(lambda: settled(tmp_path, "train-00000", "train-00001", "train-00002") >= 13)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(by)
    said = process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert process.returncode != 0
    assert gone(workers)
    if by is not signal.SIGKILL:
        assert f"UserError: {by.name} stopped the download; what was fetched until now is kept" in said
        assert "Traceback" not in said
    no_final_name(tmp_path)
    released.set()
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    assert [server.requests[f"/{number}.jpg"] for number in range(13)] == [1] * 13, "fetched twice"
    assert (out / MANIFEST).read_bytes() == straight(quick, here, lists, tmp_path)


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["rename:signal=KILL", "fsync:signal=KILL", "write:signal=KILL"])
def test_a_kill_at_any_system_call_loses_nothing_finished(quick: Download, here: Machine, server: ScriptedServer,
                                                          lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                          fault: str) -> None:
    here = dataclasses.replace(here, workers=1)
    urls = URLS[:12]
    serve(server, urls + VAL, jpeg)
    lists = lists_of(urls, VAL)
    expected = straight(quick, here, lists, tmp_path)
    call = fault.partition(":")[0]
    moments = {"rename": (1, 3, 7, 11, 15), "fsync": (1, 4, 6, 11, 17), "write": (20, 45, 60, 80, 120)}[call]
    ended = 0
    for nth in moments:
        tried = with_fault(f"{fault}:when={nth}", command(quick, here, lists, tmp_path / "images"))
        if tried.returncode == 0:
            break
        ended += 1
        no_final_name(tmp_path)
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    verify(out, "download")
    assert (out / MANIFEST).read_bytes() == expected
    assert ended >= 1, "no kill met the download"


def test_requests_in_progress_at_a_signal_are_kept(quick: Download, here: Machine, server: ScriptedServer,
                                                   lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    released = serve_and_hold(server, URLS, jpeg, at_once=10)
    lists = lists_of(URLS, VAL)
    process = subprocess.Popen(command(quick, here, lists, tmp_path / "images"), env=environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server.wait_until(lambda: server.requests.total() > 13)  # their responses are held back until after the signal
    under_way = [path for path, count in server.requests.items() if count > server.finished[path]]
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    released.set()
    assert process.wait(PATIENCE_SECONDS) == 1
    asked = server.requests.copy()
    download(quick, here, lists=lists, out=tmp_path / "images")
    assert under_way and not {*under_way} & {*(server.requests - asked)}


@pytest.mark.parametrize("end", ["tar", "ledger.csv"])
def test_a_finished_shard_missing_from_scratch_is_fetched_again(quick: Download, here: Machine, server: ScriptedServer,
                                                                lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                                end: str) -> None:
    serve(server, URLS[:12] + VAL, jpeg)
    lists = lists_of(URLS[:12], VAL)
    before = (download(quick, here, lists=lists, out=tmp_path / "images") / MANIFEST).read_bytes()
    [finished] = tmp_path.glob(f"scratch/download/*/out/train/00001.{end}")
    finished.unlink()
    asked = server.requests.copy()
    assert (download(quick, here, lists=lists, out=tmp_path / "images") / MANIFEST).read_bytes() == before
    assert server.requests - asked == {f"/{number}.jpg": 1 for number in range(5, 10)}


def test_the_images_of_a_damaged_spool_are_fetched_again(
        quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    released = serve_and_hold(server, URLS, jpeg, at_once=4)
    lists = lists_of(URLS, VAL)
    with started(quick, here, lists, tmp_path / "images"):
        wait_for(lambda: settled(tmp_path, "train-00000") >= 4)
    spool = next(tmp_path.glob("scratch/download/*/spools/train-00000.*.spool"))
    spool.write_bytes(bytes(len(spool.read_bytes())))  # as a power failure can leave it
    released.set()
    asked = server.requests.copy()
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    assert re.search(r"WARNING: \d images of the shard train-00000 are missing or damaged", capsys.readouterr().out)
    assert {f"/{number}.jpg" for number in range(4)} & {*(server.requests - asked)}
    assert (out / MANIFEST).read_bytes() == straight(quick, here, lists, tmp_path)


@pytest.mark.parametrize("lost", [lambda content: content[:-9], lambda content: content[:-30] + bytes(30),
                                  lambda content: content[:-30] + b"\n" * 30])
def test_a_damaged_journal_is_read_up_to_the_damage(quick: Download, here: Machine, server: ScriptedServer,
                                                    lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                    lost: Callable[[bytes], bytes]) -> None:
    released = serve_and_hold(server, URLS, jpeg, at_once=4)
    lists = lists_of(URLS, VAL)
    with started(quick, here, lists, tmp_path / "images"):
        wait_for(lambda: settled(tmp_path, "train-00000") >= 4)
    journal = next(tmp_path.glob("scratch/download/*/spools/train-00000.journal"))
    journal.write_bytes(lost(journal.read_bytes()))
    released.set()
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    assert sum(server.requests[f"/{number}.jpg"] for number in range(4)) == 5
    assert (out / MANIFEST).read_bytes() == straight(quick, here, lists, tmp_path)
