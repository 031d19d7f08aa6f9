"""Plots of confusions: classes that get high scores on images of other classes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.core.publish import read_manifest
from mlimages.evaluate.predictions import Predictions, read_predictions
from mlimages.plots.canvas import VALIDATION, axes

# Fewer images with one class and without the other are no evidence of a confusion.
MIN_IMAGES = 5
IMAGES_AT_ONCE = 4096
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
    predictions, threshold, leaves = read_predictions(evaluation), true_threshold(evaluation), _leaves(tree)
    true = predictions.labels[(predictions.labels["confidence"] >= threshold) & leaves[predictions.labels["class"]]]
    images_with = np.bincount(true["class"], minlength=len(tree))
    mean_score = np.zeros(len(tree))  # on all images without the class
    sums, both = _PairSums(len(tree)), _PairSums(len(tree))
    for start in range(0, len(predictions.best), IMAGES_AT_ONCE):
        image, wrong, score = _scores_except(predictions, true, leaves, start)
        mean_score += np.bincount(wrong, score, len(tree))
        first, last = np.searchsorted(true["image"], [start, start + IMAGES_AT_ONCE])
        batch = true[first:last]
        sums.add(*_join(batch["image"], batch["class"], image, wrong, score))
        both.add(*_join(batch["image"], batch["class"], batch["image"], batch["class"], np.ones(len(batch))))
    mean_score /= np.maximum(len(predictions.best) - images_with, 1)
    together = dict(zip(both.pairs.tolist(), both.sums.tolist(), strict=True))
    found = []
    for pair, total in zip(sums.pairs.tolist(), sums.sums.tolist(), strict=True):
        true_class, wrong_class = divmod(pair, len(tree))
        images = images_with[true_class] - together.get(pair, 0)
        if images >= MIN_IMAGES:
            excess = float(total / images - mean_score[wrong_class])
            found.append((true_class, wrong_class, excess))
    return sorted(found, key=lambda row: -row[2])[:count]


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
    side = 3.5 + 0.2 * len(chosen)
    title = (f"The leaf class with the highest score\n{counts[pairs[:, 0] == pairs[:, 1]].sum() / counts.sum():.0%} of "
             f"{counts.sum():,} true leaf labels are right")
    ax = axes(title, "leaf class of the same root with the highest score, without other true ones",
              "true leaf class (images)", width=side + 1, height=side)
    ax.grid(visible=False)
    drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(chosen) + 1), [*names, "another class, or none"], rotation=90, fontsize=7)
    counted = [f"{name} ({images[index]:,})" for name, index in zip(names, chosen, strict=True)]
    ax.set_yticks(range(len(chosen)), counted, fontsize=7)
    plt.colorbar(drawn, ax=ax, label="share of the images with the true class", shrink=0.6)
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
    true = predictions.labels[(predictions.labels["confidence"] >= threshold) & leaves[predictions.labels["class"]]]
    confidence = predictions.labels["confidence"]
    excluded = predictions.labels[(confidence >= threshold) | (confidence < 0)]
    found = _PairSums(len(tree) + 1)
    for start in range(0, len(predictions.best), IMAGES_AT_ONCE):
        image, rival_class, score = _scores_except(predictions, excluded, leaves, start)
        # Scores of an image are in descending order, so the first one of a root is its highest.
        rivals, first = np.unique(image * len(tree) + roots[rival_class], return_index=True)
        begin, end = np.searchsorted(true["image"], [start, start + IMAGES_AT_ONCE])
        images, classes = true["image"][begin:end].astype(np.int64), true["class"][begin:end]
        rows = predictions.best[start: start + IMAGES_AT_ONCE]
        own = np.where(rows["class"][images - start] == classes[:, None], rows["score"][images - start], -1).max(axis=1)
        rival, rival_score = _look_up(images * len(tree) + roots[classes], rivals, rival_class[first], score[first])
        best = np.where((own < 0) & (rival_score < 0), -1, np.where(own > rival_score, classes, rival))
        found.add(classes, best + 1, np.ones(len(classes)))
    pairs = np.stack(np.divmod(found.pairs, len(tree) + 1), axis=1) - [0, 1]
    return np.bincount(true["class"], minlength=len(tree)), pairs, found.sums.astype(np.int64)


def _look_up(keys: np.ndarray, known: np.ndarray, classes: np.ndarray,
             scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class and the score of each key. `known` are the ascending keys that have them; others get -1 and -1."""
    if not len(known):
        return np.full(len(keys), -1), np.full(len(keys), -1.0)
    place = np.searchsorted(known, keys).clip(0, len(known) - 1)
    is_known = known[place] == keys
    return np.where(is_known, classes[place], -1), np.where(is_known, scores[place], -1.0)


def _most_confused(pairs: np.ndarray, counts: np.ndarray, images: np.ndarray, max_classes: int) -> list[int]:
    """Up to `max_classes` classes with images, those of the most frequent confusions, in ascending order."""
    present = np.flatnonzero(np.isin(np.arange(len(images)), pairs)).tolist()
    if len(present) <= max_classes:
        return present
    wrong = (pairs[:, 0] != pairs[:, 1]) & (pairs[:, 1] >= 0)
    chosen = dict.fromkeys(pairs[wrong][np.argsort(-counts[wrong], kind="stable")].ravel().tolist())
    return sorted(list(chosen)[:max_classes])


class _PairSums:
    """Sums of values by pair of classes; only pairs that occur take memory. A pair is first * classes + second."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.pairs: np.ndarray = np.empty(0, np.int64)
        self.sums: np.ndarray = np.empty(0)

    def add(self, first: np.ndarray, second: np.ndarray, values: np.ndarray) -> None:
        pairs = np.concatenate([self.pairs, first.astype(np.int64) * self._classes + second])
        self.pairs, place = np.unique(pairs, return_inverse=True)
        self.sums = np.bincount(place, np.concatenate([self.sums, values]), len(self.pairs))


def _scores_except(predictions: Predictions, excluded: np.ndarray, leaves: np.ndarray,
                   start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image, class and score of the leaf classes published for a batch of images, without the excluded labels."""
    rows = predictions.best[start: start + IMAGES_AT_ONCE]
    image = np.repeat(np.arange(start, start + len(rows)), rows["class"].shape[1])
    of_class, score = rows["class"].ravel(), rows["score"].ravel()
    excluded = excluded[(excluded["image"] >= start) & (excluded["image"] < start + len(rows))]
    kept = leaves[of_class] & ~np.isin(image * len(leaves) + of_class,
                                       excluded["image"].astype(np.int64) * len(leaves) + excluded["class"])
    return image[kept], of_class[kept], score[kept]


def _join(image: np.ndarray, first: np.ndarray, other: np.ndarray, second: np.ndarray,
          values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of a first and a second class of the same image, with the values of the second ones.

    Both are sorted by image.
    """
    begins, ends = (np.searchsorted(other, image, side=side) for side in ("left", "right"))
    lengths = ends - begins
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(begins, lengths)
    return np.repeat(first, lengths), second[place], values[place]


def _leaves(tree: ClassTree) -> np.ndarray:
    return np.array([not children for children in tree.children])
