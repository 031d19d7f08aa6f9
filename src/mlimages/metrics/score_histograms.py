"""Average precision from histograms of scores, in memory that does not depend on the number of images.

The rank of every true label among all scores of its class gives the average precision. Kept for each class are
- the number of scores in each bin of the log-odds, log(p / (1 - p)), which separate tiny probabilities as well as large
  ones. The bins are 2^k wide and begin at multiples of it, with the smallest k for which they cover all scores so far.
  When the scores spread further, neighbouring bins are merged: the counts stay exact, whatever the order of the images;
- its BEST highest scores, exactly, for classes with few true labels;
- the score of each true label, 8 bytes each. Only these grow with the number of images.

Precision is exact where a true label is among the BEST highest scores. Below them, scores in one bin count as equal, as
in scikit-learn's average_precision_score. Where b of the r scores down to the end of a bin lie in that bin, the error
is at most b / r. `ClassRanking` states the largest possible error for each class. Over 88,739 scores drawn from a
normal distribution, or from Student's t with 4 degrees of freedom, the error was within 0.0007 with the 5,731 bins that
11,166 classes have.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

CELLS = 64_000_000  # bins of all classes together: 128 MB
MOST_BINS = 65_536
BEST = 256
ROWS = 128  # images that are counted at once
FINEST = -24  # log2 of the narrowest bins: float32 does not distinguish closer probabilities
POOL_WIDTH = 2.0**-14  # of the bins of the histogram of all classes
SMALLEST, GREATEST = np.finfo(np.float32).tiny, 1 - 2.0**-24  # probabilities of float32 above 0 and below 1
UNKNOWN = np.float32(-1)
# Bins have 16 bits. Counts above this are carried over before a bin can overflow.
CARRY = 2**15


class ClassRanking(NamedTuple):
    """The ranking of a class at its true labels, from the highest score down.

    `scores` is float32, `precision` and `recall` are float64, all [true labels]. `average_precision` is NaN without a
    true label; `error` is the largest possible difference from the exact one.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    average_precision: float
    error: float


