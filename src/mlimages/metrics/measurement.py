"""All figures of a network, gathered batch by batch from probabilities and labels."""

from collections.abc import Sequence

import numpy as np

from mlimages.core.errors import UserError
from mlimages.metrics.average_precision import Figures
from mlimages.metrics.decisions import Decisions, best
from mlimages.metrics.score_histograms import UNKNOWN, ScoreHistograms

TOP = (1, 5)  # of images that have one class


class Measurement:
    """Takes in batches; a class is true where its confidence reaches `threshold`, and unknown where it is negative.

    Precision, recall and F1 are those of the k best classes, for each of `at_k`, and of the classes whose probability
    reaches `score_threshold`. `parents`, int [classes] and -1 at a root, are those of the class tree, if there is one.
    """

    def __init__(self, classes: int, *, at_k: Sequence[int] = (1, 5), threshold: float = 0.5,
                 score_threshold: float = 0.5, parents: Sequence[int] | None = None) -> None:
        self.classes = classes
        self.images = 0
        self._threshold, self._score_threshold = np.float32(threshold), np.float32(score_threshold)
        self._histograms = ScoreHistograms(classes)
        self._at_k = {k: Decisions(classes, parents) for k in at_k}
        self._at_threshold = Decisions(classes, parents)
        self._most_true = 0
        self._top = dict.fromkeys(TOP, 0)

    def update(self, scores: np.ndarray, confidences: np.ndarray) -> None:
        """Count a batch: probabilities and confidences, both float [images, classes].

        UserError for other shapes, and for scores that are no probabilities.
        """
        scores, confidences = np.asarray(scores, np.float32), np.asarray(confidences, np.float32)
        self._check(scores, confidences)
        known = confidences >= 0
        if not known.all():
            scores = np.where(known, scores, UNKNOWN)
        truths = confidences >= self._threshold
        self._histograms.update(scores, truths)
        order = best(scores, max(*self._at_k, *TOP))
        for k, decisions in self._at_k.items():
            image, place = np.nonzero(np.take_along_axis(scores, order[:, :k], axis=1) >= 0)
            decisions.update(image, order[image, place], truths)
        image, of_class = np.nonzero(scores >= self._score_threshold)
        self._at_threshold.update(image, of_class, truths)
        self._most_true = max(self._most_true, int(truths.sum(axis=1).max(initial=0)))
        for k in TOP:
            self._top[k] += int(np.take_along_axis(truths, order[:, :k], axis=1).any(axis=1).sum())
        self.images += len(scores)

    def figures(self) -> Figures:
        """What came of all batches so far; UserError where no image has a true class."""
        decided = self._at_threshold.decided
        if not decided.true.any():
            raise UserError(f"none of the {self.images:,} images has a class whose confidence reaches "
                            f"{self._threshold:g}: there is nothing to measure by")
        ranks = list(self._histograms.ranks())
        decisions = {**{f"at_{k}": one for k, one in self._at_k.items()}, "at_threshold": self._at_threshold}
        labelled = int(decided.true.sum())
        return Figures(
            images=self.images, known=self._histograms.known, true=decided.true, ranks=ranks,
            pool=self._histograms.pooled(), decided=decided,
            decisions={name: one.figures() for name, one in decisions.items()},
            top={k: hits / labelled for k, hits in self._top.items()} if self._most_true == 1 else {})

    def _check(self, scores: np.ndarray, confidences: np.ndarray) -> None:
        if scores.ndim != 2 or scores.shape[1] != self.classes or scores.shape != confidences.shape:
            raise UserError(f"scores have the shape {scores.shape} and labels {confidences.shape}, expected "
                            f"[images, {self.classes}] of both: a confidence for each class")
        wrong = ~((scores >= 0) & (scores <= 1))
        if wrong.any():
            image, of_class = np.argwhere(wrong)[0]
            raise UserError(f"the network gives {scores[image, of_class]} for class {of_class} of image "
                            f"{self.images + image}, expected a probability from 0 to 1")
