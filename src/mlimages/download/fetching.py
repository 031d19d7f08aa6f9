"""Runs a download: lines go to the scheduler, results to the journals, complete shards to the workers that build."""

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
from mlimages.download.kept import KeptImages
from mlimages.download.lines import PendingLine, Shard
from mlimages.download.mirrors import Mirrors
from mlimages.download.plan import Plan
from mlimages.download.report import Report
from mlimages.download.schedule.scheduler import Scheduler
from mlimages.download.spool import Journal, LineResult

STOPPING_SECONDS = 3.0  # for the requests in progress when a signal arrives
BUILDS = 3  # tries to build a shard whose worker dies
Task = FetchRequest | ProbeRequest | BuildRequest


def reuse(plan: Plan, kept: KeptImages) -> None:
    """Take over what other downloads have fetched. Raises UserError if a signal stops it."""
    reused = 0
    with Interrupts() as interrupts:
        kept.update()
        if not kept.others():
            return
        for lines in plan.reuse(kept):
            reused += lines
            if interrupts.received:
                raise _stopped(interrupts.received)
    print(f"{reused:,} list lines have results of other downloads, which are kept", flush=True)


def fetch(plan: Plan, left: int, params: Download, machine: Machine, network: Network, tables: Path) -> None:
    """Fetch the `left` lines of the plan and build its shards. The folder `tables` is for mirrors' indexes."""
    total = sum(shard.lines for shard in plan.shards)
    make_worker = partial(_worker, params, network, plan.spools)
    images = _images(plan) if machine.download_log else 0  # counting reads all accounts, and only the log needs it
    with (Report(machine, total, total - left, images) as report,
          open_worker_pool(make_worker, machine) as pool):
        _Fetching(plan, params, pool, report, Mirrors(params.mirrors, tables)).run()


def _images(plan: Plan) -> int:
    """The number of images from earlier runs."""
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
        self._numbers = itertools.count()
        self._planned, self._damaged = self._lines(), deque[PendingLine]()
        self._building: list[dict[str, BuildRequest]] = [{} for _ in range(pool.workers)]
        self._lost: Counter[Shard] = Counter()
        self._complete: deque[Shard] = deque()
        self._next_builder = itertools.cycle(range(pool.workers))

    def run(self) -> None:
        """Run until everything is done. After a signal, raises UserError once the requests in progress have ended."""
        ends = None
        with Interrupts() as interrupts:
            for _ in self._scheduler.run(self._next_line, lambda: bool(self._complete) or any(self._building)):
                self._write()
                if interrupts.received:
                    ends = ends or time.monotonic() + STOPPING_SECONDS
                    if self._scheduler.stopped() or time.monotonic() > ends:
                        raise _stopped(interrupts.received)
                self._build()
                self._report.show(self._scheduler)

    def _write(self) -> None:
        """Append the new results to the journals."""
        for shard, entries in self._unwritten.items():
            Journal(self._plan.spools, shard.name).add(entries)
            self._left[shard] -= len(entries)
            if not self._left[shard]:
                self._complete.append(shard)
        self._unwritten.clear()

    def _next_line(self) -> PendingLine | None:
        """The next line that must be fetched again or, without one, of the plan."""
        return self._damaged.popleft() if self._damaged else next(self._planned, None)

    def _lines(self) -> Iterator[PendingLine]:
        for shard in self._plan.todo:
            lines = list(self._plan.to_fetch(shard, self._mirrors, self._numbers))
            self._left[shard] = len(lines)
            if not lines:
                self._complete.append(shard)
            yield from lines

    def _on_line_result(self, line: PendingLine, entry: LineResult) -> None:
        self._unwritten[line.shard].append(entry._replace(stamp=line.stamp))
        self._report.count(line.url, entry)

    def _build(self) -> None:
        """Send complete shards to the workers in turn, except a worker that a suspect may kill."""
        able = [worker for worker in range(self._pool.workers) if not self._scheduler.tries_alone(worker)]
        while able and self._complete:
            shard = self._complete.popleft()
            del self._left[shard]
            worker = next(worker for worker in self._next_builder if worker in able)
            job = self._building[worker][shard.name] = self._plan.request(shard)
            self._pool.send(worker, job)

    def _on_built(self, built: BuildResult) -> None:
        for jobs in self._building:
            if jobs.pop(built.name, None) and built.damaged:
                shard = next(shard for shard in self._plan.todo if shard.name == built.name)
                self._left[shard] = len(built.damaged)
                self._damaged.extend(self._plan.to_fetch(shard, self._mirrors, self._numbers, again=built.damaged))
                self._report.fetch_again(shard, len(built.damaged))
        if not built.damaged:
            self._plan.done(built.name)

    def _on_lost(self, worker: int) -> None:
        """Send the builds of a dead worker to its successor."""
        for job in self._building[worker].values():
            self._lost[job.shard] += 1
            if self._lost[job.shard] == BUILDS:
                raise UserError(f"the worker process that wrote the shard {job.shard.name} was killed {BUILDS} times; "
                                f"what was fetched is kept: run the same command again; if memory is short, with "
                                f"fewer machine.workers or download.images_per_shard")
            self._pool.send(worker, job)


def _stopped(signal: str) -> UserError:
    return UserError(f"{signal} stopped the download; what was fetched until now is kept, and the same command "
                     f"goes on from there")


def _worker(params: Download, network: Network,
            spools: Path) -> Callable[[Task], FetchResult | ProbeResult | BuildResult]:
    """The function that processes the tasks of a worker."""
    exchange = Exchange(params, network, spools)

    def work(task: Task) -> Any:
        if isinstance(task, FetchRequest):
            return exchange.get(task)
        if isinstance(task, ProbeRequest):
            return exchange.probe(task)
        return build(task)

    return work
