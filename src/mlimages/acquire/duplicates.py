"""Find images that a list has twice, or that train and val share, with 8 to 16 bytes of memory for each line."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mlimages.acquire.selection import Selection
from mlimages.core.publish import atomic_write

CHUNK = 2**20  # digests read at a time
SHARED_COLUMNS = ("list", "source")  # of the table of images that are in train and in val


class Duplicates(NamedTuple):
    """The lines that repeat an earlier line's source.

    `lines`: line numbers from 0, int64, ascending.
    `conflicting`: how many of these lines have other labels than the first line with the same source.
    """

    lines: np.ndarray
    conflicting: int


class LineDigests:
    """8-byte digests of the source and the labels of each line, in temporary files in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._sources: BinaryIO = tempfile.TemporaryFile(dir=folder)
        self._labels: BinaryIO = tempfile.TemporaryFile(dir=folder)

    def __enter__(self) -> "LineDigests":
        return self

    def __exit__(self, *_: object) -> None:
        self._sources.close()
        self._labels.close()

    def add(self, source: bytes, labels: bytes) -> None:
        self._sources.write(source)
        self._labels.write(labels)

    def save(self, path: Path) -> None:
        """Write the digests of the sources to a file, in line order."""
        with atomic_write(path) as file:
            for chunk in read_digests(self._sources):
                file.write(chunk.tobytes())

    def duplicates(self) -> Duplicates:
        """Find the lines that repeat the source of an earlier line."""
        ordered = np.concatenate([np.empty(0, np.uint64), *read_digests(self._sources)])
        ordered.sort()
        repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        del ordered
        lines, sources, labels = self._lines_with(repeated)
        order = np.argsort(sources, kind="stable")
        lines, sources, labels = lines[order], sources[order], labels[order]
        is_first = np.append(True, sources[1:] != sources[:-1])[: len(sources)]
        first_labels = labels[is_first][np.cumsum(is_first) - 1]
        return Duplicates(np.sort(lines[~is_first]), int(np.sum(labels != first_labels)))

    def _lines_with(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The lines that have one of these source digests: line numbers, source digests and label digests."""
        found = [(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint64))]
        if len(wanted):
            for number, (sources, labels) in enumerate(zip(read_digests(self._sources), read_digests(self._labels),
                                                           strict=True)):
                places = np.flatnonzero(np.isin(sources, wanted))
                found.append((number * CHUNK + places, sources[places], labels[places]))
        lines, sources, labels = (np.concatenate(column) for column in zip(*found, strict=True))
        return lines, sources, labels


def shared_sources(train: Path, val: Path, published: Path, selection: Selection) -> Iterator[str]:
    """Yield the sources of a published validation list that the training list has too, in list order.

    `train` and `val` are the files of `LineDigests.save`.
    """
    wanted = np.unique(np.fromfile(val, np.uint64))
    with train.open("rb") as file:
        shared = {digest for chunk in read_digests(file) for digest in chunk[np.isin(chunk, wanted)].tolist()}
    if not shared:
        return
    with published.open("rb") as lines:
        for line in lines:
            source = line.partition(b"\t")[0].decode()
            if int(np.frombuffer(selection.digest(source), np.uint64)[0]) in shared:
                yield source


def read_digests(file: BinaryIO) -> Iterator[np.ndarray]:
    """Yield all digests of a file, uint64, at most CHUNK at a time."""
    file.seek(0)
    while content := file.read(8 * CHUNK):
        yield np.frombuffer(content, np.uint64)
