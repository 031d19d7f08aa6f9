"""Helpers: complete downloads in this or another process, and the scheduler with threads instead of processes."""

import dataclasses
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from tests import waiting
from tests.conftest import PATIENCE_SECONDS, ScriptedServer
from tests.faults import environment

from mlimages.core.params import Download, Machine, Params
from mlimages.core.publish import MANIFEST, sha256
from mlimages.core.worker_pool import WorkerPool
from mlimages.download import fetching
from mlimages.download.build import read_account
from mlimages.download.http.exchange import Exchange, FetchRequest
from mlimages.download.http.transport import Network
from mlimages.download.ledger import LedgerRow, Reason, read_ledger
from mlimages.download.lines import PendingLine, Shard
from mlimages.download.mirrors import Mirrors
from mlimages.download.run import download
from mlimages.download.schedule import hosts, outage, retry_policy, scheduler
from mlimages.download.schedule.scheduler import Scheduler
from mlimages.download.shards import ledger_path, read_shard
from mlimages.download.spool import LineResult, Spools

SHARD = Shard("train", 0, 1, 1_000_000, 0)


Lists = Callable[[Sequence[str], Sequence[str]], Path]
HOST = "http://images.example"
VAL = [f"{HOST}/val.jpg"]
NOBODY = "127.0.0.1:9"  # where connections are refused
URLS = [f"{HOST}/{number}.jpg" for number in range(23)]
RUN_DOWNLOAD = """
import pickle, sys
from mlimages.download.run import download
from mlimages.core.errors import UserError
params, machine, lists, out = pickle.loads(bytes.fromhex(sys.argv[1]))
try:
    download(params, machine, lists=lists, out=out)
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@pytest.fixture
def here(machine: Machine, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that reaches the scripted server as images.example, and hardly waits between tries."""
    monkeypatch.setattr(retry_policy, "BACKOFF_SECONDS", 0.001)
    hosts = {**server.connect_to("images.example"), "dead.example:80": NOBODY}
    return dataclasses.replace(machine, connect_to=hosts)


@pytest.fixture
def quick(params: Params) -> Download:
    """Five lines a shard and few tries. The time limits suit a busy machine."""
    return dataclasses.replace(params.download, images_per_shard=5, attempts=2, outage_seconds=0.0,
                               timeout_seconds=PATIENCE_SECONDS, deadline_seconds=PATIENCE_SECONDS)


def rows_of(out: Path, part: str) -> list[LedgerRow]:
    return [row for path in sorted((out / part).glob("*.ledger.csv")) for row in read_ledger(path)]


def serve(server: ScriptedServer, urls: list[str], jpeg: bytes, **how: Any) -> None:
    for number, url in enumerate(urls):
        server.on(url.removeprefix(HOST), body=jpeg + bytes([number]), **how)


def serve_and_hold(server: ScriptedServer, urls: list[str], jpeg: bytes, at_once: int) -> threading.Event:
    """Serve the first `at_once` of these URLs at once, the others and VAL when the returned event is set."""
    released = threading.Event()
    serve(server, urls[:at_once], jpeg)
    serve(server, urls[at_once:] + VAL, jpeg, until=released)
    return released


def command(params: Download, machine: Machine, lists: Path, out: Path) -> list[str]:
    """The command that runs this download in another process."""
    return [sys.executable, "-c", RUN_DOWNLOAD, pickle.dumps([params, machine, lists, out]).hex()]


