"""What the scheduler knows of hosts and domains: who waits for them, and whether they answer.

Politeness is for a registrable domain: its hosts share connections and pace. Health is for a host: where three
different lines in a row found nobody there, the host is suspended, and asked again with ever longer pauses. While
others answer, the lines that wait for it end: a thousand of them after a time, and twice as many each further time, so
that a dead host ends soon, and an hour's absence costs a large host little.
"""

import random
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from urllib.parse import urlsplit

from mlimages.core.params import Download
from mlimages.download.http.address_guard import Failure, ascii_host
from mlimages.download.ledger import Reason
from mlimages.download.lines import Line
from mlimages.download.schedule.politeness import Pace, registrable_domain

LINES_IN_A_ROW = 3
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 1.0, 600.0
FIRST_GIVEN_UP = 1000  # lines
FORGET_ABOVE = 10_000  # domains
IDLE_SECONDS = 600.0  # after which a domain may be forgotten although it was slow or away


class Host:
    """One host name: the lines that wait for it, and how it fares.

    Until it has answered for the first time, and while it is suspended, it is asked one line at a time.
    """

    def __init__(self, name: str, domain: "Domain") -> None:
        self.name, self.domain = name, domain
        self.lines: deque[Line] = deque()
        self.in_flight = 0
        self.not_before = 0.0
        self.suspended_at: float | None = None  # or when its waiting lines were given up last
        self.last_reason = Reason.CONNECT
        self._heard = False
        self._failed: set[int] = set()
        self._erred: set[int] = set()
        self._pause, self._to_give_up = FIRST_PAUSE_SECONDS, FIRST_GIVEN_UP

    def admits(self, now: float) -> bool:
        """Whether one more line may be asked now, as far as its health goes."""
        return now >= self.not_before and (self.in_flight == 0 or (self._heard and self.suspended_at is None))

    def answered(self, number: int, *, erred: bool) -> bool:
        """Note that somebody is there; whether different lines in a row got an error of the host itself."""
        self._heard, self.suspended_at = True, None
        self._pause, self._to_give_up = FIRST_PAUSE_SECONDS, FIRST_GIVEN_UP
        self._failed.clear()
        if not erred:
            self._erred.clear()
        elif len(self._erred) < LINES_IN_A_ROW:
            self._erred.add(number)
        return len(self._erred) == LINES_IN_A_ROW

    def failed(self, number: int, now: float, reason: Reason) -> bool:
        """Note that a line found nobody there; whether the host is suspended, and not the line to blame."""
        self.last_reason = reason
        self._failed.add(number)
        if self.suspended_at is None and len(self._failed) < LINES_IN_A_ROW:
            return False
        if self.suspended_at is None:
            self.suspended_at = now
        self.not_before = now + self._pause * random.uniform(0.75, 1.0)  # noqa: S311 - jitter
        self._pause = min(2 * self._pause, LAST_PAUSE_SECONDS)
        return True

    def give_up(self, now: float) -> list[Line]:
        """The lines that end, those that have waited longest, and are not to be asked any more."""
        ended = [self.lines.popleft() for _ in range(min(len(self.lines), self._to_give_up))]
        self.suspended_at, self._to_give_up = now, 2 * self._to_give_up
        return ended


class Slot:
    """One connection that a domain may have, and the worker that keeps it."""

    def __init__(self, number: int, worker: int) -> None:
        self.number, self.worker, self.host = number, worker, ""


class Domain:
    """A registrable domain: at most `connections` requests at a time over all its hosts and our workers."""

    def __init__(self, name: str, connections: int, rate: float, workers: int) -> None:
        self.name = name
        self.hosts: dict[str, Host] = {}
        self.ready: OrderedDict[Host, None] = OrderedDict()
        self.pace = Pace(rate)
        self.timer: float | None = None
        first = zlib.crc32(name.encode())  # so that small domains spread over the workers
        self._free = [Slot(number, (first + number) % workers) for number in range(connections)]
        self._connections, self._used_at = connections, 0.0

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free)

    def idle(self, now: float) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return (len(self._free) == self._connections and not any(host.lines for host in self.hosts.values())
                and (now > self._used_at + IDLE_SECONDS or not (
                    self.pace.slowed or any(host.suspended_at for host in self.hosts.values()))))

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            self.hosts[name] = Host(name, self)
        return self.hosts[name]

    def next_host(self, now: float) -> Host | None:
        """A host with a line that may be asked now, each in its turn; hosts without one leave the circle."""
        while self.ready:
            host = next(iter(self.ready))
            if host.lines and host.admits(now):
                self.ready.move_to_end(host)
                return host
            del self.ready[host]
        return None

    def take_slot(self, host: Host, has_room: Callable[[int], bool], now: float) -> Slot | None:
        """A free slot on a worker that has room, rather one whose connection goes to that host; None without any."""
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
    """All domains by their names; above so many, those that are idle are forgotten."""

    def __init__(self, params: Download, workers: int) -> None:
        super().__init__()
        self._params, self._workers, self._forget_above = params, workers, FORGET_ABOVE

    def host_of(self, url: str) -> Host:
        """The host to ask for it; one without a name where it has none, so that a worker says what is wrong with it."""
        try:
            name = ascii_host(urlsplit(url)).rstrip(".")
        except (ValueError, Failure):
            name = ""
        key = registrable_domain(name)
        if key not in self:
            if len(self) >= self._forget_above:
                self._forget(time.monotonic())
            self[key] = Domain(key, self._params.connections_per_host, self._params.rate_per_host, self._workers)
        return self[key].host(name)

    def _forget(self, now: float) -> None:
        for name in [name for name, domain in self.items() if domain.idle(now)]:
            del self[name]
        self._forget_above = max(FORGET_ABOVE, 2 * len(self))
