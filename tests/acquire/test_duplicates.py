"""Duplicates are found anywhere in a list, with a few bytes of memory per line."""

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mlimages.acquire import duplicates
from mlimages.acquire.duplicates import LineDigests

FACTOR = 0x9E3779B97F4A7C15


def _digest(number: int) -> bytes:
    return (number * FACTOR % 2**64).to_bytes(8)


def _digests(first: int, count: int) -> bytes:
    """The digests of successive numbers."""
    return (np.arange(first, first + count, dtype=np.uint64) * np.uint64(FACTOR)).astype(">u8").tobytes()


@pytest.mark.parametrize("lines", [0, 1, 2, 9, 200])
@pytest.mark.parametrize("different", [1, 5, 1000])
def test_duplicates_are_those_that_a_dictionary_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int,
                                                   different: int) -> None:
    monkeypatch.setattr(duplicates, "CHUNK", 7)
    rng = random.Random(lines + different)  # noqa: S311
    first: dict[int, int] = {}
    expected, conflicting = [], 0
    with LineDigests(tmp_path) as digests:
        for line in range(lines):
            source, labels = rng.randrange(different), rng.randrange(2)
            digests.add(_digest(source), _digest(labels))
            if source in first:
                expected.append(line)
                conflicting += labels != first[source]
            first.setdefault(source, labels)
        found = digests.duplicates()
    assert (found.lines.tolist(), found.conflicting) == (expected, conflicting)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_a_few_bytes_per_line(tmp_path: Path) -> None:
    assert _digests(3, 2) == _digest(3) + _digest(4)
    lines = 3 * duplicates.CHUNK
    with LineDigests(tmp_path) as digests:
        tracemalloc.start()
        for number in range(0, lines, 1024):
            digests.add(_digests(number, 1024), bytes(8 * 1024))
        digests.add(_digest(5), bytes(8))
        assert digests.duplicates().lines.tolist() == [lines]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 22 * lines
