"""How good a network is on pictures of one class each: accuracy, confusions and the most confident mistakes.

    metrics.json      top_1, top_5, top_1_from_nothing, top_1_linear, images
    predictions.csv   image, class, predicted, probability, top_5: a row for each validation picture
    confusion.csv     class, predicted, images: a row for each pair that occurs
    mistakes/         the pictures of the most confident mistakes, as predictions.csv names them
    examples/         the first validation picture of each of the first classes, by the number of the class
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlimages.core.publish import write_csv
from mlimages.network.model_files import ClassTable

TOP = 5
MISTAKES, EXAMPLES = 12, 24  # pictures that are published
PREDICTIONS, CONFUSION = "predictions.csv", "confusion.csv"


class ScoredPicture(NamedTuple):
    """A picture's key, the number of its class, and the probabilities of all classes, float32 [classes]."""

    key: str
    label: int
    probabilities: np.ndarray

    @property
    def predicted(self) -> int:
        """The likeliest class."""
        return int(self.probabilities.argmax())

    @property
    def in_top(self) -> bool:
        """Whether the true class is one of the TOP likeliest."""
        return int((self.probabilities > self.probabilities[self.label]).sum()) < TOP


def accuracy(scored: Iterable[ScoredPicture]) -> dict[str, float]:
    """The shares of the pictures whose class is the likeliest (`top_1`) and one of the TOP likeliest (`top_5`)."""
    hits = [(picture.predicted == picture.label, picture.in_top) for picture in scored]
    first, any_of = np.mean(hits, axis=0).tolist()
    return {"top_1": first, f"top_{TOP}": any_of}


def confident_mistakes(scored: Iterable[ScoredPicture]) -> list[ScoredPicture]:
    """The wrong predictions with the highest probabilities, at most MISTAKES."""
    wrong = [picture for picture in scored if picture.predicted != picture.label]
    return sorted(wrong, key=lambda picture: (-float(picture.probabilities.max()), picture.key))[:MISTAKES]


def mistake_file(number: int) -> str:
    """The path of the picture of a mistake, by its number in `confident_mistakes`."""
    return f"mistakes/{number:02d}.jpg"


def example_file(label: int) -> str:
    """The path of the example of a class."""
    return f"examples/{label:03d}.jpg"


def write_scores(scored: list[ScoredPicture], classes: ClassTable, out: Path) -> None:
    """Write predictions.csv and confusion.csv."""
    files = {picture.key: mistake_file(number) for number, picture in enumerate(confident_mistakes(scored))}
    write_csv(out / PREDICTIONS, ("image", "class", "predicted", "probability", "top_5", "file"), [
        (picture.key, classes.label(picture.label), classes.label(picture.predicted),
         f"{picture.probabilities.max():.4f}", int(picture.in_top), files.get(picture.key, ""))
        for picture in scored])
    pairs = Counter((picture.label, picture.predicted) for picture in scored)
    write_csv(out / CONFUSION, ("class", "predicted", "images"),
              [(classes.label(label), classes.label(predicted), count)
               for (label, predicted), count in sorted(pairs.items())])
