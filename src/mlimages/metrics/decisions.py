"""Precision, recall and F1 of what a network decides: the k best classes of an image, or all above a score.

Label-based figures count over all decisions (`micro_`), or are means over the classes that have a true image
(`macro_`); instance-based ones (`instance_`) are means over the images. A share of nothing is 0, as in scikit-learn
with zero_division=0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Decided(NamedTuple):
    """Of each class, int64 [classes]: images that it was predicted for, those where it is true, and both at once."""

    predicted: np.ndarray
    true: np.ndarray
    hits: np.ndarray

    def by_class(self) -> dict[str, np.ndarray]:
        """float64 [classes]."""
        return {"precision": _share(self.hits, self.predicted), "recall": _share(self.hits, self.true),
                "f1": _share(2 * self.hits, self.predicted + self.true)}


class Decisions:
    """Counts, image by image, what is predicted at one cutoff. With `parents` of the classes, int [classes] and -1 at
    a root, also how often a class is predicted without its parent.
    """

    def __init__(self, classes: int, parents: Sequence[int] | None = None) -> None:
        self.decided = Decided(*np.zeros((3, classes), np.int64))
        self._parents = None if parents is None else np.asarray(parents)
        self._images = self._children = self._orphans = 0
        self._instances = np.zeros(3)

    def update(self, image: np.ndarray, of_class: np.ndarray, truths: np.ndarray) -> None:
        """The decisions of a batch, as pairs int [decisions]; truths are bool [images, classes]."""
        images, classes = truths.shape
        hit = truths[image, of_class]
        for total, found in zip(self.decided, (np.bincount(of_class, minlength=classes), truths.sum(axis=0),
                                               np.bincount(of_class[hit], minlength=classes)), strict=True):
            total += found
        predicted, hits = (np.bincount(one, minlength=images) for one in (image, image[hit]))
        true = truths.sum(axis=1)
        self._images += images
        self._instances += [_share(hits, predicted).sum(), _share(hits, true).sum(),
                            _share(2 * hits, predicted + true).sum()]
        if self._parents is not None:
            together = np.zeros(truths.shape, bool)
            together[image, of_class] = True
            child = self._parents[of_class] >= 0
            self._children += int(child.sum())
            self._orphans += int((~together[image[child], self._parents[of_class[child]]]).sum())

    def figures(self) -> dict[str, float]:
        """All between 0 and 1; `without_parent` is a share of the decisions for a class that has a parent."""
        total = Decided(*(np.array([one.sum()]) for one in self.decided))
        named = self.decided.true > 0
        found = {f"micro_{name}": float(value[0]) for name, value in total.by_class().items()}
        found |= {f"macro_{name}": float(value[named].mean()) for name, value in self.decided.by_class().items()}
        found |= {f"instance_{name}": float(value / self._images)
                  for name, value in zip(("precision", "recall", "f1"), self._instances, strict=True)}
        return found if self._parents is None else {**found, "without_parent": self._orphans / max(self._children, 1)}


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The `k` classes of the highest scores, or as many as there are, int32 [images, k], the highest first.

    Of equal scores the lower class comes first.
    """
    return tf.math.top_k(scores, min(k, scores.shape[1])).indices.numpy()


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)
