"""What the scheduler knows of hosts and domains: who waits for them, and whether they answer.

Politeness is for a registrable domain: its hosts share connections and pace. Health is for a host: where three
different lines in a row found nobody there, the host is suspended, and asked again with ever longer pauses.
"""

import random
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable

from mlimages.download.ledger import Reason
from mlimages.download.lines import Line
from mlimages.download.politeness import Pace

LINES_IN_A_ROW = 3
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 1.0, 60.0


class Host:
    """One host name: the lines that wait for it, and how it fares.

    Until it has answered for the first time, and while it is suspended, it is asked one line at a time.
    """

    def __init__(self, name: str, domain: "Domain") -> None:
        self.name, self.domain = name, domain
        self.lines: deque[Line] = deque()
        self.in_flight = 0
        self.not_before = 0.0
        self.suspended_at: float | None = None
        self.last_reason = Reason.CONNECT
        self.given_up: Reason | None = None
        self._heard = False
        self._failed: set[int] = set()
        self._pause = FIRST_PAUSE_SECONDS

    def admits(self, now: float) -> bool:
        """Whether one more of its lines may be asked now, as far as its health goes."""
        return bool(self.lines) and now >= self.not_before and (
            self.in_flight == 0 or (self._heard and self.suspended_at is None))

    def answered(self) -> None:
        self._heard = True
        self._failed.clear()
        self.suspended_at, self._pause = None, FIRST_PAUSE_SECONDS

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
        self._connections = connections

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free)

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return (len(self._free) == self._connections and not self.pace.slowed
                and not any(host.lines or host.given_up or host.suspended_at for host in self.hosts.values()))

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            self.hosts[name] = Host(name, self)
        return self.hosts[name]

    def next_host(self, now: float) -> Host | None:
        """A host with a line that may be asked now, each in its turn; hosts without one leave the circle."""
        while self.ready:
            host = next(iter(self.ready))
            if host.admits(now):
                self.ready.move_to_end(host)
                return host
            del self.ready[host]
        return None

    def take_slot(self, host: Host, has_room: Callable[[int], bool]) -> Slot | None:
        """A free slot on a worker that has room, rather one whose connection goes to that host; None without any."""
        usable = [slot for slot in self._free if has_room(slot.worker)]
        if not usable:
            return None
        slot = next((slot for slot in usable if slot.host == host.name), usable[0])
        self._free.remove(slot)
        slot.host = host.name
        return slot

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot)
