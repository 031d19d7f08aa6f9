"""What a network is worth, in numbers: over all, class by class, by groups of classes, and as curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mlimages.metrics.decisions import Decided
from mlimages.metrics.score_histograms import ClassRanks

CALIBRATION_BINS = 15


class Group(NamedTuple):
    """Means over those classes of a group that have a true image, and how many true labels they have together."""

    classes: int
    true_labels: int
    base_rate: float
    average_precision: float
    precision: float
    recall: float
    f1: float


class Reliability(NamedTuple):
    """Of each bin, float64 [bins]: its ends, decisions in it, their mean probability, and the share that is true."""

    low: np.ndarray
    high: np.ndarray
    decisions: np.ndarray
    probability: np.ndarray
    true_share: np.ndarray


@dataclass(frozen=True)
class Figures:
    """Of the classes, in order: images whose label is `known`, of these the `true` ones (int64 [classes]), and `ranks`.

    `pool` holds log-odds, and how many scores and true labels of any class lie there; `decided` counts the decisions at
    the score threshold, and `decisions` has the figures of every cutoff. `top` has the shares of images with the class
    among the k best, if no image has more than one class.
    """

    images: int
    known: np.ndarray
    true: np.ndarray
    ranks: Sequence[ClassRanks]
    pool: tuple[np.ndarray, np.ndarray, np.ndarray]
    decided: Decided
    decisions: dict[str, dict[str, float]]
    top: dict[int, float]

    @cached_property
    def average_precision(self) -> np.ndarray:
        """float64 [classes]; NaN for a class without a true image."""
        return np.array([one.average_precision for one in self.ranks])

    @cached_property
    def error(self) -> np.ndarray:
        """The most by which each can differ from the exact average precision, float64 [classes]."""
        return np.array([one.error for one in self.ranks])

    @cached_property
    def base_rate(self) -> np.ndarray:
        """What a random ranking is expected to reach: the share of the known labels that is true."""
        return self.true / np.maximum(self.known, 1)

    def summary(self) -> dict[str, Any]:
        """The figures over all, as JSON. Macro means are over the classes with a true image, weighted ones by them."""
        named = self.true > 0
        precision, base, weights = self.average_precision[named], self.base_rate[named], self.true[named]
        curve_recall, curve_precision = self.curve()
        return {
            "images": self.images, "classes": int(named.sum()),
            "mean_average_precision_macro": float(precision.mean()),
            "mean_average_precision_macro_error": float(self.error[named].mean()),
            "mean_average_precision_weighted": float(np.average(precision, weights=weights)),
            "mean_average_precision_micro": float(np.sum(np.diff(curve_recall, prepend=0.0) * curve_precision)),
            "base_rate": float(base.mean()), "base_rate_weighted": float(np.average(base, weights=weights)),
            "base_rate_micro": float(self.true.sum() / self.known.sum()),
            "times_base_rate": float(precision.mean() / base.mean()),
            "expected_calibration_error": self.calibration_error(),
            **{f"top_{k}": share for k, share in self.top.items()}, **self.decisions,
        }

    def curve(self, index: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Recall, ascending, and precision: of a class at its true labels, or of all label decisions together."""
        if index is not None:
            return self.ranks[index].recall, self.ranks[index].precision
        _, scores, true = (one[::-1] for one in self.pool)
        hits = true.cumsum()
        return hits / hits[-1], hits / scores.cumsum()

    def groups(self, number: np.ndarray) -> dict[int, Group]:
        """Of classes that bear the same number, int [classes], by it; groups without a true image are left out."""
        shares = self.decided.by_class()
        columns = (self.base_rate, self.average_precision, shares["precision"], shares["recall"], shares["f1"])
        chosen = {int(one): (number == one) & (self.true > 0) for one in np.unique(number[self.true > 0])}
        return {one: Group(int(of_group.sum()), int(self.true[of_group].sum()),
                           *(float(column[of_group].mean()) for column in columns))
                for one, of_group in chosen.items()}

    def reliability(self, edges: np.ndarray | None = None) -> Reliability:
        """How often what is said with a probability is true, over all label decisions.

        `edges`, ascending, are those of the bins between 0 and 1; without them there are 15 of equal width. Bins that
        hold nothing are left out.
        """
        odds, scores, true = self.pool
        probabilities = 1 / (1 + np.exp(-odds))
        edges = np.linspace(0, 1, CALIBRATION_BINS + 1) if edges is None else np.concatenate([[0.0], edges, [1.0]])
        place = np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, len(edges) - 2)
        decisions, mean, hits = (np.bincount(place, weights, len(edges) - 1)
                                 for weights in (scores, scores * probabilities, true))
        used = decisions > 0
        return Reliability(edges[:-1][used], edges[1:][used], decisions[used], mean[used] / decisions[used],
                           hits[used] / decisions[used])

    def calibration_error(self) -> float:
        """The expected calibration error (Guo et al., arXiv 1706.04599), over all label decisions."""
        found = self.reliability()
        return float(np.average(np.abs(found.probability - found.true_share), weights=found.decisions))
