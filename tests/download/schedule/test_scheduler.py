"""The scheduler: order, connections, rate limits, and slow or dead hosts."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, NOBODY, MakeFetcher, ThreadPool

from mlimages.core.params import Mirror
from mlimages.core.worker_pool import LostWorker
from mlimages.download.ledger import Reason
from mlimages.download.schedule import hosts, scheduler

pytestmark = pytest.mark.usefixtures("short_pauses")


def serve(server: ScriptedServer, jpeg: bytes, count: int, **how: Any) -> list[str]:
    for number in range(count):
        server.on(f"/{number}.jpg", body=jpeg, **how)
    return [f"{HOST}/{number}.jpg" for number in range(count)]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_pauses_its_domain_and_no_other(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                    status: int) -> None:
    server.on("/a.jpg", status=status, headers={"Retry-After": "1"})
    server.on("/a.jpg", body=jpeg)
    server.on("/b.jpg", body=jpeg)
    begun = time.monotonic()
    one = fetcher()
    outcomes = one.fetch_all([f"{HOST}/a.jpg", *["http://other.example/b.jpg"] * 20])
    assert {outcome.reason for outcome in outcomes} == {Reason.OK}
    assert outcomes[0].requests == 2
    assert one.ended[-1] == f"{HOST}/a.jpg", "others waited for the domain that asked for a pause"
    assert time.monotonic() - begun > 1


def test_timeouts_slow_their_domain_and_no_other(fetcher: MakeFetcher, jpeg: bytes, server: ScriptedServer) -> None:
    server.on("/a.jpg", hang=True)
    server.on("/b.jpg", body=jpeg)
    one = fetcher(attempts=1, timeout_seconds=0.3)
    outcomes = one.fetch_all([f"{HOST}/a.jpg", "http://other.example/b.jpg"])
    assert [outcome.reason for outcome in outcomes] == [Reason.TIMEOUT, Reason.OK]
    limiters = [one.scheduler.domains[name].rate_limiter for name in ("images.example", "other.example")]
    assert [limiter.slowed for limiter in limiters] == [True, False]


def test_hosts_of_one_domain_share_its_connections(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    released = threading.Event()
    server.on("/first.jpg", body=jpeg)
    serve(server, jpeg, 20, until=released)
    hosts = [f"http://{name}.pictures.example" for name in "ab"]
    one, most = fetcher(connections_per_host=3, rate_per_host=100_000.0), 0
    for _ in one.run([f"{host}/{name}.jpg" for name in ("first", *range(20)) for host in hosts]):
        hosts_now = [host for domain in one.scheduler.domains.values() for host in domain.hosts.values()]
        most = max(most, sum(host.in_flight for host in hosts_now))
        if len(one.entries) == len(hosts):  # both have answered, so all connections may be used
            released.set()
    assert {entry.reason for entry in one.entries.values()} == {Reason.OK}
    assert most == 3 >= server.most_requests_of_all


def test_a_thousand_urls_of_one_host_are_fetched_at_rate_per_host(fetcher: MakeFetcher, server: ScriptedServer,
                                                                  jpeg: bytes) -> None:
    begun = time.monotonic()
    outcomes = fetcher(connections_per_host=4, rate_per_host=400.0).fetch_all(serve(server, jpeg, 1000))
    assert {one.reason for one in outcomes} == {Reason.OK}
    assert server.most_requests["images.example"] <= 4
    assert time.monotonic() - begun > 999 / 400


def test_a_slow_host_delays_no_other(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    released = threading.Event()
    server.on("/slow.jpg", body=jpeg, until=released)
    one = fetcher()
    slow = [f"http://other.example/slow.jpg?{number}" for number in range(200)]
    for number in range(200):
        server.on(f"/slow.jpg?{number}", body=jpeg, until=released)
    fast = serve(server, jpeg, 50)
    for _ in one.run([*slow, *fast]):
        if len(one.entries) == len(fast):
            released.set()
    assert set(one.ended[:50]) == set(fast)
    assert len(one.entries) == 250


def test_a_dead_host_gets_few_requests_and_fails_while_others_continue(fetcher: MakeFetcher, server: ScriptedServer,
                                                                       jpeg: bytes) -> None:
    urls = serve(server, jpeg, 30)
    dead = [f"http://dead.example/{number}.jpg" for number in range(500)]
    one = fetcher(also={"dead.example:80": NOBODY}, outage_seconds=0.5, rate_per_host=20.0)
    outcomes = one.fetch_all(dead + urls)
    assert {outcome.reason for outcome in outcomes[:500]} == {Reason.CONNECT}
    assert sum(outcome.requests for outcome in outcomes[:500]) < 20
    assert {outcome.reason for outcome in outcomes[500:]} == {Reason.OK}


def test_a_host_that_comes_back_loses_no_line(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    for number in range(40):
        if number % 8 == 0:
            server.on(f"/{number}.jpg", drop=True)
        server.on(f"/{number}.jpg", body=jpeg)
    outcomes = fetcher(attempts=2).fetch_all([f"{HOST}/{number}.jpg" for number in range(40)])
    assert {outcome.reason for outcome in outcomes} == {Reason.OK}


def test_a_host_that_comes_back_delivers_the_lines_that_have_not_failed(fetcher: MakeFetcher, server: ScriptedServer,
                                                                        jpeg: bytes,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "FIRST_GIVEN_UP", 10)
    released = threading.Event()
    urls = serve(server, jpeg, 100)
    server.on("/held.jpg", body=jpeg, until=released)
    one = fetcher(also={"images.example:80": NOBODY}, outage_seconds=0.3)
    for _ in one.run([*urls, *(f"http://other.example/0.jpg?{number}" for number in range(20)),
                      "http://other.example/held.jpg"]):
        if sum(entry.reason is Reason.CONNECT for entry in one.entries.values()) >= 10:
            one.hosts.update(server.connect_to("images.example"))
        if len(one.entries) == 120:
            released.set()
    reasons = Counter(one.entries[number].reason for number in range(100))
    assert reasons == {Reason.CONNECT: reasons[Reason.CONNECT], Reason.OK: 100 - reasons[Reason.CONNECT]}
    assert 10 <= reasons[Reason.CONNECT] < 40


def test_server_errors_of_several_lines_in_a_row_slow_the_domain(fetcher: MakeFetcher, server: ScriptedServer,
                                                                 jpeg: bytes) -> None:
    for name in (*range(4), "one"):
        server.on(f"/{name}.jpg", status=502)
        server.on(f"/{name}.jpg", status=502)
        server.on(f"/{name}.jpg", body=jpeg)
    one = fetcher(rate_per_host=100_000.0)
    outcomes = one.fetch_all([*serve(server, jpeg, 4), "http://other.example/one.jpg"])
    assert {outcome.reason for outcome in outcomes} == {Reason.OK}
    limiters = [one.scheduler.domains[name].rate_limiter for name in ("images.example", "other.example")]
    assert [limiter.slowed for limiter in limiters] == [True, False]


def test_only_idle_domains_are_removed(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "FORGET_ABOVE", 10)
    names = [f"{number}.example" for number in range(60)]
    server.on("/slow.jpg", status=429, headers={"Retry-After": "0"})
    server.on("/slow.jpg", body=jpeg)
    server.on("/a.jpg", body=jpeg)
    monkeypatch.setattr(scheduler, "WINDOW", 1)
    one = fetcher(also=server.connect_to(*names))
    outcomes = one.fetch_all(["http://0.example/slow.jpg", *(f"http://{name}/a.jpg" for name in names)])
    assert {outcome.reason for outcome in outcomes} == {Reason.OK}
    assert len(one.scheduler.domains) <= 20 and "0.example" in one.scheduler.domains


def test_only_a_window_of_lines_is_read_ahead(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "WINDOW", 10)
    one, read = fetcher(rate_per_host=100_000.0), 0

    def urls() -> Iterator[str]:
        nonlocal read
        for url in serve(server, jpeg, 60):
            read += 1
            yield url

    for _ in one.run(urls()):
        assert read <= len(one.entries) + 10
    assert read == len(one.entries) == 60


def test_mirrors_are_tried_in_their_order(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/gone.jpg", status=404)
    server.on("/copy/gone.jpg", body=jpeg)
    one = fetcher(mirrors=[Mirror("{url}"), Mirror("http://other.example/copy/{path}", host="images.example")])
    outcomes = one.fetch_all([f"{HOST}/gone.jpg", "http://a.pictures.example/gone.jpg"])
    assert [outcome[:3] for outcome in outcomes] == [(Reason.OK, 200, 2), (Reason.GONE, 404, 1)]
    assert one.entries[0].mirror == 1
    asked = [entry for entry in server.log if entry[0] != "a.pictures.example"]
    assert asked == [("images.example", "/gone.jpg"), ("other.example", "/copy/gone.jpg")]


def test_a_url_without_a_matching_rule_is_requested_itself(fetcher: MakeFetcher, server: ScriptedServer,
                                                           jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg)
    one = fetcher(mirrors=[Mirror("http://other.example/copy/{path}", host="nobody.example")])
    assert one.fetch(f"{HOST}/a.jpg").reason is Reason.OK


@pytest.mark.parametrize(("with_node", "reason"), [(False, Reason.CRASHED), (True, Reason.OK)])
def test_a_line_that_lost_two_workers_is_crashed_unless_their_node_was_lost(
        fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes, monkeypatch: pytest.MonkeyPatch, with_node: bool,
        reason: Reason) -> None:
    losses, send = [LostWorker(None, with_node)] * 2, ThreadPool.send

    def losing(pool: ThreadPool, worker: int, task: Any) -> None:
        if losses:
            pool._results.put(losses.pop())
        else:
            send(pool, worker, task)

    monkeypatch.setattr(ThreadPool, "send", losing)
    [url] = serve(server, jpeg, 1)
    assert fetcher().fetch(url).reason is reason


def test_a_worker_that_is_busy_with_other_tasks_gets_no_line(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a line would wait in the worker and count as hung."""
    monkeypatch.setattr(ThreadPool, "threads", 1)
    one, rounds = fetcher(), 0
    one.other_work = lambda worker: int(rounds < 5)
    for _ in one.run(serve(server, jpeg, 3)):
        assert rounds >= 5 or not one.pool.requests
        rounds += 1
    assert {entry.reason for entry in one.entries.values()} == {Reason.OK}


