"""Pictures of what the network says of single images, and of what it takes for what."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.convert.records import parse_sparse, shard_paths
from mlimages.evaluate.predictions import Predictions, read_predictions
from mlimages.figures.canvas import BAD, GOOD, VALIDATION, axes, picture_grid
from mlimages.figures.images import special_classes
from mlimages.publish import read_manifest

# Images of one class without the other that a confusion must be seen in.
LEAST_IMAGES = 5
IMAGES_AT_ONCE = 4096


def true_threshold(evaluation: str | Path) -> float:
    """The confidence from which on a class was called true when the network was evaluated."""
    return read_manifest(evaluation, "evaluate")["threshold"]


def gallery(evaluation: str | Path, tfrecords: str | Path, lists: str | Path, count: int = 18) -> None:
    """Validation images with their true classes and the likeliest predicted ones, ancestors left out."""
    tree = read_tree(Path(lists) / DICTIONARY)
    predictions, threshold = read_predictions(evaluation), true_threshold(evaluation)
    leaves = _leaves(tree)
    shards = shard_paths(tfrecords, read_manifest(tfrecords, "convert"), "val")
    pictures, colours = [], []
    for index, serialized in enumerate(tf.data.TFRecordDataset([str(path) for path in shards]).take(count)):
        true = special_classes(tree, tuple(predictions.true(index, threshold).tolist()))
        row = predictions.best[index]
        said = [(int(one), score) for one, score in zip(row["class"], row["score"], strict=True)
                if leaves[one]][:len(true)]
        caption = "\n".join(["TRUE", *(tree.label(one) for one in true[:4]), "SAID",
                            *(f"{tree.label(one)} {score:.2f}" for one, score in said[:4])])
        pictures.append((parse_sparse(serialized)["encoded"].numpy(), caption))
        colours.append(GOOD if {one for one, _ in said} & set(true) else BAD)
    picture_grid("Validation images (green: at least one special class is right)", pictures, colours=colours)


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


def _said(predictions: Predictions, true: np.ndarray, leaves: np.ndarray,
          start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, class and score of the leaf classes published for some images that are not true there, by image."""
    rows = predictions.best[start: start + IMAGES_AT_ONCE]
    image = np.repeat(np.arange(start, start + len(rows)), rows["class"].shape[1])
    said, score = rows["class"].ravel(), rows["score"].ravel()
    here = (true["image"] >= start) & (true["image"] < start + len(rows))
    wrong = leaves[said] & ~np.isin(image * len(leaves) + said,
                                    true["image"][here].astype(np.int64) * len(leaves) + true["class"][here])
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
