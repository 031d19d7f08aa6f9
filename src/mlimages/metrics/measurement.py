"""All metrics of a classifier, accumulated batch by batch from probabilities and labels."""

from collections.abc import Sequence

import numpy as np

from mlimages.core.errors import UserError
from mlimages.metrics.average_precision import MultiLabelMetrics
from mlimages.metrics.decisions import PrecisionRecallAccumulator, top_classes
from mlimages.metrics.score_histograms import UNKNOWN, ScoreHistograms

TOP_K = (1, 5)  # for images with one class


class MetricsAccumulator:
    """Counts batches of probabilities and confidences, and computes all metrics of them.

    A class is true where its confidence reaches `threshold`, and unknown where its confidence is negative. Precision,
    recall and F1 are those of the k best classes, for each k of `at_k`, and of the classes whose probability reaches
    `score_threshold`. `parents`, int [classes], are the parents in the class tree, -1 for a root.
    """

    def __init__(self, classes: int, *, at_k: Sequence[int] = (1, 5), threshold: float = 0.5,
                 score_threshold: float = 0.5, parents: Sequence[int] | None = None) -> None:
        self.classes = classes
        self.images = 0
        self._threshold, self._score_threshold = np.float32(threshold), np.float32(score_threshold)
        self._histograms = ScoreHistograms(classes)
        self._at_k = {k: PrecisionRecallAccumulator(classes, parents) for k in at_k}
        self._at_threshold = PrecisionRecallAccumulator(classes, parents)
        self._max_true = 0
        self._top_k_hits = dict.fromkeys(TOP_K, 0)

    def update(self, scores: np.ndarray, confidences: np.ndarray) -> None:
        """Count a batch: probabilities and confidences, both float [images, classes].

        Raises UserError for other shapes, and for scores that are not probabilities.
        """
        scores, confidences = np.asarray(scores, np.float32), np.asarray(confidences, np.float32)
        self._check(scores, confidences)
        known = confidences >= 0
        if not known.all():
            scores = np.where(known, scores, UNKNOWN)
        truths = confidences >= self._threshold
        self._histograms.update(scores, truths)
        order = top_classes(scores, max(*self._at_k, *TOP_K))
        for k, accumulator in self._at_k.items():
            image, place = np.nonzero(np.take_along_axis(scores, order[:, :k], axis=1) >= 0)
            accumulator.update(image, order[image, place], truths)
        image, of_class = np.nonzero(scores >= self._score_threshold)
        self._at_threshold.update(image, of_class, truths)
        self._max_true = max(self._max_true, int(truths.sum(axis=1).max(initial=0)))
        for k in TOP_K:
            self._top_k_hits[k] += int(np.take_along_axis(truths, order[:, :k], axis=1).any(axis=1).sum())
        self.images += len(scores)

    def result(self) -> MultiLabelMetrics:
        """The metrics of all batches so far. Raises UserError if no image has a true class."""
        counts = self._at_threshold.counts
        if not counts.positives.any():
            raise UserError(f"none of the {self.images:,} images has a class whose confidence reaches "
                            f"{self._threshold:g}; expected at least one, so lower the threshold")
        cutoffs = {**{f"at_{k}": cutoff for k, cutoff in self._at_k.items()}, "at_threshold": self._at_threshold}
        labels = int(counts.positives.sum())
        return MultiLabelMetrics(
            images=self.images, known=self._histograms.known, positives=counts.positives,
            rankings=list(self._histograms.ranks()), pooled=self._histograms.pooled(), counts=counts,
            precision_recall={name: cutoff.result() for name, cutoff in cutoffs.items()},
            top_k_accuracy={k: hits / labels for k, hits in self._top_k_hits.items()} if self._max_true == 1 else {})

    def _check(self, scores: np.ndarray, confidences: np.ndarray) -> None:
        if scores.ndim != 2 or scores.shape[1] != self.classes or scores.shape != confidences.shape:
            raise UserError(f"scores have the shape {scores.shape} and labels {confidences.shape}, expected "
                            f"[images, {self.classes}] of both: a confidence for each class")
        wrong = ~((scores >= 0) & (scores <= 1))
        if wrong.any():
            image, of_class = np.argwhere(wrong)[0]
            raise UserError(f"the network gives {scores[image, of_class]} for class {of_class} of image "
                            f"{self.images + image}, expected a probability from 0 to 1")
