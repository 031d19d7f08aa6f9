"""Pictures of what the network takes for what."""

from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.core.publish import read_manifest
from mlimages.evaluate.predictions import Predictions, read_predictions
from mlimages.inputs.pipeline import Records
from mlimages.inputs.preprocess import decode
from mlimages.plots.canvas import GOOD, VALIDATION, axes

# Images of one class without the other that a confusion must be seen in.
LEAST_IMAGES = 5
IMAGES_AT_ONCE = 4096
MOST_CLASSES = 50  # that have room in a matrix
SHOWN = 15  # classes of an image in the browser


def true_threshold(evaluation: str | Path) -> float:
    """The confidence from which on a class was called true when the network was evaluated."""
    return read_manifest(evaluation, "evaluate")["threshold"]


def confusions(evaluation: str | Path, lists: str | Path, count: int = 20) -> list[tuple[str, str, float]]:
    """The nearest confusions: (true class, wrongly said class, how much higher that class scores there).

    Among leaf classes: the mean score of one class on the images of another that lack it, above its mean score on all
    images that lack it. A class that is not among those published for an image counts as 0 there.
    """
    tree = read_tree(Path(lists) / DICTIONARY)
    predictions, threshold, leaves = read_predictions(evaluation), true_threshold(evaluation), _leaves(tree)
    true = predictions.labels[(predictions.labels["confidence"] >= threshold) & leaves[predictions.labels["class"]]]
    of_class = np.bincount(true["class"], minlength=len(tree))
    usual = np.zeros(len(tree))
    sums, both = _Pairs(len(tree)), _Pairs(len(tree))
    for start in range(0, len(predictions.best), IMAGES_AT_ONCE):
        image, said, score = _said(predictions, true, leaves, start)
        usual += np.bincount(said, score, len(tree))
        first, last = np.searchsorted(true["image"], [start, start + IMAGES_AT_ONCE])
        some = true[first:last]
        sums.add(*_joined(some["image"], some["class"], image, said, score))
        both.add(*_joined(some["image"], some["class"], some["image"], some["class"], np.ones(len(some))))
    usual /= np.maximum(len(predictions.best) - of_class, 1)
    together = dict(zip(both.pairs.tolist(), both.sums.tolist(), strict=True))
    found = []
    for pair, total in zip(sums.pairs.tolist(), sums.sums.tolist(), strict=True):
        one, other = divmod(pair, len(tree))
        images = of_class[one] - together.get(pair, 0)
        if images >= LEAST_IMAGES:
            found.append((tree.label(one), tree.label(other), float(total / images - usual[other])))
    return sorted(found, key=lambda row: -row[2])[:count]


def confusion_bars(evaluation: str | Path, lists: str | Path, count: int = 20) -> None:
    """`confusions` as a picture."""
    rows = confusions(evaluation, lists, count)
    ax = axes("The nearest confusions", "mean score of the wrong class, above its mean on all images that lack it", "",
              height=1.2 + 0.28 * len(rows))
    ax.barh([f"{true} taken for {said}" for true, said, _ in rows], [score for *_, score in rows], color=VALIDATION)
    ax.invert_yaxis()
    plt.show()


def confusion_matrix(evaluation: str | Path, lists: str | Path, most: int = MOST_CLASSES) -> None:
    """Of the images of each leaf class, the share in which each leaf class of the same root has the best score.

    Where there are more than `most` classes, those of the most frequent confusions are shown.
    """
    tree = read_tree(Path(lists) / DICTIONARY)
    images, pairs, counts = best_leaves(evaluation, tree)
    chosen = _most_confused(pairs, counts, images, most)
    place = {index: number for number, index in enumerate(chosen)}
    shares = np.zeros((len(chosen), len(chosen) + 1))
    for (true, said), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        if true in place:
            shares[place[true], place.get(said, len(chosen))] += count / images[true]
    names = [tree.label(index) for index in chosen]
    side = 3.5 + 0.2 * len(chosen)
    title = (f"Which leaf class scores best\n{counts[pairs[:, 0] == pairs[:, 1]].sum() / counts.sum():.0%} of "
             f"{counts.sum():,} true leaf labels are right")
    ax = axes(title, "leaf class of the same root with the best score, other true ones left out",
              "true leaf class (images)", width=side + 1, height=side)
    ax.grid(visible=False)
    drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(chosen) + 1), [*names, "another one, or none"], rotation=90, fontsize=7)
    counted = [f"{name} ({images[index]:,})" for name, index in zip(names, chosen, strict=True)]
    ax.set_yticks(range(len(chosen)), counted, fontsize=7)
    plt.colorbar(drawn, ax=ax, label="share of the images with the true class", shrink=0.6)
    plt.show()


