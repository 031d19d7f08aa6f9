"""The log of a training: loss, scores, learning rate and speed in a CSV file and in TensorBoard."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from mlimages.core.publish import write_csv

LOG = "training.csv"
TENSORBOARD = "tensorboard"
COLUMNS = ("step", "epoch", "loss", "validation_loss", "validation_mean_average_precision", "validation_top_1",
           "learning_rate", "images_per_second")
# The names in TensorBoard; it shows their groups, the parts before the slash, in alphabetical order.
SCALARS = {"loss": "does it learn/training loss", "validation_loss": "does it learn/validation loss",
           "validation_mean_average_precision": "does it learn/validation mean average precision",
           "validation_top_1": "does it learn/validation top 1",
           "learning_rate": "learning rate and speed/learning rate",
           "images_per_second": "learning rate and speed/images per second"}
COUNTERS, PREDICTIONS = "loss counters", "predictions/validation images"
PICTURE_WIDTH, CAPTION_WIDTH, LINE_HEIGHT, FONT_SIZE = 160, 220, 18, 14  # pixels; TensorBoard shows wide pictures


class ValidationScores(NamedTuple):
    """Scores on the validation images. NaN means no value.

    `loss` is the mean without class weights. `mean_average_precision` is the mean over the classes of these images.
    `top_1` is the share of the images whose likeliest class is correct.
    """

    loss: float
    mean_average_precision: float
    top_1: float


NO_VALIDATION = ValidationScores(*[math.nan] * 3)


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, with a number for each of COLUMNS. NaN means no value."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


class TrainingLog:
    """Appends rows to a log. It first removes the rows after `resumed_step`."""

    def __init__(self, path: Path, tensorboard: Path, resumed_step: int) -> None:
        kept = [row for row in read_log(path) if row["step"] <= resumed_step] if path.exists() else []
        write_csv(path, COLUMNS, [[as_text(row[name]) for name in COLUMNS] for row in kept])
        self._file = path.open("a", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._tensorboard = tf.summary.create_file_writer(str(tensorboard))

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._file.close()
        self._tensorboard.close()

    def row(self, step: int, epoch: float, loss: float, learning_rate: float, images_per_second: float,
            validation: ValidationScores = NO_VALIDATION) -> None:
        """Write a row about the steps since the last row. `loss` is their mean."""
        values = (step, epoch, loss, *validation, learning_rate, images_per_second)
        self._csv.writerow([as_text(value) for value in values])
        self._file.flush()
        with self._tensorboard.as_default(step):
            for name, value in list(zip(COLUMNS, values, strict=True))[2:]:
                if not math.isnan(value):
                    tf.summary.scalar(SCALARS[name], value)
        self._tensorboard.flush()

    def histograms(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the distribution of each array to TensorBoard."""
        with self._tensorboard.as_default(step):
            for name, array in values.items():
                tf.summary.histogram(f"{COUNTERS}/{name}", array)
        self._tensorboard.flush()

    def predictions(self, step: int, images: np.ndarray, captions: Sequence[Sequence[tuple[str, str]]]) -> None:
        """Write images, float32 [n, height, width, 3] in [-1, 1], with lines of text and their colours to TensorBoard.
        """
        pictures = np.stack([captioned(*one) for one in zip(images, captions, strict=True)])
        with self._tensorboard.as_default(step):
            tf.summary.image(PREDICTIONS, pictures, max_outputs=len(pictures))
        self._tensorboard.flush()


def captioned(image: np.ndarray, caption: Sequence[tuple[str, str]]) -> np.ndarray:
    """A picture with its caption on its right, uint8 [height, width, 3]. Small pictures are enlarged.

    `image` is float32 [height, width, 3] in [-1, 1]. The caption has lines of text and their colours; those below the
    picture's end are left out.
    """
    pixels = np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)
    scale = -(-PICTURE_WIDTH // pixels.shape[1])
    picture = Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))
    whole = Image.new("RGB", (picture.width + CAPTION_WIDTH, picture.height), "white")
    whole.paste(picture)
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(FONT_SIZE)
    for number, (text, colour) in enumerate(caption[:picture.height // LINE_HEIGHT]):
        draw.text((picture.width + LINE_HEIGHT // 2, number * LINE_HEIGHT), text, colour, font)
    return np.asarray(whole)


def as_text(value: float) -> str:
    """A number as text in the log: six digits, and an empty text for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:.6g}" if not math.isfinite(value) or value != int(value) else str(int(value))
