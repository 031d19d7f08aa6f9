"""Detecting a network outage."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, NOBODY, MakeFetcher, ThreadPool

from mlimages.core.errors import UserError
from mlimages.core.worker_pool import LostWorker
from mlimages.download.http.exchange import ProbeRequest, ProbeResult
from mlimages.download.ledger import Reason
from mlimages.download.schedule import outage, scheduler

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_a_suspended_host_without_waiting_lines_is_dropped(fetcher: MakeFetcher, server: ScriptedServer,
                                                           jpeg: bytes) -> None:
    released = threading.Event()
    server.on("/held.jpg", body=jpeg, until=released)
    dead = [f"{number}.example" for number in range(20)]
    one = fetcher(also={f"{name}:80": NOBODY for name in dead}, outage_seconds=0.3)
    server.on("/0.jpg", body=jpeg)
    for _ in one.run([*(f"http://{name}/{number}.jpg" for name in dead for number in range(5)), f"{HOST}/0.jpg",
                      "http://other.example/held.jpg"]):
        if len(one.entries) == 101 and not one.scheduler._suspended:
            released.set()
    assert len(one.entries) == 102


@pytest.mark.parametrize("silent", [NOBODY, "nowhere.invalid:80"])
def test_refused_connections_and_unknown_names_do_not_prove_a_network(fetcher: MakeFetcher, silent: str) -> None:
    names = [f"{number}.example" for number in range(20)]
    one = fetcher(also={f"{name}:80": silent for name in names}, outage_seconds=0.5)
    with pytest.raises(UserError, match="no host has answered for .* the network seems to be down"):
        one.fetch_all([f"http://{name}/{number}.jpg" for name in names for number in range(4)])
    assert one.entries == {}


def test_forbidden_urls_do_not_prove_a_network(fetcher: MakeFetcher) -> None:
    one = fetcher(also={"dead.example:80": NOBODY}, outage_seconds=0.5)
    urls = ["http://dead.example/a.jpg", *["file:///etc/passwd", "http://127.0.0.1/a.jpg"] * 100]
    with pytest.raises(UserError, match="no host has answered"):
        one.fetch_all(urls)
    assert 0 not in one.entries


def test_probes_take_turns_among_the_last_hosts(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    one = outage.Outage(10.0)
    for number, name in enumerate("abcda"):
        one.answered(name, f"http://{name}", 100.0 + number)
    probed = []
    for now in range(200, 212, 4):
        probed.append(one.probe(float(now), suspended=True))
        one.probed(False, now - 4.0)
    assert probed == ["http://c", "http://d", "http://a"]


def test_no_probe_is_sent_while_hosts_answer(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    quiet = outage.Outage(10.0)
    quiet.answered("images.example", HOST, 100.0)
    assert quiet.probe(100.1, suspended=True) is None
    assert quiet.probe(101.0, suspended=False) is None
    assert quiet.probe(101.0, suspended=True) == HOST
    assert quiet.probe(101.1, suspended=True) is None, "it probed twice at once"


def test_a_probe_that_dies_with_its_worker_is_sent_again(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    lost, send = [LostWorker(None)], ThreadPool.send

    def losing(pool: ThreadPool, worker: int, task: Any) -> None:
        if isinstance(task, ProbeRequest) and lost:  # lost with its worker while no line is in progress there
            pool._results.put(ProbeResult(False) if any(one.scheduler._in_flight) else lost.pop())
        else:
            send(pool, worker, task)

    monkeypatch.setattr(ThreadPool, "send", losing)
    monkeypatch.setattr(scheduler, "WINDOW", 1)
    server.on("/a.jpg", body=jpeg)
    one = fetcher(also={"dead.example:80": NOBODY}, outage_seconds=3.0)

    def urls() -> Iterator[str]:
        yield f"{HOST}/a.jpg"
        monkeypatch.setattr(scheduler, "WINDOW", 100)  # the first line has its response
        yield from (f"http://dead.example/{number}.jpg" for number in range(9))

    for _ in one.run(urls()):
        pass
    assert [one.entries[number].reason for number in range(10)] == [Reason.OK] + [Reason.CONNECT] * 9
    assert lost == []


def test_no_request_is_sent_during_an_outage(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    away = {f"{number}.example:80": NOBODY for number in range(20)}
    here = server.connect_to("images.example", *(name.removesuffix(":80") for name in away))
    server.on("/a.jpg", body=jpeg)
    one = fetcher(also=away, outage_seconds=60.0)
    asked, looked = None, 0
    for _ in one.run([f"{HOST}/a.jpg", *(f"http://{name}/a.jpg" for name in away for _ in range(3))]):
        if one.entries and asked is None:
            one.hosts["images.example:80"] = NOBODY
        if one.scheduler.outage.down_since is not None:
            asked, looked = asked or one.pool.requests.total(), looked + 1
            assert one.pool.requests.total() == asked
            if looked == 10:  # rounds of one TICK each: long enough for another try of the hosts
                one.hosts.update(here)
    assert looked >= 10
    assert [entry.reason for entry in one.entries.values()] == [Reason.OK] * 61


@pytest.mark.parametrize("others", ["silent", "answering"])
def test_an_outage_too_short_to_probe_fails_no_line(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                    others: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "PROBE_EVERY_SECONDS", 1000.0)
    monkeypatch.setattr(outage, "SILENCE_SECONDS", 0.0 if others == "silent" else 1000.0)
    monkeypatch.setattr(scheduler, "WINDOW", 1)
    server.on("/a.jpg", body=jpeg)
    one = fetcher(also={"b.example:80": NOBODY}, outage_seconds=60.0, attempts=2)
    for _ in one.run([f"{HOST}/a.jpg", "http://b.example/a.jpg"]):
        if one.scheduler.outage._parked:
            one.hosts.update(server.connect_to("b.example"))
            one.scheduler.outage.answered("images.example", HOST, time.monotonic())
    assert one.entries[1].reason is (Reason.OK if others == "silent" else Reason.CONNECT)


def test_a_dead_host_gets_one_more_chance(fetcher: MakeFetcher, server: ScriptedServer,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "SILENCE_SECONDS", 0.0)
    one = fetcher(also={"dead.example:80": NOBODY}, outage_seconds=60.0, attempts=2)
    for _ in one.run(["http://dead.example/a.jpg"]):
        one.scheduler.outage.answered("images.example", HOST, time.monotonic())
        assert one.pool.requests.total() <= 4, "more than two tries, and two more"
    assert one.entries[0].reason is Reason.CONNECT
    assert one.pool.requests.total() == 4


def test_a_line_gets_all_its_tries_again_after_an_outage(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "WINDOW", 1)
    server.on("/a.jpg", body=jpeg)
    server.on("/b.jpg", status=502)
    server.on("/b.jpg", body=jpeg)
    one = fetcher(also={"b.example:80": NOBODY}, outage_seconds=60.0, attempts=2)

    def urls() -> Iterator[str]:
        yield f"{HOST}/a.jpg"
        one.hosts["images.example:80"] = NOBODY
        yield "http://b.example/b.jpg"

    for _ in one.run(urls()):
        if one.scheduler.outage.down_since is not None:
            one.hosts.update(server.connect_to("images.example", "b.example"))
    assert [entry.reason for entry in one.entries.values()] == [Reason.OK, Reason.OK]
