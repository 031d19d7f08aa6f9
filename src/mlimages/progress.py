"""One progress bar for every stage: quiet enough for a log, honest about what is left."""

import sys
from typing import Any

from tqdm import tqdm

from mlimages.params import Machine


def progress(title: str, *, total: int, unit: str, machine: Machine, done: int = 0) -> "tqdm[Any]":
    """A tqdm bar that speaks at most once in `machine.progress_seconds`; `done` units came from an earlier run."""
    return tqdm(desc=title, total=total, initial=done, unit=unit, file=sys.stdout, ascii=True,
                mininterval=machine.progress_seconds, maxinterval=machine.progress_seconds)
