"""The metrics of a multi-label classifier: means over classes, by class, by group of classes, and curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mlimages.metrics.decisions import PrecisionRecallCounts
from mlimages.metrics.score_histograms import ClassRanking

CALIBRATION_BINS = 15


class GroupMetrics(NamedTuple):
    """Means over the classes of a group that have a positive, and the number of their true labels."""

    classes: int
    true_labels: int
    base_rate: float
    average_precision: float
    precision: float
    recall: float
    f1: float


class ReliabilityDiagram(NamedTuple):
    """For each bin, float64 [bins]: its edges, its decisions, their mean probability, and the share that is true."""

    low: np.ndarray
    high: np.ndarray
    decisions: np.ndarray
    probability: np.ndarray
    true_share: np.ndarray


@dataclass(frozen=True)
class MultiLabelMetrics:
    """The metrics of a classifier on `images` images.

    `known`, int64 [classes], counts the images whose label of the class is known, and `positives`, int64 [classes],
    those of them where the class is true. `rankings` has one element for each class. `pooled` has the histogram of all
    classes together, see `ScoreHistograms.pooled`. `counts` are those at the score threshold, and `precision_recall`
    has precision, recall and F1 of every cutoff. `top_k_accuracy` has, by k, the share of the labels among the k best
    classes; it is empty if an image has more than one class.
    """

    images: int
    known: np.ndarray
    positives: np.ndarray
    rankings: Sequence[ClassRanking]
    pooled: tuple[np.ndarray, np.ndarray, np.ndarray]
    counts: PrecisionRecallCounts
    precision_recall: dict[str, dict[str, float]]
    top_k_accuracy: dict[int, float]

    @cached_property
    def average_precision(self) -> np.ndarray:
        """The average precision of each class, float64 [classes]; NaN for a class without a positive."""
        return np.array([ranking.average_precision for ranking in self.rankings])

    @cached_property
    def average_precision_error(self) -> np.ndarray:
        """The largest possible difference of each from the exact average precision, float64 [classes]."""
        return np.array([ranking.error for ranking in self.rankings])

    @cached_property
    def base_rate(self) -> np.ndarray:
        """The expected average precision of a random ranking: the share of positives, float64 [classes]."""
        return self.positives / np.maximum(self.known, 1)

    def summary(self) -> dict[str, Any]:
        """The metrics of all classes together, as JSON.

        Macro means are over the classes with a positive; weighted means weight these by their positives.
        """
        present = self.positives > 0
        precision, base, weights = self.average_precision[present], self.base_rate[present], self.positives[present]
        curve_recall, curve_precision = self.precision_recall_curve()
        return {
            "images": self.images, "classes": int(present.sum()),
            "mean_average_precision_macro": float(precision.mean()),
            "mean_average_precision_macro_error": float(self.average_precision_error[present].mean()),
            "mean_average_precision_weighted": float(np.average(precision, weights=weights)),
            "mean_average_precision_micro": float(np.sum(np.diff(curve_recall, prepend=0.0) * curve_precision)),
            "base_rate": float(base.mean()), "base_rate_weighted": float(np.average(base, weights=weights)),
            "base_rate_micro": float(self.positives.sum() / self.known.sum()),
            "times_base_rate": float(precision.mean() / base.mean()),
            "expected_calibration_error": self.expected_calibration_error(),
            **{f"top_{k}": share for k, share in self.top_k_accuracy.items()}, **self.precision_recall,
        }

    def precision_recall_curve(self, index: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Recall, ascending, and precision: of class `index` at its true labels; None: of all decisions together."""
        if index is not None:
            return self.rankings[index].recall, self.rankings[index].precision
        _, scores, positives = (column[::-1] for column in self.pooled)
        true_positives = positives.cumsum()
        return true_positives / true_positives[-1], true_positives / scores.cumsum()

    def by_group(self, groups: np.ndarray) -> dict[int, GroupMetrics]:
        """The metrics of each group of classes; `groups`, int [classes], has the group of each class.

        Groups without a positive are left out.
        """
        shares = self.counts.by_class()
        columns = (self.base_rate, self.average_precision, shares["precision"], shares["recall"], shares["f1"])
        present = self.positives > 0
        members = {int(group): (groups == group) & present for group in np.unique(groups[present])}
        return {group: GroupMetrics(int(chosen.sum()), int(self.positives[chosen].sum()),
                                    *(float(column[chosen].mean()) for column in columns))
                for group, chosen in members.items()}

    def reliability_diagram(self, edges: np.ndarray | None = None) -> ReliabilityDiagram:
        """The share of true decisions by their probability, over all classes.

        `edges`, ascending, are the edges of the bins between 0 and 1; None: those of 15 bins of equal width. Empty bins
        are left out.
        """
        odds, scores, positives = self.pooled
        probabilities = 1 / (1 + np.exp(-odds))
        edges = np.linspace(0, 1, CALIBRATION_BINS + 1) if edges is None else np.concatenate([[0.0], edges, [1.0]])
        place = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, len(edges) - 2)
        decisions, total, true = (np.bincount(place, weights, len(edges) - 1)
                                  for weights in (scores, scores * probabilities, positives))
        used = decisions > 0
        return ReliabilityDiagram(edges[:-1][used], edges[1:][used], decisions[used], total[used] / decisions[used],
                                  true[used] / decisions[used])

    def expected_calibration_error(self) -> float:
        """The expected calibration error over all classes (Guo et al., arXiv 1706.04599)."""
        bins = self.reliability_diagram()
        return float(np.average(np.abs(bins.probability - bins.true_share), weights=bins.decisions))
