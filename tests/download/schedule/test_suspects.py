"""Suspects: lines whose worker died are tried alone and politely."""

import threading
import time
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, NOBODY, MakeFetcher, ThreadPool

from mlimages.core.worker_pool import LostWorker
from mlimages.download.ledger import Reason
from mlimages.download.lines import PendingLine
from mlimages.download.schedule import hosts, scheduler

pytestmark = pytest.mark.usefixtures("short_pauses")


def serve(server: ScriptedServer, jpeg: bytes, count: int) -> list[str]:
    for number in range(count):
        server.on(f"/{number}.jpg", body=jpeg)
    return [f"{HOST}/{number}.jpg" for number in range(count)]


def lose_the_first(monkeypatch: pytest.MonkeyPatch, count: int, after: int = 0) -> list[tuple[float, str]]:
    """Lose the worker once with `count` lines after the first `after`; return the times and URLs sent since."""
    seen: list[Any] = []
    sent: list[tuple[float, str]] = []
    lost, send, receive = threading.Event(), ThreadPool.send, ThreadPool.receive

    def sending(pool: ThreadPool, worker: int, task: Any) -> None:
        seen.append(task)
        if lost.is_set() or len(seen) <= after:
            send(pool, worker, task)
            sent.extend([(time.monotonic(), task.url)] * lost.is_set())

    def receiving(pool: ThreadPool, seconds: float) -> list[tuple[int, Any]]:
        if len(seen) >= after + count and not lost.is_set():
            lost.set()
            return [(0, LostWorker(None))]
        return receive(pool, seconds)

    monkeypatch.setattr(ThreadPool, "send", sending)
    monkeypatch.setattr(ThreadPool, "receive", receiving)
    return sent


def test_suspects_respect_the_rate_limit_of_their_domain(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    sent = lose_the_first(monkeypatch, 4, after=1)
    outcomes = fetcher(rate_per_host=5.0).fetch_all(serve(server, jpeg, 7))
    assert {one.reason for one in outcomes} == {Reason.OK}
    times = [moment for moment, _ in sent]
    assert len(times) == 6 and min(after - before for before, after in zip(times, times[1:], strict=False)) > 0.19


def test_suspects_respect_retry_after(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    sent = lose_the_first(monkeypatch, 1)
    server.on("/0.jpg", status=429, headers={"Retry-After": "2"})
    server.on("/b.jpg", body=jpeg)
    others = [f"http://other.example/b.jpg?{number}" for number in range(20)]
    for number in range(20):
        server.on(f"/b.jpg?{number}", body=jpeg)
    one = fetcher()
    assert {found.reason for found in one.fetch_all([*serve(server, jpeg, 1), *others])} == {Reason.OK}
    first, second = [moment for moment, url in sent if url.endswith("/0.jpg")]
    assert second - first > 2
    assert one.ended[-1] == f"{HOST}/0.jpg", "others waited for a suspect that waits for its host"


def test_a_redirected_suspect_runs_alone_until_it_ends(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    lose_the_first(monkeypatch, 1)
    together: list[int] = []
    send = scheduler.Scheduler._send

    def sending(one: scheduler.Scheduler, line: PendingLine, host: hosts.Host, slot: hosts.Slot, worker: int,
                now: float) -> None:
        send(one, line, host, slot, worker, now)
        under_way = [other.lost for other, *_ in one._in_flight[0].values()]
        together.extend([len(under_way)] * any(under_way))

    monkeypatch.setattr(scheduler.Scheduler, "_send", sending)
    server.on("/0.jpg", status=302, headers={"Location": "http://other.example/there.jpg"})
    server.on("/there.jpg", status=500)
    server.on("/there.jpg", body=jpeg)
    urls = [f"{HOST}/0.jpg", *(f"http://a.pictures.example/{number}.jpg" for number in range(1, 60))]
    for number in range(1, 60):
        server.on(f"/{number}.jpg", body=jpeg)
    one = fetcher(rate_per_host=100_000.0)
    assert {found.reason for found in one.fetch_all(urls)} == {Reason.OK}
    assert server.requests["/there.jpg"] == 2
    assert len(together) >= 4 and {*together} == {1}


def test_a_suspect_of_a_dead_host_fails_with_its_other_lines(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    lose_the_first(monkeypatch, 1)
    one = fetcher(also={"dead.example:80": NOBODY}, outage_seconds=0.5, rate_per_host=20.0, attempts=20)
    outcomes = one.fetch_all([*(f"http://dead.example/{number}.jpg" for number in range(9)), *serve(server, jpeg, 40)])
    assert [found.reason for found in outcomes] == [Reason.CONNECT] * 9 + [Reason.OK] * 40