@pytest.mark.parametrize("up", [False, True])
def test_a_line_that_waits_for_a_starting_worker_does_not_count_as_hung(fetcher: MakeFetcher, server: ScriptedServer,
                                                                        jpeg: bytes, monkeypatch: pytest.MonkeyPatch,
                                                                        up: bool) -> None:
    monkeypatch.setattr(scheduler, "HANG_SECONDS", 0.1)
    monkeypatch.setattr(ThreadPool, "is_up", lambda pool, worker: up)
    released, looks = threading.Event(), 0
    server.on("/a.jpg", body=jpeg, until=released)
    one = fetcher(deadline_seconds=1000.0)
    for _ in one.run([f"{HOST}/a.jpg"]):
        for line, _, _ in one.scheduler._in_flight[0].values():
            line.seconds_left = 0.0
        looks += 1
        if looks == 8:  # of one TICK each
            released.set()
    assert (one.pool.killed > 0) is up


def test_lines_of_a_successor_are_not_taken_for_those_of_the_lost_worker(fetcher: MakeFetcher, server: ScriptedServer,
                                                                         jpeg: bytes,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect sends a line to the successor of worker 0 in the round in which worker 0 is lost."""
    sent: dict[int, int] = {}
    losses, send, receive = [LostWorker(None)], ThreadPool.send, ThreadPool.receive

    def sending(pool: ThreadPool, worker: int, task: Any) -> None:
        sent[task.number] = worker
        send(pool, worker, task)

    def losing(pool: ThreadPool, seconds: float) -> list[tuple[int, Any]]:
        found = [(sent[answer.number], answer) for _, answer in receive(pool, seconds)]
        return found + [(0, losses.pop())] if found and losses else found

    monkeypatch.setattr(ThreadPool, "workers", 2)
    monkeypatch.setattr(ThreadPool, "send", sending)
    monkeypatch.setattr(ThreadPool, "receive", losing)
    server.on("/a.jpg", status=302, headers={"Location": "http://second.example/b.jpg"})
    server.on("/b.jpg", body=jpeg)
    found = fetcher(also=server.connect_to("second.example")).fetch(f"{HOST}/a.jpg")
    assert (found.reason, server.requests["/b.jpg"], [*sent.values()]) == (Reason.OK, 1, [0])
