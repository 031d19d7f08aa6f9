"""Decides at every moment whom to ask for what: the one place that knows all domains, for all worker processes.

Lines wait in queues of their hosts, not in threads: a host that is slow, refuses or is away holds up nobody else.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlimages.core.params import Download
from mlimages.core.worker_pool import LostWorker, WorkerPool
from mlimages.download.http.exchange import Answer, Get, Probe, Probed
from mlimages.download.ledger import Reason
from mlimages.download.lines import Line
from mlimages.download.schedule.hosts import Domain, Domains, Host, Slot
from mlimages.download.schedule.outage import Outage
from mlimages.download.schedule.retry_policy import REFUSED_STATUSES, UNREACHED, Action, Verdict, judge
from mlimages.download.schedule.suspects import Suspects
from mlimages.download.schedule.timers import Timers
from mlimages.download.spool import Entry, Stored

WINDOW = 50_000  # lines that are read ahead
RECENT_ANSWERS = 200
HANG_SECONDS, TICK_SECONDS = 30.0, 0.25


class Scheduler:
    """Fetches lines through a pool of workers; `on_entry(line, entry)` is called once for each, as they end.

    `on_result(result)` takes what workers return of tasks that are not the scheduler's own, `on_lost(worker)` hears of
    workers that died, and `other_work(worker)` says how many such tasks one has: each takes a thread there, and none
    runs beside a suspect. `recent` has the reasons of the last answers, redirects aside.
    """

    def __init__(self, params: Download, pool: WorkerPool, *, on_entry: Callable[[Line, Entry], None],
                 on_result: Callable[[Any], None], on_lost: Callable[[int], None],
                 other_work: Callable[[int], int]) -> None:
        self._params, self._pool = params, pool
        self._on_entry, self._on_result, self._on_lost, self._other_work = on_entry, on_result, on_lost, other_work
        self.domains, self.pending = Domains(params, pool.workers), 0
        self.outage = Outage(params.outage_seconds)
        self.recent: deque[Reason] = deque(maxlen=RECENT_ANSWERS)
        self._in_flight: list[dict[int, tuple[Line, Host, Slot]]] = [{} for _ in range(pool.workers)]
        self._suspects = Suspects(self.domains)
        self._up_at = [0.0] * pool.workers
        self._hungry: dict[Domain, None] = {}
        self._suspended: set[Host] = set()
        self._timers: Timers[Line | Host | Domain] = Timers()
        self._looked_at, self._stopping = 0.0, False

    def run(self, lines: Iterator[Line], busy: Callable[[], bool]) -> Iterator[None]:
        """Fetch all lines, and go on while `busy`; yields after each round of results."""
        exhausted = False
        while not exhausted or self.pending or busy():
            while not exhausted and self.pending < WINDOW:
                line = next(lines, None)
                if line is None:
                    exhausted = True
                else:
                    self.pending += 1
                    self._enqueue(line)
            self._wake()
            results = self._pool.receive(self._timers.wait(time.monotonic(), TICK_SECONDS))
            self._take_back({worker: result for worker, result in results if isinstance(result, LostWorker)})
            for worker, result in results:
                if isinstance(result, Answer):
                    self._answered(worker, result)
                elif isinstance(result, Probed):
                    self.outage.probed(result.reached, time.monotonic())
                elif not isinstance(result, LostWorker):
                    self._on_result(result)
            yield

    def stopped(self) -> bool:
        """From the first call on nobody is asked any more; whether all answers that were under way have come."""
        self._stopping = True
        return not any(self._in_flight)

    def tries_alone(self, worker: int) -> bool:
        """Whether a suspect is there now, or is the next to be: no place for other work."""
        return worker == 0 and self._suspects.due(time.monotonic())

    def _enqueue(self, line: Line, *, first: bool = False) -> None:
        """Let a line wait for its host, or, a suspect, for its turn."""
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
        """Send what the domain admits now; where only time is missing, come back then."""
        now = time.monotonic()
        if self._stopping or self.outage.away_since is not None:
            return
        if self._suspects.hold(domain, now):
            self._hungry[domain] = None
            return
        while domain.has_free_slot and (host := domain.next_host(now)):
            if (ready_at := domain.pace.ready_at()) > now:
                if domain.timer is None or ready_at < domain.timer:
                    domain.timer = ready_at
                    self._timers.add(ready_at, domain)
                return
            slot = domain.take_slot(host, self._has_room, now)
            if slot is None:
                self._hungry[domain] = None
                return
            domain.pace.sent(now)
            self._send(host.lines.popleft(), host, slot, slot.worker, now)

    def _has_room(self, worker: int) -> bool:
        busy = len(self._in_flight[worker]) + self._other_work(worker)
        return busy < self._pool.threads and not self.tries_alone(worker)

    def _send(self, line: Line, host: Host, slot: Slot, worker: int, now: float) -> None:
        host.in_flight += 1
        line.sent_at = now
        self._in_flight[worker][line.number] = line, host, slot
        self._pool.send(worker, Get(line.number, line.url, (host.domain.name, slot.number),
                                    min(line.seconds_left, self._params.deadline_seconds), line.shard.name,
                                    line.address.md5, line.address.turn))

    def _wake(self) -> None:
        """Everything whose time, or turn, has come."""
        now = time.monotonic()
        self._try_a_suspect(now)
        for what in self._timers.due(now):
            if isinstance(what, Line):
                self._enqueue(what, first=True)
            elif isinstance(what, Host):
                what.domain.ready[what] = None
                self._dispatch(what.domain)
            else:
                what.timer = None
                self._dispatch(what)
        for _ in range(len(self._hungry)):  # each once, while there is room for any
            if not any(map(self._has_room, range(self._pool.workers))):
                break
            domain = next(iter(self._hungry))
            del self._hungry[domain]
            self._dispatch(domain)
        if now - self._looked_at > TICK_SECONDS:
            self._looked_at = now
            self._end_hangs(now)
            self._watch_the_network(now)

    def _answered(self, worker: int, answer: Answer) -> None:
        now = time.monotonic()
        line, host, slot = self._in_flight[worker].pop(answer.number)
        self._suspects.ended(line)
        domain = host.domain
        domain.give_back(slot)
        host.in_flight -= 1
        line.seconds_left -= answer.seconds
        if not answer.redirect:
            self.recent.append(answer.reason)
        errs = refused = answer.http_status in REFUSED_STATUSES or answer.reason is Reason.TIMEOUT
        if answer.http_status:
            self.outage.answered(host.name, line.url, now)
            errs = host.answered(line.number, erred=answer.http_status >= 500 and not refused) or refused
        if errs:
            domain.pace.refused(line.sent_at, now, answer.retry_after or 0.0)
        met_no_network = (not answer.http_status and answer.reason in UNREACHED
                          and self.outage.away_within(line.sent_at))
        verdict = Verdict(Action.PARK) if met_no_network else judge(line, host, answer, self._params, now)
        if verdict.action is Action.KEEP:
            self._finish(line, Reason.OK, answer.http_status, answer.stored)
        elif verdict.action is Action.FOLLOW:
            line.url = answer.redirect
            self._enqueue(line, first=True)
        elif verdict.action is Action.BACK_OFF:
            self._timers.add(now + verdict.seconds, line)
        elif verdict.action is Action.PARK:
            self.outage.park(line, answer.reason, now)
        elif verdict.action is Action.FAIL:
            self._failed(line, answer.reason, answer.http_status, answer.detail)
        else:
            self._enqueue(line, first=verdict.action is Action.FIRST)
        self._revive(host, now)

    def _revive(self, host: Host, now: float) -> None:
        """Let a host's waiting lines be looked at again, now or when its pause ends."""
        if host.lines and host.not_before > now:
            self._timers.add(host.not_before, host)
        elif host.lines:
            host.domain.ready[host] = None
        self._dispatch(host.domain)

    def _failed(self, line: Line, reason: Reason, status: int, detail: str = "") -> None:
        """One address gave no image: go on to the next, or record it."""
        if line.addresses:
            line.next_address(self._params.deadline_seconds)
            self._enqueue(line)
        else:
            self._finish(line, reason, status, None, detail)

    def _finish(self, line: Line, reason: Reason, status: int, stored: Stored | None, detail: str = "") -> None:
        self.pending -= 1
        self._on_entry(line, Entry(line.line, reason, status, line.address.mirror, stored, detail))

    def _watch_the_network(self, now: float) -> None:
        """Probe where nobody has answered for a while; end the waits that are not due to the network."""
        if url := self.outage.probe(now, bool(self._suspended)):
            self._pool.send(0, Probe(url))
        was_away = self.outage.ended()
        for parked, again in self.outage.settled():
            if again:
                parked.line.reset(self._params.deadline_seconds)
                self._enqueue(parked.line)
            else:
                self._failed(parked.line, parked.reason, 0)
        if was_away:
            for host in self._suspended:
                host.suspended_at = host.suspended_at and now
            for host in [host for domain in self.domains.values() for host in domain.hosts.values()]:
                self._revive(host, now)
        awaited = self._suspects.hosts()
        self._suspended = {host for host in self._suspended
                           if host.suspended_at is not None and (host.lines or host.in_flight or host in awaited)}
        for host in [*self._suspended]:
            since = host.suspended_at or now
            if now > since + self._params.outage_seconds and self.outage.alive_since(since):
                for line in [*self._suspects.give_up(host), *host.give_up(now)]:
                    self._failed(line, host.last_reason, 0)

    def _end_hangs(self, now: float) -> None:
        for worker, under_way in enumerate(self._in_flight):
            if not self._pool.is_up(worker):
                self._up_at[worker] = now  # what was sent there has not begun
            up_at = self._up_at[worker]
            if any(now > max(line.sent_at, up_at) + max(line.seconds_left, 0) + HANG_SECONDS
                   for line, _, _ in under_way.values()):
                self._pool.kill(worker)

    def _take_back(self, lost: Mapping[int, LostWorker]) -> None:
        """The lines of workers that died, of all of them before anything is sent to the successor of one."""
        if 0 in lost:
            self._suspects.alone = None
            self.outage.probe_lost()
        under_way = {worker: self._in_flight[worker] for worker in lost}
        self._in_flight = [{} if worker in lost else lines for worker, lines in enumerate(self._in_flight)]
        for worker, lines in under_way.items():
            self._lost(worker, lines, blameless=lost[worker].with_node)

    def _lost(self, worker: int, under_way: Mapping[int, tuple[Line, Host, Slot]], *, blameless: bool) -> None:
        """The lines of a worker that died become suspects, or wait again where its whole node was lost."""
        alone = len(under_way) == 1 and not self._other_work(worker)
        self._on_lost(worker)
        for line, host, slot in under_way.values():
            host.domain.give_back(slot)
            host.in_flight -= 1
            line.restart()
            if blameless:
                self._enqueue(line, first=True)
                continue
            line.lost += 1
            if line.lost == 1 or not alone:
                self._enqueue(line)
            else:
                self._failed(line, Reason.CRASHED, 200)
        for host in {host for _, host, _ in under_way.values()}:
            self._revive(host, time.monotonic())

    def _try_a_suspect(self, now: float) -> None:
        """Send the next suspect, alone to worker 0, once its host has a free slot and its domain's pace allows it."""
        blocked = self._stopping or self.outage.away_since is not None or self._in_flight[0] or self._other_work(0)
        if blocked or (suspect := self._suspects.next(now)) is None:
            return
        line, host = suspect
        if host.domain.pace.ready_at() <= now and (slot := host.domain.take_slot(host, lambda worker: True, now)):
            self._suspects.begin(line)
            host.domain.pace.sent(now)
            self._send(line, host, slot, 0, now)
            self._dispatch(host.domain)
