"""Find the images that are in both train and val, with 8 bytes of memory per validation line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlimages.acquire.duplicates import read_digests
from mlimages.acquire.selection import Selection

COLUMNS = ("list", "source")


def shared_digests(train: Path, val: Path) -> np.ndarray:
    """The digests that two files of `LineDigests.save` have in common, uint64, ascending."""
    wanted = np.unique(np.fromfile(val, np.uint64))
    with train.open("rb") as file:
        found = [chunk[np.isin(chunk, wanted)] for chunk in read_digests(file)]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *found]))


def sources_of(digests: np.ndarray, published: Path, selection: Selection) -> Iterator[str]:
    """Yield the sources of a published list that have one of these digests, in list order."""
    wanted = set(digests.tolist())
    if not wanted:
        return
    with published.open("rb") as lines:
        for line in lines:
            source = line.partition(b"\t")[0].decode()
            if int(np.frombuffer(selection.digest(source), np.uint64)[0]) in wanted:
                yield source
