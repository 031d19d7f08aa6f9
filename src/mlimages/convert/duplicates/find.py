"""Finds duplicates by their fingerprints, in memory: about 75 bytes for each image, and 100 with perceptual hashes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlimages.convert.duplicates.fingerprints import read_fingerprints

BITS, BANDS = 64, 4
NEAR_BITS = BANDS - 1  # hashes that differ in so few bits have a band of 16 bits in common
CHUNK = 2**20
DUPLICATES = "duplicates.csv"
COLUMNS = ("kind", "different_bits", "key", "duplicate_of")


class DuplicateImages(NamedTuple):
    """The images that have a duplicate before them: `positions`, `originals` and `different_bits`, int64 [duplicates].

    Positions count the training images, then the validation images. The original is the first of all duplicates, and
    a file with the same content rather than one that looks alike, unless only the latter is a training image.
    `is_exact` says whether the contents are the same, and `train_images` is the number of training images.
    """

    positions: np.ndarray
    originals: np.ndarray
    different_bits: np.ndarray
    is_exact: np.ndarray
    train_images: int

    @property
    def in_train(self) -> np.ndarray:
        """Whether each is a validation image with a duplicate among the training images."""
        return (self.positions >= self.train_images) & (self.originals < self.train_images)

    def where(self, chosen: np.ndarray) -> "DuplicateImages":
        """Those that `chosen`, bool [duplicates], selects."""
        return DuplicateImages(self.positions[chosen], self.originals[chosen], self.different_bits[chosen],
                               self.is_exact[chosen], self.train_images)

    def counts(self) -> dict[str, dict[str, int]]:
        """The number of images that repeat an earlier one, by kind: within train, within val, and of val in train."""
        places = np.where(self.in_train, "val_in_train", np.where(self.positions < self.train_images, "train", "val"))
        return {kind: {place: int(np.sum((places == place) & (self.is_exact == exact)))
                       for place in ("train", "val", "val_in_train")}
                for kind, exact in (("exact", True), ("near", False))}


def find_duplicates(train: list[Path], val: list[Path], *, near: bool) -> DuplicateImages:
    """Compare the fingerprints in these files, those of alike pictures only if `near`."""
    content = _column(train + val, "content")
    own = np.arange(len(content))
    train_images = sum(len(read_fingerprints(path)) for path in train)
    originals, is_exact = first_equal(content), np.ones(len(content), bool)
    bits = np.zeros(len(content), np.int64)
    del content
    if near:
        hashes = _column(train + val, "perceptual")
        alike = first_near(hashes)
        is_exact = (originals < own) & ~((alike < train_images) & (originals >= train_images))
        originals = np.where(is_exact, originals, alike)
        bits = np.bitwise_count(hashes ^ hashes[originals]).astype(np.int64)
    found = np.flatnonzero(originals < own)
    return DuplicateImages(found, originals[found], bits[found], is_exact[found], train_images)


def first_equal(values: np.ndarray) -> np.ndarray:
    """The position of the first element that equals each element, int64 [elements]."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def first_near(hashes: np.ndarray) -> np.ndarray:
    """The position of the first hash that differs from each hash in at most NEAR_BITS bits, int64 [hashes].

    Two such hashes have at least one of the BANDS in common, so only hashes with a common band are compared.
    """
    values, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    best = first.copy()
    for band in range(BANDS):
        band_values = (values >> np.uint64(band * BITS // BANDS)).astype(np.uint16)
        order = np.argsort(band_values, kind="stable")
        for one, other in _near_pairs(values[order], band_values[order]):
            np.minimum.at(best, order[one], first[order[other]])
            np.minimum.at(best, order[other], first[order[one]])
    return best[inverse]


def _near_pairs(hashes: np.ndarray, groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the positions of near hashes of the same group; equal `groups` follow each other."""
    for begin in range(0, len(hashes), CHUNK):
        at, step = np.arange(begin, min(begin + CHUNK, len(hashes))), 1
        while len(at):
            at = at[at + step < len(hashes)]
            at = at[groups[at] == groups[at + step]]
            is_near = np.bitwise_count(hashes[at] ^ hashes[at + step]) <= NEAR_BITS
            yield at[is_near], at[is_near] + step
            step += 1


def rows(duplicates: DuplicateImages, paths: Sequence[Path]) -> Iterator[tuple[str, int, str, str]]:
    """Yield a row of COLUMNS for each duplicate. `paths` are the files of fingerprints of both parts."""
    keys, originals = (_keys(paths, positions) for positions in (duplicates.positions, duplicates.originals))
    for is_exact, bits, key, original in zip(duplicates.is_exact.tolist(), duplicates.different_bits.tolist(),
                                             keys.tolist(), originals.tolist(), strict=True):
        yield "exact" if is_exact else "near", bits, key.decode(), original.decode()


def _column(paths: Sequence[Path], name: str) -> np.ndarray:
    return np.concatenate([np.empty(0, np.uint64), *(read_fingerprints(path)[name] for path in paths)])


def _keys(paths: Sequence[Path], positions: np.ndarray) -> np.ndarray:
    """The keys of the images at these positions, bytes [positions]."""
    keys = np.empty(len(positions), "S32")
    order = np.argsort(positions, kind="stable")
    begin = 0
    for path in paths:
        shard = read_fingerprints(path)
        first, last = np.searchsorted(positions[order], [begin, begin + len(shard)])
        keys[order[first:last]] = shard["key"][positions[order[first:last]] - begin]
        begin += len(shard)
    return keys
