"""Plots of confusions: classes that get high scores on images of other classes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.core.publish import read_manifest
from mlimages.evaluate.predictions import Predictions, read_predictions
from mlimages.plots.canvas import VALIDATION, axes, share_matrix

# Fewer images with one class and without the other are no evidence of a confusion.
MIN_IMAGES = 5
MAX_CLASSES = 50  # of a matrix


def true_threshold(evaluation: str | Path) -> float:
    """The confidence from which a class counts as true in the evaluation."""
    return read_manifest(evaluation, "evaluate")["threshold"]


def confusions(evaluation: str | Path, lists: str | Path, count: int = 20) -> list[tuple[str, str, float]]:
    """The names and the excess of the strongest `confused_pairs`."""
    tree = read_tree(Path(lists) / DICTIONARY)
    return [(tree.label(true), tree.label(wrong), excess)
            for true, wrong, excess in confused_pairs(evaluation, tree, count)]


def confused_pairs(evaluation: str | Path, tree: ClassTree, count: int = 20) -> list[tuple[int, int, float]]:
    """The strongest confusions of leaf classes, as (true class, wrong class, excess of the score).

    The excess is the mean score of the wrong class on images with the true class and without the wrong one, minus its
    mean score on all images without it. A class that was not published for an image has a score of 0 there.
    """
    predictions, leaves = read_predictions(evaluation), _leaves(tree)
    true = _leaf_labels(predictions.labels, leaves, true_threshold(evaluation))
    scores = published_scores(predictions)
    scores = scores[leaves[scores["class"]] & ~is_labelled(scores, true)]
    shape = len(predictions.best), len(tree)
    is_true = csr_array((np.ones(len(true)), (true["image"], true["class"])), shape)
    wrong = csr_array((scores["score"].astype(float), (scores["image"], scores["class"])), shape)
    images_with = is_true.sum(axis=0)
    mean_score = wrong.sum(axis=0) / np.maximum(len(predictions.best) - images_with, 1)
    sums = (is_true.T @ wrong).tocsr().tocoo()
    images = images_with[sums.row] - (is_true.T @ is_true)[sums.row, sums.col]
    enough = np.flatnonzero(images >= MIN_IMAGES)
    true_class, wrong_class = sums.row[enough], sums.col[enough]
    excess = sums.data[enough] / images[enough] - mean_score[wrong_class]
    strongest = np.argsort(-excess, kind="stable")[:count]
    return list(zip(*(column[strongest].tolist() for column in (true_class, wrong_class, excess)), strict=True))


def confusion_bars(evaluation: str | Path, lists: str | Path, count: int = 20) -> None:
    """Show the strongest confusions."""
    rows = confusions(evaluation, lists, count)
    ax = axes("The strongest confusions: true class → wrong class",
              "mean score of the wrong class, above its mean on all images without it", "",
              height=1.2 + 0.28 * len(rows))
    ax.barh([f"{true} → {wrong}" for true, wrong, _ in rows], [score for *_, score in rows], color=VALIDATION)
    ax.invert_yaxis()
    plt.show()


def confusion_matrix(evaluation: str | Path, lists: str | Path, max_classes: int = MAX_CLASSES) -> None:
    """Show, for the images of each leaf class, how often each leaf class of the same root has the highest score.

    Of more than `max_classes` classes, those of the most frequent confusions are shown.
    """
    tree = read_tree(Path(lists) / DICTIONARY)
    images, pairs, counts = best_leaves(evaluation, tree)
    chosen = _most_confused(pairs, counts, images, max_classes)
    place = {index: number for number, index in enumerate(chosen)}
    shares = np.zeros((len(chosen), len(chosen) + 1))
    for (true, highest), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        if true in place:
            shares[place[true], place.get(highest, len(chosen))] += count / images[true]
    names = [tree.label(index) for index in chosen]
    title = (f"The leaf class with the highest score\n{counts[pairs[:, 0] == pairs[:, 1]].sum() / counts.sum():.0%} of "
             f"{counts.sum():,} true leaf labels are right")
    counted = [f"{name} ({images[index]:,})" for name, index in zip(names, chosen, strict=True)]
    share_matrix(title, shares, counted, [*names, "another class, or none"], cell_inches=0.2,
                 x="leaf class of the same root with the highest score, without other true ones",
                 y="true leaf class (images)")
    plt.show()


def best_leaves(evaluation: str | Path, tree: ClassTree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leaf class with the highest score for each true leaf class, among the leaf classes of its root.

    Returns the number of images of each class, int64 [classes]; the pairs (true class, best class) that occur, int64
    [pairs, 2]; and their numbers of images, int64 [pairs]. Other true classes of an image, and classes of unknown
    confidence, are left out. The best class is -1 if no leaf class of the root was published for the image. Of equal
    scores, the wrong one counts as the best.
    """
    predictions, threshold, leaves = read_predictions(evaluation), true_threshold(evaluation), _leaves(tree)
    roots = np.array([(index, *lineage)[-1] for index, lineage in enumerate(tree.lineages)])
    labels, scores = predictions.labels, published_scores(predictions)
    true = _leaf_labels(labels, leaves, threshold)
    unknown_or_true = labels[(labels["confidence"] >= threshold) | (labels["confidence"] < 0)]
    rivals = scores[leaves[scores["class"]] & ~is_labelled(scores, unknown_or_true)]
    # Scores of an image are in descending order, so the first one of a root is its highest.
    rivals = rivals.assign(root=roots[rivals["class"]]).drop_duplicates(["image", "root"])
    found = pd.DataFrame(true).assign(root=roots[true["class"]])
    found = found.merge(scores[is_labelled(scores, true)], "left", ["image", "class"])
    found = found.merge(rivals, "left", ["image", "root"], suffixes=("", "_of_rival"))
    is_best = found["score"].fillna(-1) > found["score_of_rival"].fillna(-1)
    found["best"] = found["class"].where(is_best, found["class_of_rival"].fillna(-1)).astype(int)
    counts = found.groupby(["class", "best"]).size()
    return (np.bincount(true["class"], minlength=len(tree)), counts.index.to_frame().to_numpy(np.int64),
            counts.to_numpy())


