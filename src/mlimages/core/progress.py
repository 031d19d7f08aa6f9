"""One progress bar for every stage: quiet enough for a log, honest about what is left."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from mlimages.core.params import Machine

LOG_SHARE = 0.02  # of the time that it has taken


class ProgressBar(tqdm):
    """A tqdm bar that speaks at most once in `mininterval` seconds.

    In a log, where every word stays, it then keeps quiet for a LOG_SHARE of the time it has taken, if that is longer.
    """

    def refresh(self, *how: Any, **more: Any) -> Any:
        if not self.fp.isatty():
            self.mininterval = self.maxinterval = max(self.mininterval, LOG_SHARE * self.format_dict["elapsed"])
        return super().refresh(*how, **more)

    def refresh_if_due(self, beside: Callable[[], str]) -> None:
        """Where it is time to speak, speak, also if nothing has ended since; `beside()` stands beside the bar."""
        if time.time() - self.last_print_t >= self.mininterval:
            self.set_postfix_str(beside(), refresh=False)
            self.miniters = 0
            self.update(0)


def progress_bar(title: str, *, total: int, unit: str, machine: Machine, done: int = 0) -> ProgressBar:
    """A bar that speaks at most once in `machine.progress_seconds`; `done` units came from an earlier run."""
    return ProgressBar(desc=title, total=total, initial=done, unit=unit, file=sys.stdout, ascii=True,
               mininterval=machine.progress_seconds, maxinterval=machine.progress_seconds)
