"""The progress bar and the log of a download."""

import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TextIO

from mlimages.core.params import Machine
from mlimages.core.progress import progress_bar
from mlimages.download.ledger import Reason
from mlimages.download.lines import Shard
from mlimages.download.schedule.scheduler import Scheduler
from mlimages.download.spool import LineResult

NAMED = 3  # hosts in each list
PAUSE_SECONDS = 1.0  # shorter pauses are not shown
ENOUGH_ANSWERS = 50  # for a warning


class Report:
    """A progress bar with rates, reasons and slow hosts, and a log with the lines of the released downloader.

    Earlier runs ended `done` of the `total` lines, with `images` images.
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

    def count(self, url: str, result: LineResult) -> None:
        """Count a line that has ended."""
        self._reasons[result.reason] += 1
        if result.image:
            self._bytes += result.image.bytes
            self._images += 1
            if self._log:
                self._log.write(f"url = {url} is finished and {self._images_before + self._images} imgs have been "
                                f"downloaded of all {self._total} imgs\n")
        self._bar.n += 1

    def fetch_again(self, shard: Shard, lines: int) -> None:
        """Some lines of a shard count as not fetched any more."""
        self._bar.n -= lines
        self._bar.write(f"WARNING: {lines:,} images of the shard {shard.name} are missing or damaged in scratch; they "
                        f"are fetched again", file=sys.stdout)

    def show(self, scheduler: Scheduler) -> None:
        """Update the progress bar if it is due."""
        warning = mostly_errors(scheduler.recent)
        if warning and not self._warned:
            self._bar.write(f"WARNING: {warning}; check the list, the network, the proxy and whether hosts "
                            f"refuse us (download.rate_per_host, download.headers)", file=sys.stdout)
        self._warned = bool(warning)
        self._bar.refresh_if_due(lambda: "; ".join([*([f"WARNING: {warning}"] if warning else []), self._figures(),
                                          *_delays(scheduler, time.monotonic())]))

    def _figures(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-3)
        reasons = ", ".join(f"{reason} {lines:,}" for reason, lines in self._reasons.most_common(4))
        return f"{self._images / seconds:,.1f} images/s, {self._bytes / seconds / 1e6:,.1f} MB/s; {reasons}"


def mostly_errors(recent: Collection[Reason]) -> str:
    """A warning if most of the recent responses are errors, else ""."""
    reasons = Counter(recent)
    errors = len(recent) - reasons.pop(Reason.OK, 0)
    if len(recent) < ENOUGH_ANSWERS or errors <= len(recent) / 2:
        return ""
    most = ", ".join(f"{reason} {answers}" for reason, answers in reasons.most_common(NAMED))
    return f"{errors} of the last {len(recent)} responses are errors ({most})"


def _delays(scheduler: Scheduler, now: float) -> Iterator[str]:
    """Why the download is slow: a network outage, domains with pauses or lower rates, hosts that do not answer."""
    if (since := scheduler.outage.down_since) is not None:
        yield f"the network has been down for {now - since:.0f} s"
    domains = scheduler.domains.values()
    waits = {domain: domain.rate_limiter.ready_at() - now for domain in domains}
    paused = sorted(((seconds, domain.name) for domain, seconds in waits.items() if seconds > PAUSE_SECONDS),
                    reverse=True)
    slow = sorted((domain.rate_limiter.rate, domain.name) for domain, seconds in waits.items()
                  if domain.rate_limiter.slowed and seconds <= PAUSE_SECONDS)
    unreachable = sorted((host.suspended_at, host.name) for domain in domains for host in domain.hosts.values()
                    if host.suspended_at is not None)
    yield from _shortened("paused", [f"{name} for {seconds:.0f} s more" for seconds, name in paused])
    yield from _shortened("slow", [f"{name} accepts {rate:.3g}/s" for rate, name in slow])
    yield from _shortened("unreachable", [f"{name} for {now - since:.0f} s" for since, name in unreachable])


def _shortened(kind: str, texts: list[str]) -> Iterator[str]:
    if texts:
        more = f" and {len(texts) - NAMED:,} more" if len(texts) > NAMED else ""
        yield f"{kind}: {', '.join(texts[:NAMED])}{more}"