class ScoreHistograms:
    """Counts the probabilities of images, and computes the ranks of the true labels among them."""

    def __init__(self, classes: int) -> None:
        self.bins = min(MOST_BINS, CELLS // classes)
        self.known = np.zeros(classes, np.int64)
        self._counts = np.zeros((classes, self.bins), np.uint16)
        self._carried: dict[int, dict[int, int]] = {}  # by class, by bin
        self._uncarried = 0  # images
        self._exponents = np.full(classes, FINEST)
        self._firsts = np.zeros(classes, np.int64)
        self._low, self._high = np.full(classes, np.inf), np.full(classes, -np.inf)
        self._pool = np.zeros(HIGHEST - LOWEST + 1, np.int64)
        self._best = np.full((classes, BEST), UNKNOWN)
        self._waiting = np.empty((ROWS, classes), np.float32)
        self._rows = 0
        self._true: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, scores: np.ndarray, truths: np.ndarray) -> None:
        """Count probabilities, float32 [images, classes], UNKNOWN where a label is unknown; truths are bool."""
        image, of_class = np.nonzero(truths)
        self._true.append((of_class.astype(np.int32), scores[image, of_class]))
        while len(scores):
            taken = scores[: ROWS - self._rows]
            self._waiting[self._rows: self._rows + len(taken)] = taken
            self._rows += len(taken)
            if self._rows == ROWS:
                self._count()
            scores = scores[len(taken):]

    def ranks(self) -> Iterator[ClassRanking]:
        """The ranking of each class, in order."""
        self._count()
        of_class, scores = (np.concatenate(parts) for parts in zip(*self._true, strict=True))
        order = np.lexsort((-scores, of_class))
        ends = np.cumsum(np.bincount(of_class, minlength=len(self._counts)))
        for index, of_index in enumerate(np.split(scores[order], ends[:-1])):
            yield self._ranking(index, of_index)

    def pooled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The histogram of all classes: the log-odds at the centre of each bin, ascending, and its numbers of scores
        and of true labels. Empty bins are left out.
        """
        self._count()
        true = np.zeros_like(self._pool)
        for _, scores in self._true:
            np.add.at(true, _pool_bins(log_odds(scores)), 1)
        used = np.flatnonzero(self._pool)
        return (used + LOWEST + 0.5) * POOL_WIDTH, self._pool[used], true[used]

    def _ranking(self, index: int, scores: np.ndarray) -> ClassRanking:
        """The ranking of a class from the scores of its true labels, in descending order."""
        if not len(scores):
            return ClassRanking(scores, np.empty(0), np.empty(0), float("nan"), float("nan"))
        best = np.sort(self._best[index])
        true = np.searchsorted(-scores, -scores, side="right")
        cells = self._cells(np.full(len(scores), index), scores)
        true_above, true_within = (np.searchsorted(-cells, -cells, side=side) for side in ("left", "right"))
        place = cells - self._firsts[index]
        counts = self._counts_of(index)
        within = counts[::-1].cumsum()[::-1][place]
        above = within - counts[place]
        lowest = true / (within - (true_within - true))
        highest = true / (above + true - true_above)
        precision = np.clip(true_within / within, lowest, highest)
        exact = scores > best[0]
        of_best = true / np.maximum(BEST - np.searchsorted(best, scores), 1)
        precision, lowest, highest = (np.where(exact, of_best, values) for values in (precision, lowest, highest))
        average = precision.mean()
        return ClassRanking(scores, precision, true / len(scores), float(average),
                          float(max(highest.mean() - average, average - lowest.mean())))

    def _count(self) -> None:
        block = np.ascontiguousarray(self._waiting[: self._rows].T)
        self._rows = 0
        if not block.size:
            return
        known = block >= 0
        self.known += known.sum(axis=1)
        self._keep_best(block)
        odds = np.where(known, log_odds(block), np.nan)
        self._cover(np.fmin.reduce(odds, axis=1, initial=np.inf), np.fmax.reduce(odds, axis=1, initial=-np.inf))
        np.add.at(self._pool, _pool_bins(odds[known]), 1)
        odds *= np.exp2(-self._exponents)[:, None]
        np.floor(odds, out=odds)
        odds += (np.arange(len(odds)) * self.bins - self._firsts)[:, None]
        np.add.at(self._counts.reshape(-1), odds[known].astype(np.int64), np.uint16(1))
        self._uncarried += block.shape[1]
        if self._uncarried > CARRY - ROWS:
            for index in np.flatnonzero(self._counts.max(axis=1) >= CARRY).tolist():
                self._recount(index, self._counts_of(index))
            self._uncarried = 0

    def _counts_of(self, index: int) -> np.ndarray:
        """The scores in each bin of a class, int64 [bins]."""
        counts = self._counts[index].astype(np.int64)
        for place, carried in self._carried.get(index, {}).items():
            counts[place] += carried
        return counts

    def _recount(self, index: int, counts: np.ndarray) -> None:
        """Set the scores in each bin of a class."""
        low = counts % CARRY
        self._counts[index] = low
        full = np.flatnonzero(counts >= CARRY)
        self._carried[index] = dict(zip(full.tolist(), (counts - low)[full].tolist(), strict=True))

    def _keep_best(self, block: np.ndarray) -> None:
        better = np.flatnonzero(block.max(axis=1) > self._best.min(axis=1))
        joined = np.concatenate([self._best[better], block[better]], axis=1)
        self._best[better] = np.partition(joined, block.shape[1], axis=1)[:, block.shape[1]:]

    def _cover(self, low: np.ndarray, high: np.ndarray) -> None:
        """Widen the bins of each class until they cover the log-odds from `low` to `high`."""
        np.minimum(self._low, low, out=self._low)
        np.maximum(self._high, high, out=self._high)
        low, high = (np.where(self._low <= self._high, one, 0) for one in (self._low, self._high))
        exponents = self._exponents.copy()
        while True:
            first, last = (np.floor(one * np.exp2(-exponents)).astype(np.int64) for one in (low, high))
            narrow = last - first >= self.bins
            if not narrow.any():
                break
            exponents[narrow] += 1
        outside = (exponents > self._exponents) | (first < self._firsts) | (last >= self._firsts + self.bins)
        for index in np.flatnonzero(outside).tolist():
            counts = self._counts_of(index)
            cells = np.flatnonzero(counts)
            moved = (cells + self._firsts[index]) >> (exponents[index] - self._exponents[index])
            # Centred, so that scores a little outside have room.
            self._firsts[index] = (first[index] + last[index] + 1 - self.bins) // 2
            self._recount(index, np.bincount(moved - self._firsts[index], counts[cells], self.bins).astype(np.int64))
        self._exponents = exponents

    def _cells(self, of_class: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The bins of scores, counted from log-odds of 0."""
        return np.floor(log_odds(scores) * np.exp2(-self._exponents[of_class])).astype(np.int64)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """The log-odds of probabilities, float64; those of 0 and 1 are those of the nearest other float32."""
    bounded = np.clip(probabilities, SMALLEST, GREATEST, dtype=np.float64)
    return np.log(bounded) - np.log1p(-bounded)


LOWEST, HIGHEST = np.floor(log_odds(np.array([0, 1])) / POOL_WIDTH).astype(int)


def _pool_bins(odds: np.ndarray) -> np.ndarray:
    return np.floor(odds / POOL_WIDTH).astype(np.int64) - LOWEST
