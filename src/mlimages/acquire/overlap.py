"""Images that are in train and in val, found with 8 bytes of memory for each validation line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlimages.acquire.duplicates import chunks
from mlimages.acquire.selection import Selection

COLUMNS = ("list", "source")


def shared_digests(train: Path, val: Path) -> np.ndarray:
    """The digests of sources, uint64, ascending, that two files written by `LineDigests.keep` have in common."""
    wanted = np.unique(np.fromfile(val, np.uint64))
    with train.open("rb") as file:
        found = [chunk[np.isin(chunk, wanted)] for chunk in chunks(file)]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *found]))


def sources_of(digests: np.ndarray, published: Path, selection: Selection) -> Iterator[str]:
    """The sources of a published list, in its order, that have one of these digests."""
    wanted = set(digests.tolist())
    if not wanted:
        return
    with published.open("rb") as lines:
        for line in lines:
            source = line.partition(b"\t")[0].decode()
            if int(np.frombuffer(selection.digest(source), np.uint64)[0]) in wanted:
                yield source
