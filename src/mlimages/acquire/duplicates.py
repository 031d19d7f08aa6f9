"""Which lines of a list repeat an earlier one's source, found with a few bytes of memory for each line."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mlimages.core.publish import atomic

CHUNK = 2**20


class Duplicates(NamedTuple):
    """Lines to leave out, int64, ascending, from 0, and how many of them have other labels than the first had."""

    lines: np.ndarray
    conflicting: int


class LineDigests:
    """8-byte digests of each line's source and labels, kept on disk in `folder` until the block ends."""

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
        """Write the sources' digests to a file, in the order of the lines."""
        with atomic(path) as file:
            for chunk in chunks(self._sources):
                file.write(chunk.tobytes())

    def duplicates(self) -> Duplicates:
        """Of the lines added, those whose source an earlier one had."""
        ordered = np.concatenate([np.empty(0, np.uint64), *chunks(self._sources)])
        ordered.sort()
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        del ordered
        lines, sources, labels = self._of_sources(twice)
        order = np.argsort(sources, kind="stable")
        lines, sources, labels = lines[order], sources[order], labels[order]
        is_first = np.append(True, sources[1:] != sources[:-1])[: len(sources)]
        first_labels = labels[is_first][np.cumsum(is_first) - 1]
        return Duplicates(np.sort(lines[~is_first]), int(np.sum(labels != first_labels)))

    def _of_sources(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The lines that have one of these source digests, with their digests of source and labels."""
        found = [(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint64))]
        if len(wanted):
            for number, (sources, labels) in enumerate(zip(chunks(self._sources), chunks(self._labels), strict=True)):
                places = np.flatnonzero(np.isin(sources, wanted))
                found.append((number * CHUNK + places, sources[places], labels[places]))
        lines, sources, labels = (np.concatenate(column) for column in zip(*found, strict=True))
        return lines, sources, labels


def chunks(file: BinaryIO) -> Iterator[np.ndarray]:
    """The digests in a file, from its start, uint64 [CHUNK at most] at a time."""
    file.seek(0)
    while content := file.read(8 * CHUNK):
        yield np.frombuffer(content, np.uint64)
