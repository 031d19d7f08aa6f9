"""The rate limit of a domain: it adapts to refusals and never exceeds the maximum."""

import subprocess
import sys
import time

import pytest
from tests.faults import environment

from mlimages.download.schedule.politeness import (
    MAX_PAUSE_SECONDS,
    PAUSE_SECONDS,
    RateLimiter,
    registrable_domain,
    retry_after_seconds,
)


@pytest.mark.parametrize(("host", "domain"), [
    ("live.staticflickr.com", "staticflickr.com"), ("c1.staticflickr.com", "staticflickr.com"),
    ("www.bbc.co.uk", "bbc.co.uk"), ("me.github.io", "github.io"), ("localhost", "localhost"),
    ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("a.images.example", "images.example"), ("", "")])
def test_hosts_of_one_owner_share_a_registrable_domain(host: str, domain: str) -> None:
    assert registrable_domain(host) == domain


@pytest.mark.parametrize(("value", "seconds"), [
    ("", PAUSE_SECONDS), ("soon", PAUSE_SECONDS), ("-5", PAUSE_SECONDS), ("\xb2", PAUSE_SECONDS),
    ("12", 12), (" 12 ", 12), ("0", 0), ("9" * 5000, 999999999), ("Thu, 01 Jan 1970 00:00:30 GMT", 30),
    ("Wed, 31 Dec 1969 00:00:00 GMT", 0), ("Thu, 99 Jan 1970 00:00:30 GMT", PAUSE_SECONDS)])
def test_retry_after_is_read_as_seconds_or_a_date(value: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert retry_after_seconds(value) == seconds


def play(limiter: RateLimiter, host_takes: float, seconds: float,
         begun: float = 1000.0) -> tuple[list[float], list[float]]:
    """Send requests as fast as allowed to a host with a token bucket. Returns the times of accepted and refused."""
    taken: list[float] = []
    refused: list[float] = []
    now, tokens = begun, host_takes
    while now < begun + seconds:
        before, now = now, max(now, limiter.ready_at())
        tokens = min(host_takes, tokens + (now - before) * host_takes)
        limiter.sent(now)
        if tokens >= 1:
            tokens -= 1
            taken.append(now)
        else:
            refused.append(now)
            limiter.refused(now, now, PAUSE_SECONDS)
    return taken, refused


def test_a_host_that_accepts_everything_gets_exactly_the_maximum_rate() -> None:
    taken, refused = play(RateLimiter(50.0), 1000.0, 20)
    assert refused == []
    assert len(taken) == pytest.approx(1000, abs=2)
    assert min(later - one for one, later in zip(taken, taken[1:], strict=False)) > 0.0199


@pytest.mark.parametrize(("rate", "share_refused"), [(2.0, 0.05), (20.0, 0.02), (200.0, 0.02)])
def test_a_host_that_accepts_less_gets_nearly_what_it_accepts(rate: float, share_refused: float) -> None:
    taken, refused = play(RateLimiter(1000.0), rate, 120)
    late = [moment for moment in taken if moment > 1010]
    assert len(late) > 0.9 * rate * 110
    assert sum(moment > 1010 for moment in refused) < share_refused * len(late)


def test_the_rate_recovers_when_a_host_accepts_more() -> None:
    limiter = RateLimiter(100.0)
    play(limiter, 5.0, 30)
    assert limiter.slowed and limiter.rate < 6
    play(limiter, 1000.0, 400, begun=1030.0)
    assert limiter.rate == 100.0 and not limiter.slowed


def test_pauses_are_respected_and_capped_and_not_shortened() -> None:
    limiter = RateLimiter(100.0)
    limiter.sent(10.0)
    limiter.refused(10.0, 10.1, 40.0)
    limiter.refused(10.0, 10.2, 1.0)
    assert limiter.ready_at() == 50.1
    limiter.refused(10.0, 10.3, 1e9)
    assert limiter.ready_at() == 10.3 + MAX_PAUSE_SECONDS


def test_refusals_of_earlier_requests_do_not_lower_the_rate_again() -> None:
    limiter = RateLimiter(100.0)
    for number in range(8):
        limiter.sent(10 + number / 100)
    limiter.refused(10.0, 10.2, 0.0)
    rate = limiter.rate
    for number in range(1, 8):
        limiter.refused(10 + number / 100, 10.3, 0.0)
    assert limiter.rate == rate < 100
    limiter.sent(10.4)
    limiter.refused(10.4, 10.5, 0.0)
    assert limiter.rate < rate


def test_the_public_suffixes_need_no_network() -> None:
    """A download loads no HTTP library of Python's: libcurl speaks HTTP, and the suffixes are a file."""
    loaded = ("import mlimages.download.run, sys; "
              "print([name for name in sys.modules if name in ('requests', 'urllib3', 'aiohttp')])")
    ended = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, env=environment())
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
