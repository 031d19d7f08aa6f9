"""The run of a download: lines to the scheduler, outcomes to the journals, finished shards to their builders."""

import itertools
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mlimages.core.errors import UserError
from mlimages.core.parallel import open_worker_pool
from mlimages.core.params import Download, Machine
from mlimages.core.signals import Interrupts
from mlimages.core.worker_pool import WorkerPool
from mlimages.download.build import BuildRequest, BuildResult, account_path, build, read_account
from mlimages.download.http.exchange import Exchange, FetchRequest, FetchResult, ProbeRequest, ProbeResult
from mlimages.download.http.transport import Network
from mlimages.download.lines import PendingLine, Shard
from mlimages.download.mirrors import Mirrors
from mlimages.download.plan import Plan
from mlimages.download.report import Report
from mlimages.download.schedule.scheduler import Scheduler
from mlimages.download.spool import Journal, LineResult

STOPPING_SECONDS = 3.0  # for what is under way when a signal comes
BUILDS = 3  # of a shard whose worker dies
Task = FetchRequest | ProbeRequest | BuildRequest


def fetch(plan: Plan, params: Download, machine: Machine, network: Network, tables: Path) -> None:
    """Fetch all that the plan has to do, and build its shards; `tables` is where mirrors' indexes are kept."""
    left = sum(plan.left(shard) for shard in plan.todo)
    total = sum(shard.lines for shard in plan.shards)
    make = partial(_worker, params, network, plan.spools)
    images = _images(plan) if machine.download_log else 0  # which reads all accounts, and no one else asks
    with (Report(machine, total, total - left, images) as report,
          open_worker_pool(make, machine) as pool):
        _Fetching(plan, params, pool, report, Mirrors(params.mirrors, tables)).run()


def _images(plan: Plan) -> int:
    """How many images earlier runs have got."""
    todo = set(plan.todo)
    return sum(plan.images(shard) if shard in todo else read_account(account_path(plan.accounts, shard))["images"]
               for shard in plan.shards)


class _Fetching:
    def __init__(self, plan: Plan, params: Download, pool: WorkerPool, report: Report, mirrors: Mirrors) -> None:
        self._plan, self._pool, self._report, self._mirrors = plan, pool, report, mirrors
        self._scheduler = Scheduler(params, pool, on_line_result=self._on_line_result, on_result=self._on_built,
                                    on_lost=self._on_lost, other_work=lambda worker: len(self._building[worker]))
        self._left: dict[Shard, int] = {}
        self._unwritten: defaultdict[Shard, list[LineResult]] = defaultdict(list)
        self._building: list[dict[str, BuildRequest]] = [{} for _ in range(pool.workers)]
        self._lost: Counter[Shard] = Counter()
        self._complete: deque[Shard] = deque()
        self._ends: float | None = None
        self._next_builder = itertools.cycle(range(pool.workers))

    def run(self) -> None:
        """Until all is done; UserError, once what is under way has come, where a signal stops it."""
        with Interrupts() as interrupts:
            for _ in self._scheduler.run(self._lines(), lambda: bool(self._complete) or any(self._building)):
                self._write()
                if interrupts.received:
                    self._stop(interrupts.received)
                self._build()
                self._report.show(self._scheduler)

    def _write(self) -> None:
        """Note in the journals what has come."""
        for shard, entries in self._unwritten.items():
            Journal(self._plan.spools, shard.name).add(entries)
            self._left[shard] -= len(entries)
            if not self._left[shard]:
                self._complete.append(shard)
        self._unwritten.clear()

    def _stop(self, signal: str) -> None:
        self._ends = self._ends or time.monotonic() + STOPPING_SECONDS
        if self._scheduler.stopped() or time.monotonic() > self._ends:
            raise UserError(f"{signal} stopped the download; what was fetched until now is kept, and the same command "
                            f"goes on from there")

    def _lines(self) -> Iterator[PendingLine]:
        tickets = itertools.count()
        for shard in self._plan.todo:
            self._left[shard] = self._plan.left(shard)
            if self._left[shard]:
                yield from self._plan.to_fetch(shard, self._mirrors, tickets)
            else:
                self._complete.append(shard)

    def _on_line_result(self, line: PendingLine, entry: LineResult) -> None:
        self._unwritten[line.shard].append(entry)
        self._report.count(line.url, entry)

    def _build(self) -> None:
        """Hand complete shards out to be written, in turn, but to no worker that may be killed by a line it tries."""
        able = [worker for worker in range(self._pool.workers) if not self._scheduler.tries_alone(worker)]
        while able and self._complete:
            shard = self._complete.popleft()
            del self._left[shard]
            worker = next(worker for worker in self._next_builder if worker in able)
            job = self._building[worker][shard.name] = self._plan.job(shard)
            self._pool.send(worker, job)

    def _on_built(self, built: BuildResult) -> None:
        for jobs in self._building:
            jobs.pop(built.name, None)
        self._plan.done(built.name)

    def _on_lost(self, worker: int) -> None:
        """Give the builds of a worker that died to its successor."""
        for job in self._building[worker].values():
            self._lost[job.shard] += 1
            if self._lost[job.shard] == BUILDS:
                raise UserError(f"the worker process that wrote the shard {job.shard.name} was killed {BUILDS} times; "
                                f"what was fetched is kept: run the same command again, where memory is short with "
                                f"fewer machine.workers or download.images_per_shard")
            self._pool.send(worker, job)


def _worker(params: Download, network: Network,
            spools: Path) -> Callable[[Task], FetchResult | ProbeResult | BuildResult]:
    """What a worker process does with a task."""
    exchange = Exchange(params, network, spools)

    def work(task: Task) -> Any:
        if isinstance(task, FetchRequest):
            return exchange.get(task)
        if isinstance(task, ProbeRequest):
            return exchange.probe(task)
        return build(task)

    return work
