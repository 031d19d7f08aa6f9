"""Tells hosts that are gone from a network that is away, so that no line is given up for want of a network."""

from typing import NamedTuple

from mlimages.core.errors import UserError
from mlimages.download.ledger import Reason
from mlimages.download.lines import Line

PROBE_EVERY_SECONDS = 5.0
SILENCE_SECONDS = 1.0  # of all hosts, which may have been a network away for too short a time to probe
DOORS = 3  # hosts, of those that answered last, at which it is probed in turn


class Parked(NamedTuple):
    """A line whose last try found nobody, and when; kept until it is clear whether the network was there."""

    line: Line
    reason: Reason
    at: float


class Outage:
    """Signs of life, and what waits for one.

    A sign is an answer with an HTTP status: that a connection is refused, or a name unknown, may be the work of a
    router, a firewall or a VPN on this side. Where none comes by itself, the scheduler probes hosts that gave one.
    Times are seconds of one monotonic clock.
    """

    def __init__(self, patience_seconds: float) -> None:
        self.away_since: float | None = None
        self._patience = patience_seconds
        self._alive_at = self._back_at = self._heard_again_at = float("-inf")
        self._waiting_since: float | None = None
        self._doors: dict[str, str] = {}
        self._probing, self._probe_at = False, 0.0
        self._parked: list[Parked] = []

    def answered(self, host: str, url: str, now: float) -> None:
        """A host answered, so that this address of it is good for a probe."""
        self._alive(now)
        self._doors.pop(host, None)
        self._doors[host] = url
        if len(self._doors) > DOORS:
            del self._doors[next(iter(self._doors))]

    def _alive(self, now: float) -> None:
        if now - self._alive_at > SILENCE_SECONDS:
            self._heard_again_at = now
        self._alive_at, self._waiting_since = now, None

    def alive_since(self, moment: float) -> bool:
        return self._alive_at > moment

    def park(self, line: Line, reason: Reason, now: float) -> None:
        self._parked.append(Parked(line, reason, now))

    def probe(self, now: float, suspended: bool) -> str | None:
        """The address to probe now, where somebody waits for a sign of life; None: nothing to do.

        Raises UserError where no sign has come for longer than the patience.
        """
        if not (self._parked or suspended) or self.alive_since(now - PROBE_EVERY_SECONDS):
            self._waiting_since = None
            return None
        if self._waiting_since is None:
            self._waiting_since = now
        if now - self._waiting_since > self._patience:
            raise UserError(
                f"no host has answered for {now - self._waiting_since:.0f} s: the network seems to be away. No line "
                f"was recorded as failed for that; run the same command again when it is back. Where only hosts that "
                f"are gone for good are left, download.outage_seconds = 0 records them")
        if not self._doors or self._probing or now < self._probe_at:
            return None
        self._probing = True
        host = next(iter(self._doors))
        self._doors[host] = url = self._doors.pop(host)
        return url

    def probe_lost(self) -> None:
        """The worker that probed has died: another probe may go out at once."""
        self._probing = False

    def probed(self, answered: bool, now: float) -> None:
        """What came of a probe."""
        self._probing, self._probe_at = False, now + PROBE_EVERY_SECONDS
        if not answered and self.away_since is None:
            self.away_since = now
        if answered:
            self._alive(now)

    def ended(self) -> bool:
        """Whether the network is back after it was away; true once."""
        if self.away_since is None or not self.alive_since(self.away_since):
            return False
        self.away_since, self._back_at = None, self._alive_at
        return True

    def away_within(self, since: float) -> bool:
        """Whether the network was away at some time from then on."""
        return self.away_since is not None or self._back_at > since

    def settled(self) -> list[tuple[Parked, bool]]:
        """The parked lines whose case is clear, each with whether to ask again, since the network was away.

        A silence that ended after a line's first try had failed may have been that, too: it gets one more chance.
        """
        clear = [(one, self._back_at > one.line.sent_at or self._doubtful(one.line))
                 for one in self._parked if self.alive_since(one.at)]
        self._parked = [one for one in self._parked if not self.alive_since(one.at)]
        return clear

    def _doubtful(self, line: Line) -> bool:
        doubtful = not line.doubted and self._heard_again_at > line.failed_at
        line.doubted |= doubtful
        return doubtful
