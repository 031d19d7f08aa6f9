"""The scheduler over threads of this process in place of worker processes, so that a test can see what they do.

What processes add is tested in tests/test_crew.py and test_download.py.
"""

import dataclasses
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from tests.conftest import ScriptedServer

from mlimages.crew import Crew
from mlimages.download import outage, verdict
from mlimages.download.connections import Network
from mlimages.download.exchange import Exchange, Get
from mlimages.download.ledger import Reason
from mlimages.download.lines import Line, Shard
from mlimages.download.mirrors import Mirrors
from mlimages.download.scheduler import Scheduler
from mlimages.download.spool import Entry, Spools
from mlimages.params import Download, Params

SHARD = Shard("train", 0, 1, 1_000_000, 0)


class Outcome(NamedTuple):
    """What came of a URL; `image` is its bytes, extension, width and height."""

    reason: Reason
    http_status: int
    attempts: int
    image: tuple[bytes, str, int, int] | None


class ThreadCrew:
    """Threads that do what a Crew's processes do, for one Exchange."""

    workers, threads = 1, 32

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._pool = ThreadPoolExecutor(self.threads)
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(self, worker: int, task: Any) -> None:
        self._pool.submit(self._work, task)

    def _work(self, task: Any) -> None:
        try:
            self._results.put(self._exchange.get(task) if isinstance(task, Get) else self._exchange.knock(task))
        except Exception as error:
            self._results.put(error)

    def receive(self, seconds: float) -> list[tuple[int, Any]]:
        try:
            result = self._results.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return []
        if isinstance(result, Exception):
            raise result
        return [(0, result)]


class Fetcher:
    """Fetches URLs with these parameters; `scheduler` is the last run's."""

    def __init__(self, params: Download, connect_to: Mapping[str, str], folder: Path,
                 proxies: Mapping[str, str]) -> None:
        self.params, self._folder = params, folder
        self.hosts = dict(connect_to)
        folder.mkdir(exist_ok=True)
        self._crew = ThreadCrew(Exchange(params, Network(self.hosts, proxies), folder))
        self.entries: dict[int, Entry] = {}
        self.ended: list[str] = []

    def _on_entry(self, line: Line, entry: Entry) -> None:
        assert entry.line not in self.entries
        self.entries[entry.line] = entry
        self.ended.append(line.address.url)

    def _lines(self, urls: Sequence[str]) -> Iterator[Line]:
        mirrors = Mirrors(self.params.mirrors, self._folder)
        for number, url in enumerate(urls):
            yield Line(number, SHARD, number, mirrors.addresses(url), self.params.deadline_seconds)

    def run(self, urls: Sequence[str]) -> Iterator[None]:
        """Fetch all, step by step."""
        self.entries.clear()
        self.ended.clear()
        self.scheduler = Scheduler(self.params, cast(Crew, self._crew), on_entry=self._on_entry,
                                   on_result=lambda result: None, on_lost=lambda worker: None)
        yield from self.scheduler.run(self._lines(urls), lambda: False)

    def fetch_all(self, urls: Sequence[str]) -> list[Outcome]:
        for _ in self.run(urls):
            pass
        return [self._outcome(self.entries[number]) for number in range(len(urls))]

    def fetch(self, url: str) -> Outcome:
        return self.fetch_all([url])[0]

    def _outcome(self, entry: Entry) -> Outcome:
        image = entry.stored and (Spools(self._folder).read(entry.stored), entry.stored.extension, entry.stored.width,
                                  entry.stored.height)
        return Outcome(entry.reason, entry.http_status, entry.attempts, image)


MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any wait between tries and knocks."""
    monkeypatch.setattr(verdict, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(outage, "KNOCK_EVERY_SECONDS", 0.2)


@pytest.fixture
def fetcher(params: Params, server: ScriptedServer, tmp_path: Path, impatient: None) -> MakeFetcher:
    """Makes a fetcher that reaches the scripted server as several hosts, with these parameters."""
    hosts = server.connect_to("images.example", "other.example", "a.pictures.example", "b.pictures.example")

    def make(*, also: Mapping[str, str] | None = None, proxies: Mapping[str, str] | None = None,
             **changes: Any) -> Fetcher:
        download = dataclasses.replace(params.download, **{"attempts": 3, "outage_seconds": 0.0, **changes})
        return Fetcher(download, {**hosts, **(also or {})}, tmp_path / "spools", proxies or {})

    return make
