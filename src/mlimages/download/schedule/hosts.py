"""The state of hosts and domains: their queues, connections, rate limits and health.

Politeness applies to a registrable domain: its hosts share connections and rate limit. Health applies to a host. If
three different lines in a row cannot reach a host, it is suspended and tried again after pauses that double. While
other hosts answer, its waiting lines fail in batches: 1,000 after download.outage_seconds, and twice as many after
each further period. A dead host thus ends soon, and an outage of an hour costs a large host few lines.
"""

import math
import random
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from urllib.parse import urlsplit

from mlimages.acquire.formats import LOCAL
from mlimages.core.params import Download
from mlimages.download.http.address_guard import Failure, ascii_host
from mlimages.download.ledger import Reason
from mlimages.download.lines import PendingLine
from mlimages.download.schedule.politeness import RateLimiter, registrable_domain

LINES_IN_A_ROW = 3
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 1.0, 600.0
FIRST_GIVEN_UP = 1000  # lines
FORGET_ABOVE = 10_000  # domains
READERS = 16  # of local pictures, at most, in each worker
IDLE_SECONDS = 600.0  # after which a domain is removed even if it was slow or unreachable


class Host:
    """One host name: its queue of lines and its health.

    Until its first response, and while it is suspended, it gets one request at a time.
    """

    def __init__(self, name: str, domain: "Domain") -> None:
        self.name, self.domain = name, domain
        self.lines: deque[PendingLine] = deque()
        self.in_flight = 0
        self.not_before = 0.0
        self.suspended_at: float | None = None  # or when its waiting lines last failed
        self.last_reason = Reason.CONNECT
        self._has_answered = name == LOCAL  # files are there from the start
        self._unreached_by: set[int] = set()
        self._errors_of: set[int] = set()
        self._pause, self._to_give_up = FIRST_PAUSE_SECONDS, FIRST_GIVEN_UP

    def admits(self, now: float) -> bool:
        """Whether the health of the host allows one more request now."""
        return now >= self.not_before and (self.in_flight == 0 or (self._has_answered and self.suspended_at is None))

    def answered(self, number: int, *, erred: bool) -> bool:
        """Record a response. Returns whether LINES_IN_A_ROW different lines in a row got a server error."""
        self._has_answered, self.suspended_at = True, None
        self._pause, self._to_give_up = FIRST_PAUSE_SECONDS, FIRST_GIVEN_UP
        self._unreached_by.clear()
        if not erred:
            self._errors_of.clear()
        elif len(self._errors_of) < LINES_IN_A_ROW:
            self._errors_of.add(number)
        return len(self._errors_of) == LINES_IN_A_ROW

    def failed(self, number: int, now: float, reason: Reason) -> bool:
        """Record that a line could not reach the host. Returns whether the host is suspended now."""
        self.last_reason = reason
        self._unreached_by.add(number)
        if self.suspended_at is None and len(self._unreached_by) < LINES_IN_A_ROW:
            return False
        if self.suspended_at is None:
            self.suspended_at = now
        self.not_before = now + self._pause * random.uniform(0.75, 1.0)  # noqa: S311 - jitter
        self._pause = min(2 * self._pause, LAST_PAUSE_SECONDS)
        return True

    def give_up(self, now: float) -> list[PendingLine]:
        """Remove and return the lines that fail now, those that have waited longest."""
        ended = [self.lines.popleft() for _ in range(min(len(self.lines), self._to_give_up))]
        self.suspended_at, self._to_give_up = now, 2 * self._to_give_up
        return ended


class Slot:
    """One connection of a domain, the worker that holds it, and the host it is open to."""

    def __init__(self, number: int, worker: int) -> None:
        self.number, self.worker, self.host = number, worker, ""


class Domain:
    """A registrable domain: at most `connections` requests at a time over all its hosts and all workers."""

    def __init__(self, name: str, connections: int, rate: float, workers: int) -> None:
        self.name = name
        self.hosts: dict[str, Host] = {}
        self.ready: OrderedDict[Host, None] = OrderedDict()
        self.rate_limiter = RateLimiter(rate)
        self.timer: float | None = None
        first = zlib.crc32(name.encode())  # spreads small domains over the workers
        self._free = [Slot(number, (first + number) % workers) for number in range(connections)]
        self._connections, self._used_at = connections, 0.0

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free)

    def idle(self, now: float) -> bool:
        """Whether the domain can be removed without losing information."""
        return (len(self._free) == self._connections and not any(host.lines for host in self.hosts.values())
                and (now > self._used_at + IDLE_SECONDS or not (
                    self.rate_limiter.slowed or any(host.suspended_at for host in self.hosts.values()))))

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            self.hosts[name] = Host(name, self)
        return self.hosts[name]

    def next_host(self, now: float) -> Host | None:
        """The next host, in turn, that may get a request now. Hosts without one are removed from `ready`."""
        while self.ready:
            host = next(iter(self.ready))
            if host.lines and host.admits(now):
                self.ready.move_to_end(host)
                return host
            del self.ready[host]
        return None

    def take_slot(self, host: Host, has_room: Callable[[int], bool], now: float) -> Slot | None:
        """Take a free slot on a worker with room, preferably one connected to `host`. Returns None if there is none."""
        usable = [slot for slot in self._free if has_room(slot.worker)]
        if not usable:
            return None
        slot = next((slot for slot in usable if slot.host == host.name), usable[0])
        self._free.remove(slot)
        slot.host, self._used_at = host.name, now
        return slot

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot)


class Domains(dict[str, Domain]):
    """All domains by name. Above FORGET_ABOVE of them, idle ones are removed."""

    def __init__(self, params: Download, workers: int) -> None:
        super().__init__()
        self._params, self._workers, self._forget_above = params, workers, FORGET_ABOVE

    def host_of(self, url: str) -> Host:
        """The host of a URL. All local pictures have the host LOCAL, which has no rate limit.

        A URL without a valid host gets the host "", so that a worker reports the error.
        """
        try:
            name = LOCAL if url.startswith(LOCAL) else ascii_host(urlsplit(url)).rstrip(".")
        except (ValueError, Failure):
            name = ""
        key = registrable_domain(name) if name != LOCAL else LOCAL
        if key not in self:
            if len(self) >= self._forget_above:
                self._remove_idle(time.monotonic())
            connections, rate = (READERS * self._workers, math.inf) if key == LOCAL else (
                self._params.connections_per_host, self._params.rate_per_host)
            self[key] = Domain(key, connections, rate, self._workers)
        return self[key].host(name)

    def _remove_idle(self, now: float) -> None:
        for name in [name for name, domain in self.items() if domain.idle(now)]:
            del self[name]
        self._forget_above = max(FORGET_ABOVE, 2 * len(self))
