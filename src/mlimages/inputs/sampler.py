"""The order of the training records, computed from their positions, so that a training can start at any step.

An epoch reads every record once. It takes the shards in a random order, INTERLEAVED of them at a time, and one record
of each in turn. It then shuffles the sequence within windows of a fixed length. The order depends only on the seed.
Only a few windows are kept in memory.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

# Shards that are read at the same time. They decide the order, so they are no setting of the machine.
INTERLEAVED = 16
CACHED_WINDOWS = 8
# The first number of a random stream's seed says what the stream is for.
SHARDS, WINDOWS = 1, 2


class RecordSampler:
    """The endless order of the records of shards with `counts` records each.

    `window` is the number of records that are shuffled together, like the length of a shuffle buffer.
    """

    def __init__(self, counts: Sequence[int], seed: int, window: int) -> None:
        self._counts = np.array(counts, np.int64)
        self._seed, self._window_records = seed, window
        self.epoch_records = int(self._counts.sum())
        self._window = lru_cache(CACHED_WINDOWS)(self._make_window)

    def positions(self, first: int, last: int) -> np.ndarray:
        """Shard and index in the shard of the records `first` to `last` - 1: int64 [last - first, 2]."""
        pieces = [np.empty((0, 2), np.int64)]
        while first < last:
            epoch, place = divmod(first, self.epoch_records)
            number, inside = divmod(place, self._window_records)
            piece = self._window(epoch, number)[inside: inside + last - first]
            pieces.append(piece)
            first += len(piece)
        return np.concatenate(pieces)

    def _make_window(self, epoch: int, number: int) -> np.ndarray:
        begin = number * self._window_records
        end = min(begin + self._window_records, self.epoch_records)
        rng = np.random.default_rng([WINDOWS, self._seed, epoch, number])
        return rng.permutation(np.concatenate([*self._interleaved(epoch, begin, end)]))

    def _interleaved(self, epoch: int, begin: int, end: int) -> Iterator[np.ndarray]:
        """The records `begin` to `end` - 1 of an epoch before they are shuffled."""
        shards = np.random.default_rng([SHARDS, self._seed, epoch]).permutation(len(self._counts))
        start = 0
        for index in range(0, len(shards), INTERLEAVED):
            group = shards[index: index + INTERLEAVED]
            length = int(self._counts[group].sum())
            places = np.arange(max(begin - start, 0), min(end - start, length))
            if len(places):
                yield _round_robin(group, self._counts[group], places)
            start += length


def _round_robin(shards: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The records at these places of a sequence that takes one record of each shard in turn until all are read."""
    positions = np.empty((len(places), 2), np.int64)
    level = passed = 0
    for next_level in np.unique(counts):
        active = shards[counts > level]
        here = (places >= passed) & (places < passed + (next_level - level) * len(active))
        inside = places[here] - passed
        positions[here, 0] = active[inside % len(active)]
        positions[here, 1] = level + inside // len(active)
        passed += (next_level - level) * len(active)
        level = next_level
    return positions
