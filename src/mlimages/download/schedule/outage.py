"""Distinguishes dead hosts from a network outage, so that no line fails because this machine's network is down."""

from typing import NamedTuple

from mlimages.core.errors import UserError
from mlimages.download.ledger import Reason
from mlimages.download.lines import PendingLine

PROBE_EVERY_SECONDS = 5.0
SILENCE_SECONDS = 1.0  # without any response: possibly an outage too short to probe
PROBE_HOSTS = 3  # the hosts that answered last, probed in turn


class Parked(NamedTuple):
    """A line whose last try reached nobody, and the time; kept until the cause is clear."""

    line: PendingLine
    reason: Reason
    at: float


class Outage:
    """Whether the network is up, and the lines whose failure depends on that.

    Only a response with an HTTP status proves that the network is up: a local router, firewall or VPN can refuse a
    connection or a name. Without responses the scheduler probes hosts that answered before. Times are seconds of one
    monotonic clock.
    """

    def __init__(self, patience_seconds: float) -> None:
        self.down_since: float | None = None
        self._patience = patience_seconds
        self._alive_at = self._restored_at = self._silence_ended_at = float("-inf")
        self._waiting_since: float | None = None
        self._probe_urls: dict[str, str] = {}
        self._probing, self._probe_at = False, 0.0
        self._parked: list[Parked] = []

    def answered(self, host: str, url: str, now: float) -> None:
        """Record a response of `host`. Its URL becomes a target for probes."""
        self._alive(now)
        self._probe_urls.pop(host, None)
        self._probe_urls[host] = url
        if len(self._probe_urls) > PROBE_HOSTS:
            del self._probe_urls[next(iter(self._probe_urls))]

    def _alive(self, now: float) -> None:
        if now - self._alive_at > SILENCE_SECONDS:
            self._silence_ended_at = now
        self._alive_at, self._waiting_since = now, None

    def alive_since(self, moment: float) -> bool:
        return self._alive_at > moment

    def park(self, line: PendingLine, reason: Reason, now: float) -> None:
        self._parked.append(Parked(line, reason, now))

    def probe(self, now: float, suspended: bool) -> str | None:
        """The URL to probe now, or None. `suspended` says whether a host is suspended.

        Raises UserError if no response has arrived for longer than download.outage_seconds.
        """
        if not (self._parked or suspended) or self.alive_since(now - PROBE_EVERY_SECONDS):
            self._waiting_since = None
            return None
        if self._waiting_since is None:
            self._waiting_since = now
        if now - self._waiting_since > self._patience:
            raise UserError(
                f"no host has answered for {now - self._waiting_since:.0f} s: the network seems to be down. No line "
                f"was recorded as failed because of that; run the same command again when it is back. If all remaining "
                f"hosts are gone for good, set download.outage_seconds to 0 to record them as failed")
        if not self._probe_urls or self._probing or now < self._probe_at:
            return None
        self._probing = True
        host = next(iter(self._probe_urls))
        self._probe_urls[host] = url = self._probe_urls.pop(host)
        return url

    def probe_lost(self) -> None:
        """The worker with the probe has died: the next probe may start at once."""
        self._probing = False

    def probed(self, answered: bool, now: float) -> None:
        """Record the result of a probe."""
        self._probing, self._probe_at = False, now + PROBE_EVERY_SECONDS
        if not answered and self.down_since is None:
            self.down_since = now
        if answered:
            self._alive(now)

    def ended(self) -> bool:
        """Whether an outage has ended. True once for each outage."""
        if self.down_since is None or not self.alive_since(self.down_since):
            return False
        self.down_since, self._restored_at = None, self._alive_at
        return True

    def down_within(self, since: float) -> bool:
        """Whether the network was down at any time since `since`."""
        return self.down_since is not None or self._restored_at > since

    def settled(self) -> list[tuple[Parked, bool]]:
        """Remove and return the parked lines that can be decided, each with whether to try it again.

        A line is tried again if the network was down. A short silence of all hosts after its first failed try may also
        have been an outage: it then gets one more chance.
        """
        clear = [(one, self._restored_at > one.line.sent_at or self._possible_outage(one.line))
                 for one in self._parked if self.alive_since(one.at)]
        self._parked = [one for one in self._parked if not self.alive_since(one.at)]
        return clear

    def _possible_outage(self, line: PendingLine) -> bool:
        may_be_outage = not line.doubted and self._silence_ended_at > line.failed_at
        line.doubted |= may_be_outage
        return may_be_outage
