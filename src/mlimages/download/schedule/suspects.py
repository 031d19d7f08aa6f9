"""Lines that were in progress when a worker died. Each may be the cause, so worker 0 tries them one at a time."""

from collections import deque

from mlimages.download.lines import PendingLine
from mlimages.download.schedule.hosts import Domain, Domains, Host


class Suspects:
    """The queue of suspect lines, and the one that worker 0 tries now: `alone`."""

    def __init__(self, domains: Domains) -> None:
        self._domains = domains
        self._lines: deque[PendingLine] = deque()
        self.alone: PendingLine | None = None

    def add(self, line: PendingLine, *, first: bool) -> None:
        (self._lines.appendleft if first else self._lines.append)(line)

    def next(self, now: float) -> tuple[PendingLine, Host] | None:
        """The next line to try, with its host. It may start once worker 0, a slot and the rate limit allow."""
        for line in self._lines:
            host = self._domains.host_of(line.url)
            if host.admits(now) and not host.domain.rate_limiter.paused(now):
                return line, host
        return None

    def due(self, now: float) -> bool:
        """Whether worker 0 is reserved for a suspect, now or next."""
        return self.alone is not None or self.next(now) is not None

    def reserves(self, domain: Domain, now: float) -> bool:
        """Whether the domain's next request is reserved for the next suspect."""
        upcoming = self.next(now) if self._lines and self.alone is None else None
        return upcoming is not None and upcoming[1].domain is domain

    def begin(self, line: PendingLine) -> None:
        self._lines.remove(line)
        self.alone = line

    def ended(self, line: PendingLine) -> None:
        """The line is no longer in progress."""
        if line is self.alone:
            self.alone = None

    def hosts(self) -> set[Host]:
        """The hosts of the waiting lines."""
        return {self._domains.host_of(line.url) for line in self._lines}

    def give_up(self, host: Host) -> list[PendingLine]:
        """Remove and return the lines that wait for an unreachable host."""
        ended = [line for line in self._lines if self._domains.host_of(line.url) is host]
        self._lines = deque(line for line in self._lines if line not in ended)
        return ended
