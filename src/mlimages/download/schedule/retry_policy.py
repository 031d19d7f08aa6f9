"""What an answer means for its line: keep, follow, ask again and when, or give up."""

import random
from enum import Enum, auto
from typing import NamedTuple

from mlimages.core.params import Download
from mlimages.download.http.exchange import Answer
from mlimages.download.ledger import Reason
from mlimages.download.lines import Line
from mlimages.download.schedule.hosts import Host

MAX_REDIRECTS = 5
MAX_REFUSALS = 10
BACKOFF_SECONDS = 0.25
UNREACHED = {Reason.DNS, Reason.CONNECT, Reason.TIMEOUT}
REFUSED_STATUSES = {429, 503}


class Action(Enum):
    KEEP = auto()  # it is an image
    FOLLOW = auto()  # ask where the redirect leads
    FIRST = auto()  # ask again before the host's other lines
    LAST = auto()  # ask again after them
    BACK_OFF = auto()  # ask again after some seconds
    PARK = auto()  # wait until it is clear whether the network was there
    FAIL = auto()  # this address gives no image


class Verdict(NamedTuple):
    action: Action
    seconds: float = 0.0


def judge(line: Line, host: Host, answer: Answer, params: Download, now: float) -> Verdict:
    """Count the answer on its line and host, and decide.

    A refusal is not the line's fault, nor is a host that is away: only what the host says of this address, or that
    the address alone cannot be reached, counts against it.
    """
    if answer.redirect:
        line.hops += 1
        if line.hops <= MAX_REDIRECTS:
            return Verdict(Action.FOLLOW)
    if answer.reason is Reason.OK:
        return Verdict(Action.KEEP)
    line.restart()
    if answer.http_status in REFUSED_STATUSES:
        line.refusals += 1
        return Verdict(Action.FIRST if line.refusals < MAX_REFUSALS else Action.FAIL)
    line.tries += 1
    if line.tries == 1:
        line.failed_at = now
    spent = line.tries >= params.attempts or line.seconds_left <= 0
    if not answer.http_status and answer.reason in UNREACHED:
        return _unreached(line, host, answer, params, now, spent)
    again = answer.reason in (Reason.HTTP_ERROR, Reason.TIMEOUT, Reason.TRUNCATED, Reason.BAD_ANSWER)
    return _back_off(line) if again and not spent else Verdict(Action.FAIL)


def _unreached(line: Line, host: Host, answer: Answer, params: Download, now: float, spent: bool) -> Verdict:
    if params.outage_seconds and host.failed(line.number, now, answer.reason):
        line.tries -= 1
        line.seconds_left = max(line.seconds_left, params.timeout_seconds)
        return Verdict(Action.LAST)
    if not spent:
        return _back_off(line)
    return Verdict(Action.PARK if params.outage_seconds else Action.FAIL)


def _back_off(line: Line) -> Verdict:
    return Verdict(Action.BACK_OFF, BACKOFF_SECONDS * 2**line.tries * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
