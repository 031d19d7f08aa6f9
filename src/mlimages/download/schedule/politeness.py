"""What every domain may expect of us: few connections, a pace that it can bear, and pauses when it asks for them."""

import ipaddress
import time
from collections import deque
from email.utils import parsedate_to_datetime
from functools import lru_cache

import tldextract

MAX_PAUSE_SECONDS = 120.0
PAUSE_SECONDS = 0.5  # after a refusal that does not say how long
LEAST_RATE = 0.1
# The share of the ceiling, the pace at the last refusal, that is gained in a second: far below it, near it, and after
# so many seconds without a refusal. With these, a host that takes 20 requests a second gets 18 to 20, and refuses
# about one in a hundred (benchmarks/download.py).
CATCH_UP, NEAR_CEILING, CREEP, QUIET_SECONDS, PROBE = 0.1, 0.9, 0.002, 30.0, 0.02
# What a refusal leaves of the pace: HARD where it is the SEVERALth among the last RECENT requests.
GENTLE, HARD, SEVERAL, RECENT = 0.95, 0.7, 3, 60

_suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


@lru_cache(100_000)
def registrable_domain(host: str) -> str:
    """The part of a host name that somebody registered: live.staticflickr.com -> staticflickr.com; an address as is."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return _suffixes(host).top_domain_under_public_suffix or ".".join(host.split(".")[-2:])


def retry_after_seconds(value: str) -> float:
    """Seconds from a Retry-After header, given in seconds or as a date; PAUSE_SECONDS where it says nothing usable."""
    text = value.strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return PAUSE_SECONDS


class Pace:
    """The requests per second that a domain takes, found by additive increase and multiplicative decrease.

    It starts at `most` and never exceeds it. Times are seconds of one monotonic clock.
    """

    def __init__(self, most: float) -> None:
        self.rate, self._most, self._ceiling = most, most, most
        self._next, self._pause_ends = 0.0, 0.0
        self._grown_at, self._refused_at, self._resumed_at = 0.0, float("-inf"), float("-inf")
        self._sent: deque[float] = deque()  # times of the last second's requests
        self._requests = 0
        self._refusals: deque[int] = deque([-RECENT] * SEVERAL, maxlen=SEVERAL)  # after how many requests

    @property
    def slowed(self) -> bool:
        """Whether the domain asked for a slower pace than the greatest one."""
        return self.rate < self._most

    def paused(self, now: float) -> bool:
        """Whether a pause that the domain asked for is not over."""
        return now < self._pause_ends

    def ready_at(self) -> float:
        """When the next request may leave."""
        return max(self._next, self._pause_ends)

    def sent(self, now: float) -> None:
        self._grow(now)
        self._next = max(now, self._next) + 1 / self.rate
        self._sent.append(now)
        self._requests += 1
        self._forget(now)

    def refused(self, sent_at: float, now: float, pause: float) -> None:
        """The answer to a request that left at `sent_at` was "later": pause, and slow down.

        Answers to requests that left before the last slowing down tell nothing new about the pace.
        """
        self._pause_ends = max(self._pause_ends, now + min(pause, MAX_PAUSE_SECONDS))
        self._refusals.append(self._requests)
        if sent_at <= self._refused_at:
            return
        self._grow(now)
        several = self._requests - self._refusals[0] < RECENT
        self._ceiling = min(self.rate, self._rate_of_late(now)) if several else self.rate
        self.rate = max(LEAST_RATE, self._ceiling * (HARD if several else GENTLE))
        self._refused_at, self._resumed_at = now, max(now, self._pause_ends)

    def _rate_of_late(self, now: float) -> float:
        """Requests per second over the last second, or since the last pause."""
        self._forget(now)
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
        self.rate = min(self._most, self.rate + share * max(self._ceiling, self.rate) * seconds)

    def _forget(self, now: float) -> None:
        while self._sent and self._sent[0] < now - 1:
            self._sent.popleft()