def _most_confused(pairs: np.ndarray, counts: np.ndarray, images: np.ndarray, max_classes: int) -> list[int]:
    """Up to `max_classes` classes with images, those of the most frequent confusions, in ascending order."""
    present = np.flatnonzero(np.isin(np.arange(len(images)), pairs)).tolist()
    if len(present) <= max_classes:
        return present
    wrong = (pairs[:, 0] != pairs[:, 1]) & (pairs[:, 1] >= 0)
    chosen = dict.fromkeys(pairs[wrong][np.argsort(-counts[wrong], kind="stable")].ravel().tolist())
    return sorted(list(chosen)[:max_classes])


def _leaf_labels(labels: np.ndarray, leaves: np.ndarray, threshold: float) -> np.ndarray:
    """The true labels of leaf classes."""
    return labels[(labels["confidence"] >= threshold) & leaves[labels["class"]]]


def published_scores(predictions: Predictions) -> pd.DataFrame:
    """The published scores: columns image, class and score, in the order of the images, then from the highest down."""
    best = predictions.best
    image = np.repeat(np.arange(len(best)), best["class"].shape[1])
    return pd.DataFrame({"image": image, "class": best["class"].ravel(), "score": best["score"].ravel()})


def is_labelled(scores: pd.DataFrame, labels: np.ndarray) -> np.ndarray:
    """Whether each score is that of an image and a class in `labels`, bool [scores]."""
    image_and_class = [rows["image"].astype(np.int64) * 2**32 + rows["class"] for rows in (scores, labels)]
    return np.isin(*image_and_class)


def _leaves(tree: ClassTree) -> np.ndarray:
    return np.array([not children for children in tree.children])
