"""The scores of the network on validation images during the training."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from mlimages.core.errors import UserError
from mlimages.core.params import Train
from mlimages.inputs.pipeline import Records, evaluation_batches
from mlimages.metrics.score_histograms import UNKNOWN, ScoreHistograms
from mlimages.training.metrics_log import NO_VALIDATION, ValidationScores
from mlimages.training.step import Trainer

BATCH = 50
TRUE_CONFIDENCE = np.float32(0.5)  # as evaluate.threshold
SHOWN = 4


class ValidationResult(NamedTuple):
    """The scores on the validation images, and the first of them with their confidences.

    The mean average precision is NaN if no image has a class. It and `top_1` are NaN if an output is not finite.
    `probabilities` are those of the first images, `names` those of the classes.
    """

    scores: ValidationScores
    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    names: Sequence[str]


class Validation:
    """`params.validation_images` of the validation records, evenly spaced.

    The network sees the central part of each image, `params.validation_fraction` of each side. Images are decoded
    again for each validation, so memory does not grow with their number. Raises UserError without validation records.
    """

    def __init__(self, records: Records, names: Sequence[str], params: Train, *, readers: int) -> None:
        if not len(records):
            raise UserError("train.validation_images asks for validation images, but there are no validation records; "
                            "set it to 0, or run `dvc repro convert` with some")
        self._batches = evaluation_batches(records, batch=BATCH, pixels=params.pixels, preprocessing="central",
                                           central_fraction=params.validation_fraction, readers=readers,
                                           positions=records.evenly_spaced(params.validation_images))
        self._names = names
        self._activation: Callable[[Any], Any] = keras.activations.get(params.activation)

    def run(self, trainer: Trainer, report: Callable[..., None]) -> ValidationResult:
        """Compute the scores. `report(validated=...)` receives the number of images so far."""
        losses, seen, hits, first, finite = 0.0, 0, 0, None, True
        for images, labels, _ in self._batches:
            loss, logits = trainer.evaluate(images, labels)
            confidences, probabilities = labels.numpy(), self._activation(logits).numpy()
            losses += float(loss) * len(images)
            seen += len(images)
            report(validated=seen)
            if first is None:
                first = ValidationResult(NO_VALIDATION, images[:SHOWN].numpy(), confidences[:SHOWN],
                                         probabilities[:SHOWN], self._names)
                histograms = ScoreHistograms(confidences.shape[1])
            finite = finite and bool(np.isfinite(probabilities).all())
            best = confidences[np.arange(len(confidences)), probabilities.argmax(axis=1)]
            hits += int((best >= TRUE_CONFIDENCE).sum())
            if finite:
                histograms.update(np.where(confidences >= 0, probabilities, UNKNOWN), confidences >= TRUE_CONFIDENCE)
        if first is None:
            raise UserError("the validation records hold no image; set train.validation_images to 0")
        return first._replace(scores=ValidationScores(
            losses / seen, _mean_average_precision(histograms) if finite else math.nan,
            hits / seen if finite else math.nan))


def _mean_average_precision(histograms: ScoreHistograms) -> float:
    found = [ranks.average_precision for ranks in histograms.ranks() if len(ranks.scores)]
    return float(np.mean(found)) if found else math.nan
