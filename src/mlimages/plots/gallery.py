"""Validation images with each of their labels judged by itself: right, wrong or missed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.core.publish import read_manifest
from mlimages.evaluate.predictions import Predictions, read_predictions
from mlimages.inputs.pipeline import Records
from mlimages.plots.canvas import BAD, GOOD, MUTED, VALIDATION, picture
from mlimages.plots.downloads import special_classes

NEARLY_ALL = 0.9  # a class that is true of so large a share of the images tells nothing about one of them
MOST_LINES = 5  # of a caption
LINE_INCHES, PICTURE_INCHES, TITLE_INCHES, LEGEND_INCHES = 0.15, 1.9, 0.4, 0.6
POINTS = 72  # of an inch


class Verdict(Enum):
    """What a label is, with its sign, its colour, and what that means."""

    RIGHT = "✓", GOOD, "predicted and true"
    WRONG = "✗", BAD, "predicted, but not true"
    MISSED = "○", VALIDATION, "true, but not predicted"


class Judged(NamedTuple):
    """A label of an image; `score` is NaN where the class is not among those that were published."""

    label: int
    score: float
    verdict: Verdict


class Judge:
    """Judges the labels of the validation images in data/evaluation.

    A class is true where its confidence reaches the threshold of the evaluation, and predicted where its probability
    reaches the score threshold. Left out are ancestors of a class that is true or predicted, classes that are true of
    nearly every image, and those of which it is not known whether they are true.
    """

    def __init__(self, evaluation: str | Path, tree: ClassTree) -> None:
        manifest = read_manifest(evaluation, "evaluate")
        self.predictions: Predictions = read_predictions(evaluation)
        self._threshold, self.score_threshold = manifest["threshold"], manifest["score_threshold"]
        self._tree = tree
        labels = self.predictions.labels
        true = labels["class"][labels["confidence"] >= self._threshold]
        self._common = set(np.flatnonzero(np.bincount(true, minlength=len(tree)) >= NEARLY_ALL * len(self)).tolist())

    def __len__(self) -> int:
        return len(self.predictions.best)

    def __call__(self, image: int) -> list[Judged]:
        """The labels of an image, the highest score first, those without a score last."""
        known = self.predictions.labels_of(image)
        confidences = dict(zip(known["class"].tolist(), known["confidence"].tolist(), strict=True))
        row = self.predictions.best[image]
        scores = dict(zip(row["class"].tolist(), row["score"].tolist(), strict=True))
        true = {index for index, confidence in confidences.items() if confidence >= self._threshold}
        predicted = {index for index, score in scores.items()
                     if score >= self.score_threshold and confidences.get(index, 0.0) >= 0}
        shown = special_classes(self._tree, tuple((true | predicted) - self._common))
        found = [Judged(index, scores.get(index, float("nan")),
                        Verdict.WRONG if index not in true else
                        Verdict.RIGHT if index in predicted else Verdict.MISSED) for index in shown]
        return sorted(found, key=lambda one: (-np.nan_to_num(one.score, nan=-1.0), one.label))


def gallery(evaluation: str | Path, tfrecords: str | Path, lists: str | Path, columns: int = 6) -> None:
    """Three rows of validation images: wholly right ones, some from everywhere, and the gravest mistakes.

    Above stands how many labels are right, wrong and missed, over all validation images.
    """
    tree = read_tree(Path(lists) / DICTIONARY)
    judge = Judge(evaluation, tree)
    labels = [judge(image) for image in range(len(judge))]
    counts = Counter(one.verdict for judged in labels for one in judged)
    right = [image for image, judged in enumerate(labels)
             if judged and all(one.verdict is Verdict.RIGHT for one in judged)]
    mistaken = sorted((image for image, judged in enumerate(labels) if any(_gravity(judged))),
                      key=lambda image: _gravity(labels[image]), reverse=True)
    anywhere = np.unique(np.linspace(0, len(labels) - 1, columns).astype(int)).tolist()
    rows = {f"Wholly right: {len(right):,} of {len(labels):,} images": spread(right, columns),
            "From everywhere, evenly spread": anywhere,
            "The gravest mistakes, the surest wrong label first": mistaken[:columns]}
    records = Records(tfrecords, read_manifest(tfrecords, "convert"), "val")
    positions = records.positions()
    heights = [TITLE_INCHES + (PICTURE_INCHES + LINE_INCHES * (1 + MOST_LINES) if images else 0)
               for images in rows.values()]
    figure = plt.figure(figsize=(PICTURE_INCHES * columns, LEGEND_INCHES + sum(heights)))
    parts: Any = figure.subfigures(1 + len(rows), 1, height_ratios=[LEGEND_INCHES, *heights])
    parts[0].legend([Line2D([], [], color=verdict.value[1], lw=5) for verdict in Verdict],
                    [f"{verdict.value[0]} {verdict.value[2]}: {counts[verdict]:,}" for verdict in Verdict],
                    loc="center", ncols=len(Verdict), frameon=False,
                    title=f"All labels (predicted: with a probability of {judge.score_threshold:g} or more)")
    for part, height, (title, images) in zip(parts[1:], heights, rows.items(), strict=True):
        part.text(0.5, 1 - TITLE_INCHES / 2 / height, title, ha="center", va="center", fontsize=11)
        for number, image in enumerate(images):
            ax = part.add_axes((number / columns + 0.05 / columns, 1 - (TITLE_INCHES + 0.9 * PICTURE_INCHES) / height,
                                0.9 / columns, 0.9 * PICTURE_INCHES / height))
            ax.imshow(picture(records.reader.example(*positions[image].tolist()).jpeg))
            ax.axis("off")
            for line, (text, colour) in enumerate(_caption(tree, labels[image])):
                ax.annotate(text, (0.5, 0), (0, -POINTS * LINE_INCHES * line - 4), xycoords="axes fraction",
                            textcoords="offset points", fontsize=8, ha="center", va="top", color=colour)
    plt.show()


def spread(images: Sequence[int], count: int) -> list[int]:
    """`count` of them, or all, evenly spread."""
    count = min(count, len(images))
    return [images[place * len(images) // count] for place in range(count)]


def _gravity(judged: Iterable[Judged]) -> tuple[float, int]:
    """By which mistakes are compared: the score of the surest wrong label, and how many labels were missed."""
    verdicts = Counter(one.verdict for one in judged)
    return max((one.score for one in judged if one.verdict is Verdict.WRONG), default=0.0), verdicts[Verdict.MISSED]


def _caption(tree: ClassTree, judged: Sequence[Judged]) -> list[tuple[str, str]]:
    """Lines and their colours; where there are too many labels, the last line counts the rest."""
    whole = len(judged) if len(judged) <= MOST_LINES else MOST_LINES - 1
    lines = []
    for one in judged[:whole]:
        sign, colour, _ = one.verdict.value
        lines.append((f"{sign} {tree.label(one.label)}" + ("" if np.isnan(one.score) else f" {one.score:.2f}"), colour))
    rest = Counter(one.verdict for one in judged[whole:])
    if rest:
        lines.append(("  ".join(f"+{rest[verdict]} {verdict.value[0]}" for verdict in Verdict if rest[verdict]), MUTED))
    return lines
