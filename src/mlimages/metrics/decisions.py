"""Precision, recall and F1 at a cutoff: the k best classes of an image, or all classes at or above a score.

Label-based metrics count all decisions together (`micro_`), or are means over the classes with a positive (`macro_`);
instance-based ones (`instance_`) are means over the images. A share of nothing is 0, as in scikit-learn with
zero_division=0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

NEARLY_ALL = 0.9  # the share of images from which a class is too common to show


class PrecisionRecallCounts(NamedTuple):
    """For each class, int64 [classes]: images where it is predicted, where it is true, and where it is both."""

    predicted: np.ndarray
    positives: np.ndarray
    true_positives: np.ndarray

    def by_class(self) -> dict[str, np.ndarray]:
        """Precision, recall and F1 of each class, float64 [classes]."""
        return {"precision": _share(self.true_positives, self.predicted),
                "recall": _share(self.true_positives, self.positives),
                "f1": _share(2 * self.true_positives, self.predicted + self.positives)}


class PrecisionRecallAccumulator:
    """Counts the decisions at one cutoff, batch by batch.

    `parents`, int [classes], are the parents in the class tree, -1 for a root. With them, the accumulator also counts
    the classes that are predicted without their parent.
    """

    def __init__(self, classes: int, parents: Sequence[int] | None = None) -> None:
        self.counts = PrecisionRecallCounts(*np.zeros((3, classes), np.int64))
        self._parents = None if parents is None else np.asarray(parents)
        self._images = self._children = self._orphans = 0
        self._instance_sums = np.zeros(3)

    def update(self, image: np.ndarray, of_class: np.ndarray, truths: np.ndarray) -> None:
        """Count a batch: the predicted pairs of image and class, int [decisions]; truths bool [images, classes]."""
        images, classes = truths.shape
        hit = truths[image, of_class]
        for total, found in zip(self.counts, (np.bincount(of_class, minlength=classes), truths.sum(axis=0),
                                              np.bincount(of_class[hit], minlength=classes)), strict=True):
            total += found
        predicted, true_positives = (np.bincount(places, minlength=images) for places in (image, image[hit]))
        positives = truths.sum(axis=1)
        self._images += images
        self._instance_sums += [_share(true_positives, predicted).sum(), _share(true_positives, positives).sum(),
                                _share(2 * true_positives, predicted + positives).sum()]
        if self._parents is not None:
            is_predicted = np.zeros(truths.shape, bool)
            is_predicted[image, of_class] = True
            child = self._parents[of_class] >= 0
            self._children += int(child.sum())
            self._orphans += int((~is_predicted[image[child], self._parents[of_class[child]]]).sum())

    def result(self) -> dict[str, float]:
        """All shares so far, from 0 to 1; `without_parent` is that of the decisions for classes with a parent."""
        total = PrecisionRecallCounts(*(np.array([column.sum()]) for column in self.counts))
        present = self.counts.positives > 0
        shares = {f"micro_{name}": float(value[0]) for name, value in total.by_class().items()}
        shares |= {f"macro_{name}": float(value[present].mean()) for name, value in self.counts.by_class().items()}
        shares |= {f"instance_{name}": float(value / self._images)
                   for name, value in zip(("precision", "recall", "f1"), self._instance_sums, strict=True)}
        if self._parents is not None:
            shares["without_parent"] = self._orphans / max(self._children, 1)
        return shares


def top_classes(scores: np.ndarray, k: int) -> np.ndarray:
    """The `k` classes with the highest scores, in descending order, int32 [images, k]; all if there are fewer.

    Of equal scores the lower class comes first.
    """
    return tf.math.top_k(scores, min(k, scores.shape[1])).indices.numpy()


def common_classes(images_with: np.ndarray, images: int) -> np.ndarray:
    """Whether each class is true of nearly all of `images` images, so that a caption need not name it, bool [classes].

    `images_with`, int [classes], counts the images where a class is true.
    """
    return images_with >= NEARLY_ALL * images


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)
