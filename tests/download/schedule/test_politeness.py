"""The pace that a domain gets: found by trying, never above its limit, and slower at once when it refuses."""

import time

import pytest

from mlimages.download.schedule import politeness
from mlimages.download.schedule.politeness import (
    MAX_PAUSE_SECONDS,
    PAUSE_SECONDS,
    Pace,
    registrable_domain,
    retry_after_seconds,
)


@pytest.mark.parametrize(("host", "domain"), [
    ("live.staticflickr.com", "staticflickr.com"), ("c1.staticflickr.com", "staticflickr.com"),
    ("www.bbc.co.uk", "bbc.co.uk"), ("me.github.io", "github.io"), ("localhost", "localhost"),
    ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("a.images.example", "images.example"), ("", "")])
def test_hosts_of_one_owner_are_one_domain(host: str, domain: str) -> None:
    assert registrable_domain(host) == domain


@pytest.mark.parametrize(("value", "seconds"), [
    ("", PAUSE_SECONDS), ("soon", PAUSE_SECONDS), ("-5", PAUSE_SECONDS), ("\xb2", PAUSE_SECONDS),
    ("12", 12), (" 12 ", 12), ("0", 0), ("9" * 5000, 999999999), ("Thu, 01 Jan 1970 00:00:30 GMT", 30),
    ("Wed, 31 Dec 1969 00:00:00 GMT", 0), ("Thu, 99 Jan 1970 00:00:30 GMT", PAUSE_SECONDS)])
def test_retry_after_is_read_as_seconds_or_a_date(value: str, seconds: float,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert retry_after_seconds(value) == seconds


def play(pace: Pace, host_takes: float, seconds: float, begun: float = 1000.0) -> tuple[list[float], list[float]]:
    """Ask as fast as the pace lets us a host with a bucket of `host_takes` requests a second; times of both answers."""
    taken: list[float] = []
    refused: list[float] = []
    now, tokens = begun, host_takes
    while now < begun + seconds:
        before, now = now, max(now, pace.ready_at())
        tokens = min(host_takes, tokens + (now - before) * host_takes)
        pace.sent(now)
        if tokens >= 1:
            tokens -= 1
            taken.append(now)
        else:
            refused.append(now)
            pace.refused(now, now, PAUSE_SECONDS)
    return taken, refused


def test_a_host_that_takes_everything_is_asked_at_the_limit_and_never_faster() -> None:
    taken, refused = play(Pace(50.0), 1000.0, 20)
    assert refused == []
    assert len(taken) == pytest.approx(1000, abs=2)
    assert min(later - one for one, later in zip(taken, taken[1:], strict=False)) > 0.0199


@pytest.mark.parametrize(("rate", "share_refused"), [(2.0, 0.05), (20.0, 0.02), (200.0, 0.02)])
def test_a_host_that_takes_less_is_asked_nearly_as_much_as_it_takes(rate: float, share_refused: float) -> None:
    taken, refused = play(Pace(1000.0), rate, 120)
    late = [moment for moment in taken if moment > 1010]
    assert len(late) > 0.9 * rate * 110
    assert sum(moment > 1010 for moment in refused) < share_refused * len(late)


def test_a_host_that_takes_more_again_gets_more_again() -> None:
    pace = Pace(100.0)
    play(pace, 5.0, 30)
    assert pace.slowed and pace.rate < 6
    play(pace, 1000.0, 400, begun=1030.0)
    assert pace.rate == 100.0 and not pace.slowed


def test_a_pause_is_kept_an_absurd_one_is_capped_and_a_shorter_one_does_not_end_it() -> None:
    pace = Pace(100.0)
    pace.sent(10.0)
    pace.refused(10.0, 10.1, 40.0)
    pace.refused(10.0, 10.2, 1.0)
    assert pace.ready_at() == 50.1
    pace.refused(10.0, 10.3, 1e9)
    assert pace.ready_at() == 10.3 + MAX_PAUSE_SECONDS


def test_refusals_of_what_left_before_the_slowing_down_do_not_slow_further() -> None:
    pace = Pace(100.0)
    for number in range(8):
        pace.sent(10 + number / 100)
    pace.refused(10.0, 10.2, 0.0)
    rate = pace.rate
    for number in range(1, 8):
        pace.refused(10 + number / 100, 10.3, 0.0)
    assert pace.rate == rate < 100
    pace.sent(10.4)
    pace.refused(10.4, 10.5, 0.0)
    assert pace.rate < rate


def test_the_suffixes_are_those_of_the_package_and_need_no_network() -> None:
    assert politeness._suffixes.suffix_list_urls == ()
