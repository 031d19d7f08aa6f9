"""Which record is the n-th of training: arithmetic on positions, so that training can begin at any step at once.

An epoch reads every record once: the shards in an order of their own, INTERLEAVED of them at a time record by record in
turn, and what comes of that mixed within windows of so many records. All of it follows from the seed alone; nothing is
kept but a few windows of numbers.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

# Shards read at the same time; part of what determines the order, so no setting of the machine.
INTERLEAVED = 16
KEPT_WINDOWS = 8
# What a random stream is for; the first number of its seed.
SHARDS, WINDOWS = 1, 2


class Order:
    """The endless order of the records of shards with so many records each, by a seed.

    `window` is the number of records that are mixed with each other, as a shuffle buffer of that length would.
    """

    def __init__(self, counts: Sequence[int], seed: int, window: int) -> None:
        self._counts = np.array(counts, np.int64)
        self._seed, self._window_records = seed, window
        self.epoch_records = int(self._counts.sum())
        self._window = lru_cache(KEPT_WINDOWS)(self._make_window)

    def positions(self, first: int, last: int) -> np.ndarray:
        """The shard and the number in it of the records `first` to `last` - 1: int64 [last - first, 2]."""
        found = [np.empty((0, 2), np.int64)]
        while first < last:
            epoch, place = divmod(first, self.epoch_records)
            number, inside = divmod(place, self._window_records)
            piece = self._window(epoch, number)[inside: inside + last - first]
            found.append(piece)
            first += len(piece)
        return np.concatenate(found)

    def _make_window(self, epoch: int, number: int) -> np.ndarray:
        begin = number * self._window_records
        end = min(begin + self._window_records, self.epoch_records)
        mixed = np.random.default_rng([WINDOWS, self._seed, epoch, number])
        return mixed.permutation(np.concatenate([*self._interleaved(epoch, begin, end)]))

    def _interleaved(self, epoch: int, begin: int, end: int) -> Iterator[np.ndarray]:
        """The records `begin` to `end` - 1 of an epoch before they are mixed."""
        shards = np.random.default_rng([SHARDS, self._seed, epoch]).permutation(len(self._counts))
        start = 0
        for index in range(0, len(shards), INTERLEAVED):
            group = shards[index: index + INTERLEAVED]
            length = int(self._counts[group].sum())
            places = np.arange(max(begin - start, 0), min(end - start, length))
            if len(places):
                yield _in_turn(group, self._counts[group], places)
            start += length


def _in_turn(shards: np.ndarray, counts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The records at these places where each shard gives one in turn for as long as it has any."""
    found = np.empty((len(places), 2), np.int64)
    level = passed = 0
    for next_level in np.unique(counts):
        active = shards[counts > level]
        here = (places >= passed) & (places < passed + (next_level - level) * len(active))
        inside = places[here] - passed
        found[here, 0] = active[inside % len(active)]
        found[here, 1] = level + inside // len(active)
        passed += (next_level - level) * len(active)
        level = next_level
    return found
