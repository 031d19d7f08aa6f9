"""Registrable domains, Retry-After, and the rate limit of a domain."""

import ipaddress
import time
from collections import deque
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList

MAX_PAUSE_SECONDS = 120.0
PAUSE_SECONDS = 0.5  # after a refusal without a usable Retry-After
LEAST_RATE = 0.1
# The rate grows each second by a share of the ceiling, which is the rate at the last refusal: CATCH_UP below
# NEAR_CEILING, CREEP above it, PROBE after QUIET_SECONDS without a refusal. A host that accepts 20 requests a second
# then gets 18 to 20, and refuses about one in a hundred (benchmarks/download.py).
CATCH_UP, NEAR_CEILING, CREEP, QUIET_SECONDS, PROBE = 0.1, 0.9, 0.002, 30.0, 0.02
# A refusal multiplies the rate by GENTLE, or by HARD if it is the SEVERALth among the last RECENT requests.
GENTLE, HARD, SEVERAL, RECENT = 0.95, 0.7, 3, 60


@cache
def _suffixes() -> PublicSuffixList:
    """The list of public suffixes that the package contains, without private ones such as github.io.

    It is read at the first use: this takes 25 ms, and the workers do not need it.
    """
    return PublicSuffixList(accept_unknown=False, only_icann=True)


@lru_cache(100_000)
def registrable_domain(host: str) -> str:
    """The registrable part of a host name, such as staticflickr.com; an IP address unchanged."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return _suffixes().privatesuffix(host) or ".".join(host.split(".")[-2:])


def retry_after_seconds(value: str) -> float:
    """Parse a Retry-After header, in seconds or as a date. Returns seconds; PAUSE_SECONDS if it is unusable."""
    text = value.strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return PAUSE_SECONDS


class RateLimiter:
    """Finds the requests per second that a domain accepts, by additive increase and multiplicative decrease.

    The rate starts at `max_rate`, which it never exceeds. Times are seconds of one monotonic clock.
    """

    def __init__(self, max_rate: float) -> None:
        self.rate, self._max_rate, self._ceiling = max_rate, max_rate, max_rate
        self._next, self._pause_ends = 0.0, 0.0
        self._grown_at, self._refused_at, self._resumed_at = 0.0, float("-inf"), float("-inf")
        self._sent: deque[float] = deque()  # the times of the requests in the last second
        self._requests = 0
        self._refusals: deque[int] = deque([-RECENT] * SEVERAL, maxlen=SEVERAL)  # request counts at refusals

    @property
    def slowed(self) -> bool:
        """Whether refusals have lowered the rate below its maximum."""
        return self.rate < self._max_rate

    def paused(self, now: float) -> bool:
        """Whether a pause that the domain asked for is still running."""
        return now < self._pause_ends

    def ready_at(self) -> float:
        """The earliest time for the next request."""
        return max(self._next, self._pause_ends)

    def sent(self, now: float) -> None:
        self._grow(now)
        self._next = max(now, self._next) + 1 / self.rate
        self._sent.append(now)
        self._requests += 1
        self._drop_old(now)

    def refused(self, sent_at: float, now: float, pause: float) -> None:
        """Record a refusal of the request sent at `sent_at`: pause for `pause` seconds and lower the rate.

        Refusals of requests sent before the last reduction do not lower the rate again.
        """
        self._pause_ends = max(self._pause_ends, now + min(pause, MAX_PAUSE_SECONDS))
        self._refusals.append(self._requests)
        if sent_at <= self._refused_at:
            return
        self._grow(now)
        several = self._requests - self._refusals[0] < RECENT
        self._ceiling = min(self.rate, self._recent_rate(now)) if several else self.rate
        self.rate = max(LEAST_RATE, self._ceiling * (HARD if several else GENTLE))
        self._refused_at, self._resumed_at = now, max(now, self._pause_ends)

    def _recent_rate(self, now: float) -> float:
        """The requests per second over the last second, or since the last pause."""
        self._drop_old(now)
        begun = max(self._sent[0] if self._sent else now, self._resumed_at)
        return max(len(self._sent), 1) / min(1.0, max(now - begun, 0.05))

    def _grow(self, now: float) -> None:
        seconds = now - max(self._grown_at, self._resumed_at)
        self._grown_at = now
        if seconds <= 0 or not self.slowed:
            return
        if self.rate < NEAR_CEILING * self._ceiling:
            share = CATCH_UP
        else:
            share = CREEP if now - self._resumed_at < QUIET_SECONDS else PROBE
        self.rate = min(self._max_rate, self.rate + share * max(self._ceiling, self.rate) * seconds)

    def _drop_old(self, now: float) -> None:
        while self._sent and self._sent[0] < now - 1:
            self._sent.popleft()
