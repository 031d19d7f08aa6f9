"""What a person sees while it downloads, and what the log gets."""

import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TextIO

from mlimages.core.params import Machine
from mlimages.core.progress import progress_bar
from mlimages.download.ledger import Reason
from mlimages.download.schedule.scheduler import Scheduler
from mlimages.download.spool import Entry

NAMED = 3  # hosts of each kind of trouble
PAUSE_SECONDS = 1.0  # the least that is called one
ENOUGH_ANSWERS = 50  # to warn of


class Report:
    """A progress bar with speeds, reasons and the hosts that slow us, and the released downloader's log lines.

    Of the `total` lines earlier runs ended `done`, of which they got so many `images`.
    """

    def __init__(self, machine: Machine, total: int, done: int, images: int) -> None:
        self._bar = progress_bar("download", total=total, done=done, unit=" lines", machine=machine)
        self._reasons: Counter[Reason] = Counter()
        self._bytes, self._begun = 0, time.monotonic()
        self._total, self._images, self._images_before = total, 0, images
        self._log: TextIO | None = None
        self._warned = False
        if machine.download_log:
            self._log = Path(machine.download_log).open("a", encoding="utf-8", buffering=1)

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.set_postfix_str(self._figures(), refresh=False)
        self._bar.close()
        if self._log:
            self._log.close()

    def count(self, url: str, entry: Entry) -> None:
        """One line has ended."""
        self._reasons[entry.reason] += 1
        if entry.stored:
            self._bytes += entry.stored.bytes
            self._images += 1
            if self._log:
                self._log.write(f"url = {url} is finished and {self._images_before + self._images} imgs have been "
                                f"downloaded of all {self._total} imgs\n")
        self._bar.n += 1

    def show(self, scheduler: Scheduler) -> None:
        """Say how far it is and what it waits for, where it is time to."""
        warning = mostly_errors(scheduler.recent)
        if warning and not self._warned:
            self._bar.write(f"WARNING: {warning}; is it the list, the network or a proxy, or do hosts refuse us "
                            f"(download.rate_per_host, download.headers)?", file=sys.stdout)
        self._warned = bool(warning)
        self._bar.refresh_if_due(lambda: "; ".join([*([f"WARNING: {warning}"] if warning else []), self._figures(),
                                          *_troubles(scheduler, time.monotonic())]))

    def _figures(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-3)
        reasons = ", ".join(f"{reason} {lines:,}" for reason, lines in self._reasons.most_common(4))
        return f"{self._images / seconds:,.1f} images/s, {self._bytes / seconds / 1e6:,.1f} MB/s; {reasons}"


def mostly_errors(recent: Collection[Reason]) -> str:
    """What to warn of while most of the recent answers are errors, else ""."""
    reasons = Counter(recent)
    errors = len(recent) - reasons.pop(Reason.OK, 0)
    if len(recent) < ENOUGH_ANSWERS or errors <= len(recent) / 2:
        return ""
    most = ", ".join(f"{reason} {answers}" for reason, answers in reasons.most_common(NAMED))
    return f"{errors} of the last {len(recent)} answers are errors ({most})"


def _troubles(scheduler: Scheduler, now: float) -> Iterator[str]:
    """What it waits for: the network, the domains that want pauses or a slower pace, the hosts where nobody answers."""
    if (since := scheduler.outage.away_since) is not None:
        yield f"the network has been away for {now - since:.0f} s"
    domains = scheduler.domains.values()
    waits = {domain: domain.pace.ready_at() - now for domain in domains}
    paused = sorted(((seconds, domain.name) for domain, seconds in waits.items() if seconds > PAUSE_SECONDS),
                    reverse=True)
    slow = sorted((domain.pace.rate, domain.name) for domain, seconds in waits.items()
                  if domain.pace.slowed and seconds <= PAUSE_SECONDS)
    silent = sorted((host.suspended_at, host.name) for domain in domains for host in domain.hosts.values()
                    if host.suspended_at is not None)
    yield from _few("paused", [f"{name} for {seconds:.0f} s more" for seconds, name in paused])
    yield from _few("slow", [f"{name} wants {rate:.3g}/s" for rate, name in slow])
    yield from _few("silent", [f"{name} for {now - since:.0f} s" for since, name in silent])


def _few(what: str, said: list[str]) -> Iterator[str]:
    if said:
        more = f" and {len(said) - NAMED:,} more" if len(said) > NAMED else ""
        yield f"{what}: {', '.join(said[:NAMED])}{more}"
