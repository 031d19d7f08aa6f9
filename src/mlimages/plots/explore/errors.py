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
from mlimages.plots.predictions import is_labelled, published_scores


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
    labels, scores = errors.predictions.labels, published_scores(errors.predictions)
    true = labels[labels["confidence"] >= errors.threshold]
    scores = scores[~is_labelled(scores, labels[labels["confidence"] < 0])]
    scores = scores[np.isin(scores["class"], true["class"])].sort_values(["class", "score"], ascending=[True, False])
    scores["right"] = is_labelled(scores, true)
    of_class = scores.groupby("class")
    right, predicted = of_class["right"].cumsum(), of_class.cumcount() + 1
    images = scores["class"].map(pd.Series(true["class"]).value_counts())
    found = pd.DataFrame({"class": scores["class"], "threshold": scores["score"], "precision": right / predicted,
                          "recall": right / images, "f1": 2 * right / (predicted + images), "images": images})
    found = found.drop_duplicates(["class", "threshold"], keep="last")  # all images of equal scores are predicted
    return found.sort_values(["class", "f1"], ascending=[True, False]).drop_duplicates("class", ignore_index=True)


def threshold_table(evaluation: str | Path, lists: str | Path, count: int = 40) -> pd.DataFrame:
    """The thresholds with the highest F1, the lowest F1 first; at most `count` classes."""
    tree = read_tree(Path(lists) / DICTIONARY)
    frame = best_thresholds(evaluation).sort_values("f1", kind="stable").head(count)
    frame.index = pd.Index([tree.label(index) for index in frame["class"]], name="class")
    return display_table(frame, {"threshold": DECIMALS, "precision": DECIMALS, "recall": DECIMALS, "f1": DECIMALS,
                                 "images": COUNT})
