"""The progress bar of every stage: it prints rarely enough for a log file, and shows what is left."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from mlimages.core.params import Machine

LOG_SHARE = 0.02  # of the elapsed time


class ProgressBar(tqdm):
    """A tqdm bar that prints at most once in `mininterval` seconds.

    In a log, which keeps every line, the interval grows to LOG_SHARE of the elapsed time.
    """

    def refresh(self, *arguments: Any, **options: Any) -> Any:
        if not self.fp.isatty():
            self.mininterval = self.maxinterval = max(self.mininterval, LOG_SHARE * self.format_dict["elapsed"])
        return super().refresh(*arguments, **options)

    def refresh_if_due(self, postfix: Callable[[], str]) -> None:
        """Print the bar and the text `postfix()` when a line is due, even if nothing finished since the last one."""
        if time.time() - self.last_print_t >= self.mininterval:
            self.set_postfix_str(postfix(), refresh=False)
            self.miniters = 0
            self.update(0)


def progress_bar(title: str, *, total: int, unit: str, machine: Machine, done: int = 0) -> ProgressBar:
    """A bar that prints at most once in `machine.progress_seconds`. It starts at `done` units, of an earlier run."""
    return ProgressBar(desc=title, total=total, initial=done, unit=unit, file=sys.stdout, ascii=True,
               mininterval=machine.progress_seconds, maxinterval=machine.progress_seconds)
