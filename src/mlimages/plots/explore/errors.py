"""The mistakes of a network by class: images with wrong labels, images with missed ones, and thresholds.

They come from the predictions in data/evaluation. A class that was not published for an image has the score 0.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import read_tree
from mlimages.core.publish import read_manifest
from mlimages.evaluate.predictions import Predictions, read_predictions
from mlimages.plots.canvas import COUNT, DECIMALS, display_table


class ClassScores(NamedTuple):
    """The images with a published score for a class or with the class as a true label.

    `image` int64, a row of the predictions, in ascending order; `score` float32; `true` bool. Images whose confidence
    is unknown are left out.
    """

    image: np.ndarray
    score: np.ndarray
    true: np.ndarray

    def false_positives(self) -> np.ndarray:
        """The images without the class, the highest score first."""
        return self._images(~self.true & (self.score > 0), descending=True)

    def misses(self) -> np.ndarray:
        """The images with the class, the lowest score first."""
        return self._images(self.true, descending=False)

    def found(self) -> np.ndarray:
        """The images with the class, the highest score first."""
        return self._images(self.true, descending=True)

    def precision_recall(self, threshold: float) -> tuple[float, float]:
        """Precision and recall of the class if it is predicted from this score on; NaN if one is not defined."""
        predicted = self.score >= threshold
        right = np.count_nonzero(predicted & self.true)
        counts = np.count_nonzero(predicted), np.count_nonzero(self.true)
        precision, recall = (right / count if count else float("nan") for count in counts)
        return precision, recall

    def _images(self, chosen: np.ndarray, *, descending: bool) -> np.ndarray:
        score = self.score[chosen]
        return self.image[chosen][np.argsort(-score if descending else score, kind="stable")]


class ClassErrors:
    """Looks up the mistakes in a published evaluation."""

    def __init__(self, evaluation: str | Path) -> None:
        self.predictions: Predictions = read_predictions(evaluation)
        manifest = read_manifest(evaluation, "evaluate")
        self.threshold, self.score_threshold = manifest["threshold"], manifest["score_threshold"]

    def scores(self, index: int) -> ClassScores:
        """The scores of a class."""
        best, labels = self.predictions
        row, place = np.nonzero(best["class"] == index)
        labelled = labels[labels["class"] == index]
        true = labelled["image"][labelled["confidence"] >= self.threshold].astype(np.int64)
        unknown = labelled["image"][labelled["confidence"] < 0]
        image = np.union1d(row, true)
        image = image[~np.isin(image, unknown)]
        score = np.zeros(len(best), np.float32)
        score[row] = best["score"][row, place]
        return ClassScores(image, score[image], np.isin(image, true))

    def confused(self, true_class: int, wrong_class: int) -> np.ndarray:
        """The images with the first class and without the second one, the highest score of the second first."""
        wrong = self.scores(wrong_class).false_positives()
        true = self.scores(true_class)
        return wrong[np.isin(wrong, true.image[true.true])]


def best_thresholds(evaluation: str | Path) -> pd.DataFrame:
    """The threshold of each class with the highest F1: columns class, threshold, precision, recall, f1 and images.

    Only classes with a true label have a row. Thresholds are scores that were published.
    """
    errors = ClassErrors(evaluation)
    best, labels = errors.predictions
    classes = 1 + int(max(best["class"].max(initial=0), labels["class"].max(initial=0)))
    true = labels[labels["confidence"] >= errors.threshold]
    images = np.bincount(true["class"], minlength=classes)
    pair = (np.arange(len(best))[:, None] * classes + best["class"]).ravel()
    unknown = labels[labels["confidence"] < 0]
    known = ~np.isin(pair, unknown["image"].astype(np.int64) * classes + unknown["class"])
    of_class, score = best["class"].ravel()[known], best["score"].ravel()[known]
    is_true = np.isin(pair[known], true["image"].astype(np.int64) * classes + true["class"])
    order = np.lexsort((-score, of_class))
    of_class, score, is_true = of_class[order], score[order], is_true[order]
    starts = np.searchsorted(of_class, np.arange(classes))
    rank = np.arange(len(of_class)) - starts[of_class] + 1
    cumulative = np.concatenate([[0], np.cumsum(is_true)])
    right = cumulative[1:] - cumulative[starts[of_class]]
    f1 = 2 * right / (rank + images[of_class])
    is_last = np.append((of_class[1:] != of_class[:-1]) | (score[1:] != score[:-1]), True)  # of equal scores
    chosen = np.flatnonzero(is_last & (images[of_class] > 0))
    chosen = chosen[np.lexsort((-f1[chosen], of_class[chosen]))]
    chosen = chosen[np.unique(of_class[chosen], return_index=True)[1]]
    return pd.DataFrame({"class": of_class[chosen], "threshold": score[chosen],
                         "precision": right[chosen] / rank[chosen], "recall": right[chosen] / images[of_class[chosen]],
                         "f1": f1[chosen], "images": images[of_class[chosen]]})


def threshold_table(evaluation: str | Path, lists: str | Path, count: int = 40) -> pd.DataFrame:
    """The thresholds with the highest F1, the lowest F1 first; at most `count` classes."""
    tree = read_tree(Path(lists) / DICTIONARY)
    frame = best_thresholds(evaluation).sort_values("f1", kind="stable").head(count)
    frame.index = pd.Index([tree.label(index) for index in frame["class"]], name="class")
    return display_table(frame, {"threshold": DECIMALS, "precision": DECIMALS, "recall": DECIMALS, "f1": DECIMALS,
                                 "images": COUNT})