@contextmanager
def started(params: Download, machine: Machine, lists: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the download in another process, and kill it when the block ends."""
    process = subprocess.Popen(command(params, machine, lists, out), stdout=subprocess.DEVNULL, env=environment())
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL


def straight(params: Download, machine: Machine, lists: Path, tmp_path: Path) -> bytes:
    """The manifest of an uninterrupted download with a new scratch folder."""
    one = dataclasses.replace(machine, scratch=str(tmp_path / "straight"), workers=1)
    return (download(params, one, lists=lists, out=tmp_path / "undisturbed") / MANIFEST).read_bytes()


def no_final_name(tmp_path: Path) -> None:
    """Nothing that was not finished has a name that says so: every shard and ledger is whole, and as its account says.
    """
    assert not (tmp_path / "images").exists()
    accounts_are_true(tmp_path)
    for shard in tmp_path.glob("scratch/download/*/out/*/*.tar"):
        sizes = [len(member.body) for member in read_shard(shard)]
        if ledger_path(shard).exists():
            assert sizes == [row.bytes for row in read_ledger(ledger_path(shard)) if row.reason is Reason.OK]


def accounts_are_true(tmp_path: Path) -> None:
    """Every finished shard has the sha256s of its account."""
    for account in tmp_path.glob("scratch/download/*/accounts/*.json"):
        part, _, number = account.stem.partition("-")
        shard = account.parents[1] / "out" / part / f"{number}.tar"
        assert read_account(account)["sha256"] == {"tar": sha256(shard), "ledger": sha256(ledger_path(shard))}


wait_for = partial(waiting.wait_for, seconds=PATIENCE_SECONDS)


def kill_amid_the_second_shard(params: Download, machine: Machine, server: ScriptedServer, lists_of: Lists,
                               jpeg: bytes, tmp_path: Path) -> Path:
    """Download to `tmp_path / "images"` until one shard is finished and of the next one something is kept.

    Returns the lists, of URLS and VAL, all of which the server has from then on.
    """
    released = serve_and_hold(server, URLS, jpeg, at_once=6)
    lists = lists_of(URLS, VAL)
    with started(params, machine, lists, tmp_path / "images"):
        wait_for(lambda: all([*tmp_path.glob(f"scratch/download/*/{name}")]
                             for name in ("accounts/train-00000.json", "spools/train-00001.journal")))
    released.set()
    return lists


class Outcome(NamedTuple):
    """The result of a URL and the number of its requests. `image` is bytes, extension, width and height."""

    reason: Reason
    http_status: int
    requests: int
    image: tuple[bytes, str, int, int] | None


class ThreadPool:
    """Threads instead of the processes of a WorkerPool, so that a test can observe and change them.

    Processes are tested in tests/core/test_worker_pool.py, test_download.py and test_faults.py.
    """

    workers, threads = 1, 32

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._pool = ThreadPoolExecutor(self.threads)
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.requests: Counter[int] = Counter()
        self.killed = 0

    def send(self, worker: int, task: Any) -> None:
        if isinstance(task, FetchRequest):
            self.requests[task.number] += 1
        self._pool.submit(self._work, task)

    def _work(self, task: Any) -> None:
        try:
            run = self._exchange.get if isinstance(task, FetchRequest) else self._exchange.probe
            self._results.put(run(task))
        except Exception as error:
            self._results.put(error)

    def is_up(self, worker: int) -> bool:
        return True

    def kill(self, worker: int) -> None:
        self.killed += 1

    def receive(self, seconds: float) -> list[tuple[int, Any]]:
        try:
            result = self._results.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return []
        if isinstance(result, Exception):
            raise result
        return [(0, result)]


class WorkThreads(ThreadPool):
    """Threads that do what worker processes do, builds of shards too: a download starts at once."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        super().__init__(cast(Exchange, None))
        self._run = work

    def _work(self, task: Any) -> None:
        try:
            self._results.put(self._run(task))
        except Exception as error:
            self._results.put(error)


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads in this process use threads instead of worker processes."""

    @contextmanager
    def open_pool(make_worker: Callable[[], Callable[[Any], Any]], machine: Machine) -> Iterator[WorkThreads]:
        pool = WorkThreads(make_worker())
        with pool._pool:
            yield pool

    monkeypatch.setattr(fetching, "open_worker_pool", open_pool)


class Fetcher:
    """Fetches URLs with these parameters. `scheduler` is that of the last run."""

    def __init__(self, params: Download, connect_to: Mapping[str, str], folder: Path,
                 proxies: Mapping[str, str]) -> None:
        self.params, self._folder = params, folder
        self.hosts = dict(connect_to)
        folder.mkdir(exist_ok=True)
        self.pool = ThreadPool(Exchange(params, Network(self.hosts, proxies), folder))
        self.entries: dict[int, LineResult] = {}
        self.other_work: Callable[[int], int] = lambda worker: 0
        self.ended: list[str] = []

    def _on_line_result(self, line: PendingLine, entry: LineResult) -> None:
        assert entry.line not in self.entries
        self.entries[entry.line] = entry
        self.ended.append(line.address.url)

    def _lines(self, urls: Iterable[str]) -> Iterator[PendingLine]:
        mirrors = Mirrors(self.params.mirrors, self._folder)
        for number, url in enumerate(urls):
            yield PendingLine(number, SHARD, number, url, mirrors.addresses(url), self.params.deadline_seconds)

    def run(self, urls: Iterable[str]) -> Iterator[None]:
        """Fetch all, step by step."""
        self.entries.clear()
        self.ended.clear()
        self.pool.requests.clear()
        self.scheduler = Scheduler(self.params, cast(WorkerPool, self.pool), on_line_result=self._on_line_result,
                                   on_result=lambda result: None, on_lost=lambda worker: None,
                                   other_work=lambda worker: self.other_work(worker))
        lines = self._lines(urls)
        yield from self.scheduler.run(lambda: next(lines, None), lambda: False)

    def fetch_all(self, urls: Sequence[str]) -> list[Outcome]:
        for _ in self.run(urls):
            pass
        return [self._outcome(self.entries[number]) for number in range(len(urls))]

    def fetch(self, url: str) -> Outcome:
        return self.fetch_all([url])[0]

    def _outcome(self, entry: LineResult) -> Outcome:
        image = entry.image and (Spools(self._folder).read(entry.image), entry.image.extension, entry.image.width,
                                  entry.image.height)
        return Outcome(entry.reason, entry.http_status, self.pool.requests[entry.line], image)


MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any waiting between tries and probes."""
    monkeypatch.setattr(retry_policy, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(outage, "PROBE_EVERY_SECONDS", 0.2)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses of unreachable hosts."""
    monkeypatch.setattr(hosts, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(hosts, "LAST_PAUSE_SECONDS", 2 * scheduler.TICK_SECONDS)


@pytest.fixture
def fetcher(params: Params, server: ScriptedServer, tmp_path: Path, impatient: None) -> MakeFetcher:
    """Makes a Fetcher that reaches the scripted server under several host names."""
    hosts = server.connect_to("images.example", "other.example", "a.pictures.example", "b.pictures.example")

    def make(*, also: Mapping[str, str] | None = None, proxies: Mapping[str, str] | None = None,
             **changes: Any) -> Fetcher:
        download = dataclasses.replace(params.download, **{"attempts": 3, "outage_seconds": 0.0, **changes})
        return Fetcher(download, {**hosts, **(also or {})}, tmp_path / "spools", proxies or {})

    return make
