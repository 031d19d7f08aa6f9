"""What a person sees while it downloads, and what the log gets."""

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from mlimages.download.hosts import Domain
from mlimages.download.ledger import Reason
from mlimages.download.spool import Entry
from mlimages.params import Machine
from mlimages.progress import progress


class Report:
    """A progress bar with speeds, reasons and the hosts that slow us, and the released downloader's log lines."""

    def __init__(self, machine: Machine, total: int, done: int) -> None:
        self._bar = progress("download", total=total, done=done, unit=" lines", machine=machine)
        self._reasons: Counter[Reason] = Counter()
        self._bytes, self._begun = 0, time.monotonic()
        self._total, self._images = total, 0
        self._log: TextIO | None = None
        if machine.download_log:
            self._log = Path(machine.download_log).open("a", encoding="utf-8", buffering=1)

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *exception: object) -> None:
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
                self._log.write(f"url = {url} is finished and {self._images} imgs have been downloaded of all "
                                f"{self._total} imgs\n")
        self._bar.update()

    def show(self, domains: Iterable[Domain]) -> None:
        """Refresh what stands beside the bar, when the bar speaks next."""
        seconds = max(time.monotonic() - self._begun, 1e-3)
        reasons = ", ".join(f"{reason} {lines:,}" for reason, lines in self._reasons.most_common(4))
        slow = sorted((domain.pace.rate, domain.name) for domain in domains if domain.pace.slowed)[:3]
        hosts = "".join(f", {name} wants {rate:.3g}/s" for rate, name in slow)
        self._bar.set_postfix_str(f"{self._images / seconds:,.1f} images/s, {self._bytes / seconds / 1e6:,.1f} MB/s; "
                                  f"{reasons}{hosts}", refresh=False)
