"""Validation images with their right, wrong and missed labels."""

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
from mlimages.metrics.decisions import common_classes
from mlimages.plots.canvas import BAD, GOOD, MUTED, VALIDATION, decode_image

MAX_LINES = 5  # of a caption
LINE_INCHES, IMAGE_INCHES, TITLE_INCHES, LEGEND_INCHES = 0.15, 1.9, 0.4, 0.6
POINTS_PER_INCH = 72


class Verdict(Enum):
    """The outcome of a label, with its sign, its colour and its meaning."""

    RIGHT = "✓", GOOD, "predicted and true"
    WRONG = "✗", BAD, "predicted, but not true"
    MISSED = "○", VALIDATION, "true, but not predicted"


class LabelOutcome(NamedTuple):
    """The class of a label, its probability (NaN if it was not published) and its outcome."""

    label: int
    score: float
    outcome: Verdict


class LabelOutcomes:
    """The outcomes of the labels of the validation images in data/evaluation.

    A class is true if its confidence is at least the threshold of the evaluation, and predicted if its probability is
    at least the score threshold. These classes are left out: classes of unknown confidence, ancestors of a true class,
    wrong classes that are ancestors of a shown one and, unless `common`, true classes of nearly every image.
    """

    def __init__(self, evaluation: str | Path, tree: ClassTree, *, common: bool = False) -> None:
        manifest = read_manifest(evaluation, "evaluate")
        self.predictions: Predictions = read_predictions(evaluation)
        self._threshold, self.score_threshold = manifest["threshold"], manifest["score_threshold"]
        self._tree = tree
        labels = self.predictions.labels
        true = labels["class"][labels["confidence"] >= self._threshold]
        images = np.bincount(true, minlength=len(tree))
        self._left_out = set() if common else set(np.flatnonzero(common_classes(images, len(self))).tolist())

    def __len__(self) -> int:
        return len(self.predictions.best)

    def __getitem__(self, image: int) -> list[LabelOutcome]:
        """The labels of an image, the highest probability first, unpublished ones last."""
        known = self.predictions.labels_of(image)
        confidences = dict(zip(known["class"].tolist(), known["confidence"].tolist(), strict=True))
        row = self.predictions.best[image]
        scores = dict(zip(row["class"].tolist(), row["score"].tolist(), strict=True))
        true = {index for index, confidence in confidences.items() if confidence >= self._threshold}
        predicted = {index for index, score in scores.items()
                     if score >= self.score_threshold and confidences.get(index, 0.0) >= 0}
        specific, wrong = self._tree.caption_classes(true - self._left_out, predicted - true - self._left_out)
        labels = [LabelOutcome(index, scores.get(index, float("nan")),
                               Verdict.WRONG if index not in true else
                               Verdict.RIGHT if index in predicted else Verdict.MISSED)
                  for index in [*specific, *wrong]]
        return sorted(labels, key=lambda label: (-np.nan_to_num(label.score, nan=-1.0), label.label))


def gallery(evaluation: str | Path, tfrecords: str | Path, lists: str | Path, columns: int = 6) -> None:
    """Show three rows of validation images: with right labels only, evenly spread ones, and the worst mistakes.

    The legend counts right, wrong and missed labels of all validation images.
    """
    tree = read_tree(Path(lists) / DICTIONARY)
    outcomes = LabelOutcomes(evaluation, tree)
    labels = [outcomes[image] for image in range(len(outcomes))]
    counts = Counter(label.outcome for of_image in labels for label in of_image)
    right = [image for image, of_image in enumerate(labels)
             if of_image and all(label.outcome is Verdict.RIGHT for label in of_image)]
    mistaken = sorted((image for image, of_image in enumerate(labels) if any(_severity(of_image))),
                      key=lambda image: _severity(labels[image]), reverse=True)
    rows = {f"All labels right: {len(right):,} of {len(labels):,} images": spread(right, columns),
            "Evenly spaced over all images": np.unique(np.linspace(0, len(labels) - 1, columns).astype(int)).tolist(),
            "The worst mistakes: the wrong labels with the highest probabilities": mistaken[:columns]}
    records = Records(tfrecords, read_manifest(tfrecords, "convert"), "val")
    positions = records.positions()
    heights = [TITLE_INCHES + (IMAGE_INCHES + LINE_INCHES * (1 + MAX_LINES) if images else 0)
               for images in rows.values()]
    figure = plt.figure(figsize=(IMAGE_INCHES * columns, LEGEND_INCHES + sum(heights)))
    subfigures: Any = figure.subfigures(1 + len(rows), 1, height_ratios=[LEGEND_INCHES, *heights])
    legend, *parts = subfigures
    legend.legend([Line2D([], [], color=outcome.value[1], lw=5) for outcome in Verdict],
                  [f"{outcome.value[0]} {outcome.value[2]}: {counts[outcome]:,}" for outcome in Verdict],
                  loc="center", ncols=len(Verdict), frameon=False,
                  title=f"All labels (predicted: with a probability of {outcomes.score_threshold:g} or more)")
    for part, height, (title, images) in zip(parts, heights, rows.items(), strict=True):
        part.text(0.5, 1 - TITLE_INCHES / 2 / height, title, ha="center", va="center", fontsize=11)
        for column, image in enumerate(images):
            ax = part.add_axes((column / columns + 0.05 / columns, 1 - (TITLE_INCHES + 0.9 * IMAGE_INCHES) / height,
                                0.9 / columns, 0.9 * IMAGE_INCHES / height))
            ax.imshow(decode_image(records.reader.example(*positions[image].tolist()).jpeg))
            ax.axis("off")
            _draw_caption(ax, _caption(tree, labels[image]))
    plt.show()


def spread(images: Sequence[int], count: int) -> list[int]:
    """`count` evenly spaced images; all of them if there are fewer."""
    count = min(count, len(images))
    return [images[place * len(images) // count] for place in range(count)]


def _severity(labels: Iterable[LabelOutcome]) -> tuple[float, int]:
    """The sort key of mistakes: the highest probability of a wrong label, then the number of missed labels."""
    labels = list(labels)
    return (max((label.score for label in labels if label.outcome is Verdict.WRONG), default=0.0),
            sum(label.outcome is Verdict.MISSED for label in labels))


def _caption(tree: ClassTree, labels: Sequence[LabelOutcome]) -> list[tuple[str, str]]:
    """Lines and their colours. The last line of a long caption counts the other labels."""
    named = len(labels) if len(labels) <= MAX_LINES else MAX_LINES - 1
    lines = []
    for index, score, outcome in labels[:named]:
        sign, colour, _ = outcome.value
        lines.append((f"{sign} {tree.label(index)}" + ("" if np.isnan(score) else f" {score:.2f}"), colour))
    rest = Counter(label.outcome for label in labels[named:])
    if rest:
        lines.append(("  ".join(f"+{rest[outcome]} {outcome.value[0]}" for outcome in Verdict if rest[outcome]), MUTED))
    return lines


def _draw_caption(ax: Any, lines: Sequence[tuple[str, str]]) -> None:
    for number, (text, colour) in enumerate(lines):
        ax.annotate(text, (0.5, 0), (0, -POINTS_PER_INCH * LINE_INCHES * number - 4), xycoords="axes fraction",
                    textcoords="offset points", fontsize=8, ha="center", va="top", color=colour)
