"""The progress bar, its warnings, and the log."""

import dataclasses
import io
import re
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import (
    HOST,
    URLS,
    VAL,
    Lists,
    MakeFetcher,
    kill_amid_the_second_shard,
)

from mlimages.core.params import Download, Machine
from mlimages.core.progress import progress_bar
from mlimages.download.ledger import Reason
from mlimages.download.report import Report, mostly_errors
from mlimages.download.run import download
from mlimages.download.schedule import hosts


@pytest.fixture
def talkative(machine: Machine) -> Machine:
    return dataclasses.replace(machine, progress_seconds=0.01)


def test_a_pause_is_shown_while_no_line_ends(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                             talkative: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("/a.jpg", status=429, headers={"Retry-After": "2"})
    server.on("/a.jpg", body=jpeg)
    server.on("/b.jpg", body=jpeg)
    one, counted = fetcher(), set[int]()
    with Report(talkative, 2, 0, 0) as report:
        for _ in one.run(["http://other.example/b.jpg", f"{HOST}/a.jpg"]):
            for number in set(one.entries) - counted:
                report.count("", one.entries[number])
            counted = set(one.entries)
            report.show(one.scheduler)
    said = capsys.readouterr().out
    assert "paused: images.example for 2 s more" in said
    assert len(re.findall("1/2 .*paused: images.example", said.replace("\r", "\n"))) > 1


def test_unreachable_and_slow_hosts_are_named(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                              talkative: Machine, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hosts, "FIRST_PAUSE_SECONDS", 0.05)
    for path in ("/a.jpg", "/b.jpg"):
        server.on(path, status=503, headers={"Retry-After": "0"})
        server.on(path, body=jpeg)
    one = fetcher(also={f"dead{number}.example:80": "127.0.0.1:9" for number in range(5)}, outage_seconds=0.3)
    dead = [f"http://dead{number % 5}.example/{number}.jpg" for number in range(20)]
    with Report(talkative, 22, 0, 0) as report:
        for _ in one.run([f"{HOST}/a.jpg", *dead, f"{HOST}/b.jpg"]):
            report.show(one.scheduler)
    said = capsys.readouterr().out
    assert "unreachable: dead" in said and ".example for 0 s" in said and " and 2 more" in said
    assert "slow: images.example accepts 9" in said


def test_a_network_outage_is_shown(fetcher: MakeFetcher, talkative: Machine,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    one = fetcher()
    list(one.run([]))
    one.scheduler.outage.probed(False, time.monotonic() - 35)
    with Report(talkative, 1, 0, 0) as report:
        time.sleep(2 * talkative.progress_seconds)
        report.show(one.scheduler)
    assert "the network has been down for 35 s" in capsys.readouterr().out


def test_a_warning_is_shown_while_most_responses_are_errors(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                            talkative: Machine,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(65, 100):
        server.on(f"/{number}.jpg", body=jpeg)
    one = fetcher(rate_per_host=100_000.0)
    with Report(talkative, 100, 0, 0) as report:
        for _ in one.run([f"{HOST}/{number}.jpg" for number in range(60)]):
            report.show(one.scheduler)
        time.sleep(2 * talkative.progress_seconds)
        report.show(one.scheduler)
        errors = capsys.readouterr().out
        for _ in one.run([f"{HOST}/{number}.jpg" for number in range(65, 100)]):
            report.show(one.scheduler)
    assert errors.count("of the last") > errors.count("check the list, the network, the proxy") == 1
    assert re.search(r"WARNING: (\d+) of the last \1 responses are errors \(gone \1\)", errors)
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(("reasons", "warned"), [
    ([Reason.GONE] * 49, False), ([Reason.GONE] * 50, True), ([Reason.OK] * 50 + [Reason.HTTP_ERROR] * 50, False),
    ([Reason.OK] * 50 + [Reason.HTTP_ERROR] * 51, True)])
def test_a_warning_needs_enough_responses_of_which_most_are_errors(reasons: list[Reason], warned: bool) -> None:
    assert bool(mostly_errors(reasons)) is warned


def test_text_that_is_not_shown_is_not_computed(machine: Machine) -> None:
    with progress_bar("it", total=1, unit="", machine=dataclasses.replace(machine, progress_seconds=60.0)) as bar:
        bar.refresh_if_due(lambda: pytest.fail("it was"))


@pytest.mark.parametrize(("terminal", "least", "most"), [(True, 17_000, 17_300), (False, 200, 400)])
def test_a_day_leaves_few_lines_in_a_log(machine: Machine, monkeypatch: pytest.MonkeyPatch, terminal: bool, least: int,
                                         most: int) -> None:
    now, out = 0.0, io.StringIO()
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", out)
    with progress_bar("it", total=1, unit="", machine=dataclasses.replace(machine, progress_seconds=5.0)) as bar:
        for second in range(24 * 3600):
            now = float(second)
            bar.refresh_if_due(lambda: "spoken")
    assert least < out.getvalue().count("spoken") < most


def test_the_log_continues_the_count_of_a_killed_download(quick: Download, here: Machine, server: ScriptedServer,
                                                          lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    lists = kill_amid_the_second_shard(quick, here, server, lists_of, jpeg, tmp_path)
    logged = dataclasses.replace(here, download_log=str(tmp_path / "log"))
    download(quick, logged, lists=lists, out=tmp_path / "images")
    lines = (tmp_path / "log").read_text().splitlines()
    numbers = [int(line.split(" is finished and ")[1].split()[0]) for line in lines]
    assert numbers == list(range(7, len(URLS) + len(VAL) + 1))
