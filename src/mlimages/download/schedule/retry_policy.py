"""Decides what follows a response: keep the image, follow a redirect, retry, or fail."""

import random
from enum import Enum, auto
from typing import NamedTuple

from mlimages.core.params import Download
from mlimages.download.http.exchange import FetchResult
from mlimages.download.ledger import Reason
from mlimages.download.lines import PendingLine
from mlimages.download.schedule.hosts import Host

MAX_REDIRECTS = 5
MAX_REFUSALS = 10
BACKOFF_SECONDS = 0.25
UNREACHED = {Reason.DNS, Reason.CONNECT, Reason.TIMEOUT}
REFUSED_STATUSES = {429, 503}


class Action(Enum):
    KEEP = auto()  # the image is valid
    FOLLOW = auto()  # request the redirect's target
    RETRY_FIRST = auto()  # before the host's other lines
    RETRY_LAST = auto()  # after the host's other lines
    BACK_OFF = auto()  # retry after some seconds
    PARK = auto()  # wait until it is clear whether the network was up
    FAIL = auto()  # this address yields no image


class Decision(NamedTuple):
    action: Action
    seconds: float = 0.0


def decide(line: PendingLine, host: Host, result: FetchResult, params: Download, now: float) -> Decision:
    """Update the counts of the line and the host with a response, and decide what follows.

    Refusals and unreachable hosts are not the line's fault. Only a response about this address, or an address that
    alone cannot be reached, counts as a try.
    """
    if result.redirect:
        line.hops += 1
        if line.hops <= MAX_REDIRECTS:
            return Decision(Action.FOLLOW)
    if result.reason is Reason.OK:
        return Decision(Action.KEEP)
    line.restart()
    if result.http_status in REFUSED_STATUSES:
        line.refusals += 1
        return Decision(Action.RETRY_FIRST if line.refusals < MAX_REFUSALS else Action.FAIL)
    line.tries += 1
    if line.tries == 1:
        line.failed_at = now
    spent = line.tries >= params.attempts or line.seconds_left <= 0
    if not result.http_status and result.reason in UNREACHED:
        return _unreached(line, host, result, params, now, spent)
    again = result.reason in (Reason.HTTP_ERROR, Reason.TIMEOUT, Reason.TRUNCATED, Reason.BAD_ANSWER)
    return _back_off(line) if again and not spent else Decision(Action.FAIL)


def _unreached(line: PendingLine, host: Host, result: FetchResult, params: Download, now: float,
               spent: bool) -> Decision:
    if params.outage_seconds and host.failed(line.number, now, result.reason):
        line.tries -= 1
        line.seconds_left = max(line.seconds_left, params.timeout_seconds)
        return Decision(Action.RETRY_LAST)
    if not spent:
        return _back_off(line)
    return Decision(Action.PARK if params.outage_seconds else Action.FAIL)


def _back_off(line: PendingLine) -> Decision:
    return Decision(Action.BACK_OFF, BACKOFF_SECONDS * 2**line.tries * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