def best_leaves(evaluation: str | Path, tree: ClassTree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which leaf class scores best where another, or the same, is true, among the leaf classes of its root.

    Returns how many images each class is true of, int64 [classes]; the pairs (true class, best class) that occur,
    int64 [pairs, 2], and in how many images, int64 [pairs]. Other true classes of an image do not compete, nor do those
    of which it is not known whether they are true. The best class is -1 where no leaf class of the root is among those
    published for the image. Of equal scores, the wrong one counts as the best.
    """
    predictions, threshold, leaves = read_predictions(evaluation), true_threshold(evaluation), _leaves(tree)
    roots = np.array([(index, *lineage)[-1] for index, lineage in enumerate(tree.lineages)])
    true = predictions.labels[(predictions.labels["confidence"] >= threshold) & leaves[predictions.labels["class"]]]
    confidence = predictions.labels["confidence"]
    no_rivals = predictions.labels[(confidence >= threshold) | (confidence < 0)]
    found = _Pairs(len(tree) + 1)
    for start in range(0, len(predictions.best), IMAGES_AT_ONCE):
        image, said, score = _said(predictions, no_rivals, leaves, start)
        # Those of an image come by falling scores: the first of a root is its best.
        rivals, first = np.unique(image * len(tree) + roots[said], return_index=True)
        begin, end = np.searchsorted(true["image"], [start, start + IMAGES_AT_ONCE])
        some, classes = true["image"][begin:end].astype(np.int64), true["class"][begin:end]
        rows = predictions.best[start: start + IMAGES_AT_ONCE]
        own = np.where(rows["class"][some - start] == classes[:, None], rows["score"][some - start], -1).max(axis=1)
        rival, rival_score = _looked_up(some * len(tree) + roots[classes], rivals, said[first], score[first])
        best = np.where((own < 0) & (rival_score < 0), -1, np.where(own > rival_score, classes, rival))
        found.add(classes, best + 1, np.ones(len(classes)))
    pairs = np.stack(np.divmod(found.pairs, len(tree) + 1), axis=1) - [0, 1]
    return np.bincount(true["class"], minlength=len(tree)), pairs, found.sums.astype(np.int64)


def prediction_browser(evaluation: str | Path, tfrecords: str | Path, lists: str | Path) -> Any:
    """A widget that shows one validation image and the network's best classes for it."""
    tree = read_tree(Path(lists) / DICTIONARY)
    predictions, threshold = read_predictions(evaluation), true_threshold(evaluation)
    records = Records(tfrecords, read_manifest(tfrecords, "convert"), "val")
    positions = records.in_order()

    def show(image: int) -> None:
        row = predictions.best[image]
        best, true = row["class"][:SHOWN], set(predictions.true(image, threshold).tolist())
        _, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(1, 2), layout="constrained")
        left.imshow(decode(records.reader.example(*positions[image].tolist()).jpeg))
        left.set_title(row["key"].decode(), fontsize=9)
        left.axis("off")
        right.barh([tree.label(one) for one in best], row["score"][:SHOWN],
                   color=[GOOD if int(one) in true else "#bbbbbb" for one in best])
        right.set(title="Best classes (green: true)", xlabel="probability", xlim=(0, 1))
        right.invert_yaxis()
        plt.show()

    slider = ipywidgets.IntSlider(0, 0, len(predictions.best) - 1, description="image", continuous_update=False)
    return ipywidgets.interactive(show, image=slider)


def _looked_up(keys: np.ndarray, known: np.ndarray, classes: np.ndarray,
               scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and score of each of the keys, of those of the `known`, ascending; -1 and -1 where it is none of them."""
    if not len(known):
        return np.full(len(keys), -1), np.full(len(keys), -1.0)
    place = np.searchsorted(known, keys).clip(0, len(known) - 1)
    there = known[place] == keys
    return np.where(there, classes[place], -1), np.where(there, scores[place], -1.0)


def _most_confused(pairs: np.ndarray, counts: np.ndarray, images: np.ndarray, most: int) -> list[int]:
    """Classes with images, in the order of the dictionary; of many, those of the most frequent confusions."""
    named = np.flatnonzero(np.isin(np.arange(len(images)), pairs)).tolist()
    if len(named) <= most:
        return named
    wrong = (pairs[:, 0] != pairs[:, 1]) & (pairs[:, 1] >= 0)
    chosen = dict.fromkeys(pairs[wrong][np.argsort(-counts[wrong], kind="stable")].ravel().tolist())
    return sorted(list(chosen)[:most])


class _Pairs:
    """Sums of values by pairs of classes; only pairs that occur take memory. A pair is first * classes + second."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.pairs: np.ndarray = np.empty(0, np.int64)
        self.sums: np.ndarray = np.empty(0)

    def add(self, first: np.ndarray, second: np.ndarray, values: np.ndarray) -> None:
        pairs = np.concatenate([self.pairs, first.astype(np.int64) * self._classes + second])
        self.pairs, place = np.unique(pairs, return_inverse=True)
        self.sums = np.bincount(place, np.concatenate([self.sums, values]), len(self.pairs))


def _said(predictions: Predictions, but: np.ndarray, leaves: np.ndarray,
          start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, class and score of the leaf classes published for some images, without these labels, by image."""
    rows = predictions.best[start: start + IMAGES_AT_ONCE]
    image = np.repeat(np.arange(start, start + len(rows)), rows["class"].shape[1])
    said, score = rows["class"].ravel(), rows["score"].ravel()
    here = (but["image"] >= start) & (but["image"] < start + len(rows))
    wrong = leaves[said] & ~np.isin(image * len(leaves) + said,
                                    but["image"][here].astype(np.int64) * len(leaves) + but["class"][here])
    return image[wrong], said[wrong], score[wrong]


def _joined(image: np.ndarray, first: np.ndarray, other: np.ndarray, second: np.ndarray,
            values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of what is of the same image; both are sorted by image, the `values` belong to the second."""
    begins, ends = (np.searchsorted(other, image, side=side) for side in ("left", "right"))
    lengths = ends - begins
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(begins, lengths)
    return np.repeat(first, lengths), second[place], values[place]


def _leaves(tree: ClassTree) -> np.ndarray:
    return np.array([not children for children in tree.children])
