"""Lines with which a worker died: each may have killed it, so it is tried alone, on worker 0, until it ends."""

from collections import deque

from mlimages.download.lines import Line
from mlimages.download.schedule.hosts import Domain, Domains, Host


class Suspects:
    """The lines that wait for their turn, and the one that is `alone` on worker 0 now."""

    def __init__(self, domains: Domains) -> None:
        self._domains = domains
        self._lines: deque[Line] = deque()
        self.alone: Line | None = None

    def add(self, line: Line, *, first: bool) -> None:
        (self._lines.appendleft if first else self._lines.append)(line)

    def next(self, now: float) -> tuple[Line, Host] | None:
        """The line to try next: its host may be asked as soon as worker 0, a slot and the pace allow."""
        for line in self._lines:
            host = self._domains.host_of(line.url)
            if host.admits(now) and not host.domain.pace.paused(now):
                return line, host
        return None

    def due(self, now: float) -> bool:
        """Whether worker 0 is for one of them, now or next."""
        return self.alone is not None or self.next(now) is not None

    def hold(self, domain: Domain, now: float) -> bool:
        """Whether the domain's next slot, and its next place in the pace, are for the next suspect."""
        following = self.next(now) if self._lines and self.alone is None else None
        return following is not None and following[1].domain is domain

    def begin(self, line: Line) -> None:
        self._lines.remove(line)
        self.alone = line

    def ended(self, line: Line) -> None:
        """The line is not on its worker any more."""
        if line is self.alone:
            self.alone = None

    def hosts(self) -> set[Host]:
        """Those that lines wait for."""
        return {self._domains.host_of(line.url) for line in self._lines}

    def give_up(self, host: Host) -> list[Line]:
        """The lines that wait for a host where nobody answers; they wait no more."""
        of_it = [line for line in self._lines if self._domains.host_of(line.url) is host]
        self._lines = deque(line for line in self._lines if line not in of_it)
        return of_it
