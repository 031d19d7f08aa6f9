"""Decides which request is sent next. One scheduler in the main process serves all worker processes.

Lines wait in the queues of their hosts, not in threads, so a slow, refusing or unreachable host delays no other.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlimages.core.params import Download
from mlimages.core.worker_pool import LostWorker, WorkerPool
from mlimages.download.http.exchange import FetchRequest, FetchResult, ProbeRequest, ProbeResult
from mlimages.download.ledger import Reason
from mlimages.download.lines import PendingLine
from mlimages.download.schedule.hosts import Domain, Domains, Host, Slot
from mlimages.download.schedule.outage import Outage
from mlimages.download.schedule.retry_policy import REFUSED_STATUSES, UNREACHED, Action, Decision, decide
from mlimages.download.schedule.suspects import Suspects
from mlimages.download.schedule.timers import Timers
from mlimages.download.spool import LineResult, StoredImage

WINDOW = 50_000  # lines that are read ahead
RECENT_ANSWERS = 200
HANG_SECONDS, TICK_SECONDS = 30.0, 0.25


class Scheduler:
    """Fetches lines with a pool of workers and calls `on_line_result(line, result)` once for each line.

    The pool may also run tasks of the caller: `on_result(result)` receives their results, `on_lost(worker)` is called
    when a worker dies, and `other_work(worker)` is the number of such tasks in a worker. Each occupies a thread, and
    none runs beside a suspect. `recent` holds the reasons of the last responses without redirects.
    """

    def __init__(self, params: Download, pool: WorkerPool, *, on_line_result: Callable[[PendingLine, LineResult], None],
                 on_result: Callable[[Any], None], on_lost: Callable[[int], None],
                 other_work: Callable[[int], int]) -> None:
        self._params, self._pool = params, pool
        self._on_line_result, self._on_result = on_line_result, on_result
        self._on_lost, self._other_work = on_lost, other_work
        self.domains, self.pending = Domains(params, pool.workers), 0
        self.outage = Outage(params.outage_seconds)
        self.recent: deque[Reason] = deque(maxlen=RECENT_ANSWERS)
        self._in_flight: list[dict[int, tuple[PendingLine, Host, Slot]]] = [{} for _ in range(pool.workers)]
        self._suspects = Suspects(self.domains)
        self._up_at = [0.0] * pool.workers
        self._waiting: dict[Domain, None] = {}
        self._suspended: set[Host] = set()
        self._timers: Timers[PendingLine | Host | Domain] = Timers()
        self._checked_at, self._stopping = 0.0, False

    def run(self, next_line: Callable[[], PendingLine | None], busy: Callable[[], bool]) -> Iterator[None]:
        """Fetch the lines that `next_line()` returns and continue while `busy()`. Yields after each round of results.

        `next_line` may return more lines after None, as long as the caller is busy.
        """
        while True:
            while self.pending < WINDOW and (line := next_line()) is not None:
                self.pending += 1
                self._enqueue(line)
            if not self.pending and not busy():
                return
            self._wake()
            results = self._pool.receive(self._timers.wait(time.monotonic(), TICK_SECONDS))
            self._take_back({worker: result for worker, result in results if isinstance(result, LostWorker)})
            for worker, result in results:
                if isinstance(result, FetchResult):
                    self._fetched(worker, result)
                elif isinstance(result, ProbeResult):
                    self.outage.probed(result.reached, time.monotonic())
                elif not isinstance(result, LostWorker):
                    self._on_result(result)
            yield

    def stopped(self) -> bool:
        """Send no more requests. Returns whether all requests in progress have ended."""
        self._stopping = True
        return not any(self._in_flight)

    def tries_alone(self, worker: int) -> bool:
        """Whether a worker is reserved for a suspect, so that it must not get other work."""
        return worker == 0 and self._suspects.due(time.monotonic())

    def _enqueue(self, line: PendingLine, *, first: bool = False) -> None:
        """Add a line to the queue of its host, or a suspect to the queue of suspects."""
        host = self.domains.host_of(line.url)
        if host.suspended_at is not None:
            self._suspended.add(host)
        if line.lost:
            self._suspects.add(line, first=first)
            return
        (host.lines.appendleft if first else host.lines.append)(line)
        host.domain.ready[host] = None
        self._dispatch(host.domain)

    def _dispatch(self, domain: Domain) -> None:
        """Send the requests that the domain admits now; set a timer if the rate limit delays the next one."""
        now = time.monotonic()
        if self._stopping or self.outage.down_since is not None:
            return
        if self._suspects.reserves(domain, now):
            self._waiting[domain] = None
            return
        while domain.has_free_slot and (host := domain.next_host(now)):
            if (ready_at := domain.rate_limiter.ready_at()) > now:
                if domain.timer is None or ready_at < domain.timer:
                    domain.timer = ready_at
                    self._timers.add(ready_at, domain)
                return
            slot = domain.take_slot(host, self._has_room, now)
            if slot is None:
                self._waiting[domain] = None
                return
            domain.rate_limiter.sent(now)
            self._send(host.lines.popleft(), host, slot, slot.worker, now)

    def _has_room(self, worker: int) -> bool:
        busy = len(self._in_flight[worker]) + self._other_work(worker)
        return busy < self._pool.threads and not self.tries_alone(worker)

    def _send(self, line: PendingLine, host: Host, slot: Slot, worker: int, now: float) -> None:
        host.in_flight += 1
        line.sent_at = now
        self._in_flight[worker][line.number] = line, host, slot
        self._pool.send(worker, FetchRequest(line.number, line.url, (host.domain.name, slot.number),
                                    min(line.seconds_left, self._params.deadline_seconds), line.shard.name,
                                    line.address.md5, line.address.orientation))

    def _wake(self) -> None:
        """Process the timers that are due, and the domains that wait for a worker."""
        now = time.monotonic()
        self._try_suspect(now)
        for item in self._timers.due(now):
            if isinstance(item, PendingLine):
                self._enqueue(item, first=True)
            elif isinstance(item, Host):
                item.domain.ready[item] = None
                self._dispatch(item.domain)
            else:
                item.timer = None
                self._dispatch(item)
        for _ in range(len(self._waiting)):  # each once, while a worker has room
            if not any(map(self._has_room, range(self._pool.workers))):
                break
            domain = next(iter(self._waiting))
            del self._waiting[domain]
            self._dispatch(domain)
        if now - self._checked_at > TICK_SECONDS:
            self._checked_at = now
            self._end_hangs(now)
            self._check_network(now)

    def _fetched(self, worker: int, result: FetchResult) -> None:
        now = time.monotonic()
        line, host, slot = self._in_flight[worker].pop(result.number)
        self._suspects.ended(line)
        domain = host.domain
        domain.give_back(slot)
        host.in_flight -= 1
        line.seconds_left -= result.seconds
        if not result.redirect:
            self.recent.append(result.reason)
        failing = refused = result.http_status in REFUSED_STATUSES or result.reason is Reason.TIMEOUT
        if result.http_status:
            self.outage.answered(host.name, line.url, now)
            failing = host.answered(line.number, erred=result.http_status >= 500 and not refused) or refused
        if failing:
            domain.rate_limiter.refused(line.sent_at, now, result.retry_after or 0.0)
        during_outage = (not result.http_status and result.reason in UNREACHED
                         and self.outage.down_within(line.sent_at))
        decision = Decision(Action.PARK) if during_outage else decide(line, host, result, self._params, now)
        if decision.action is Action.KEEP:
            self._finish(line, Reason.OK, result.http_status, result.image)
        elif decision.action is Action.FOLLOW:
            line.url = result.redirect
            self._enqueue(line, first=True)
        elif decision.action is Action.BACK_OFF:
            self._timers.add(now + decision.seconds, line)
        elif decision.action is Action.PARK:
            self.outage.park(line, result.reason, now)
        elif decision.action is Action.FAIL:
            self._failed(line, result.reason, result.http_status, result.detail)
        else:
            self._enqueue(line, first=decision.action is Action.RETRY_FIRST)
        self._resume(host, now)

    def _resume(self, host: Host, now: float) -> None:
        """Schedule the waiting lines of a host, now or when its pause ends."""
        if host.lines and host.not_before > now:
            self._timers.add(host.not_before, host)
        elif host.lines:
            host.domain.ready[host] = None
        self._dispatch(host.domain)

    def _failed(self, line: PendingLine, reason: Reason, status: int, detail: str = "") -> None:
        """An address failed: try the next one, or record the failure."""
        if line.addresses:
            line.next_address(self._params.deadline_seconds)
            self._enqueue(line)
        else:
            self._finish(line, reason, status, None, detail)

    def _finish(self, line: PendingLine, reason: Reason, status: int, image: StoredImage | None,
                detail: str = "") -> None:
        self.pending -= 1
        self._on_line_result(line, LineResult(line.line, reason, status, line.address.mirror, image, detail,
                                             line.source))

    def _check_network(self, now: float) -> None:
        """Probe the network if no host answers, and fail the lines that do not wait because of an outage."""
        if url := self.outage.probe(now, bool(self._suspended)):
            self._pool.send(0, ProbeRequest(url))
        outage_ended = self.outage.ended()
        for parked, again in self.outage.settled():
            if again:
                parked.line.reset(self._params.deadline_seconds)
                self._enqueue(parked.line)
            else:
                self._failed(parked.line, parked.reason, 0)
        if outage_ended:
            for host in self._suspended:
                host.suspended_at = host.suspended_at and now
            for host in [host for domain in self.domains.values() for host in domain.hosts.values()]:
                self._resume(host, now)
        awaited = self._suspects.hosts()
        self._suspended = {host for host in self._suspended
                           if host.suspended_at is not None and (host.lines or host.in_flight or host in awaited)}
        for host in [*self._suspended]:
            since = host.suspended_at or now
            if now > since + self._params.outage_seconds and self.outage.alive_since(since):
                for line in [*self._suspects.give_up(host), *host.give_up(now)]:
                    self._failed(line, host.last_reason, 0)

    def _end_hangs(self, now: float) -> None:
        for worker, in_progress in enumerate(self._in_flight):
            if not self._pool.is_up(worker):
                self._up_at[worker] = now  # the tasks sent there have not started
            up_at = self._up_at[worker]
            if any(now > max(line.sent_at, up_at) + max(line.seconds_left, 0) + HANG_SECONDS
                   for line, _, _ in in_progress.values()):
                self._pool.kill(worker)

    def _take_back(self, lost: Mapping[int, LostWorker]) -> None:
        """Handle dead workers. All their lines are taken back before a successor gets a task."""
        if 0 in lost:
            self._suspects.alone = None
            self.outage.probe_lost()
        in_progress = {worker: self._in_flight[worker] for worker in lost}
        self._in_flight = [{} if worker in lost else lines for worker, lines in enumerate(self._in_flight)]
        for worker, lines in in_progress.items():
            self._lost(worker, lines, node_lost=lost[worker].with_node)

    def _lost(self, worker: int, in_progress: Mapping[int, tuple[PendingLine, Host, Slot]], *, node_lost: bool) -> None:
        """Make the lines of a dead worker suspects, or queue them again if its whole node was lost."""
        alone = len(in_progress) == 1 and not self._other_work(worker)
        self._on_lost(worker)
        for line, host, slot in in_progress.values():
            host.domain.give_back(slot)
            host.in_flight -= 1
            line.restart()
            if node_lost:
                self._enqueue(line, first=True)
                continue
            line.lost += 1
            if line.lost == 1 or not alone:
                self._enqueue(line)
            else:
                self._failed(line, Reason.CRASHED, 200)
        for host in {host for _, host, _ in in_progress.values()}:
            self._resume(host, time.monotonic())

    def _try_suspect(self, now: float) -> None:
        """Send the next suspect to the idle worker 0 once its domain has a free slot and its rate limit allows it."""
        blocked = self._stopping or self.outage.down_since is not None or self._in_flight[0] or self._other_work(0)
        if blocked or (suspect := self._suspects.next(now)) is None:
            return
        line, host = suspect
        domain = host.domain
        if domain.rate_limiter.ready_at() <= now and (slot := domain.take_slot(host, lambda worker: True, now)):
            self._suspects.begin(line)
            domain.rate_limiter.sent(now)
            self._send(line, host, slot, 0, now)
            self._dispatch(domain)
