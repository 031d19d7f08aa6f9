"""The scores of the network on validation images during the training."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from mlimages.core.errors import UserError
from mlimages.core.params import Train
from mlimages.inputs.pipeline import Records, evaluation_batches
from mlimages.metrics.decisions import common_classes
from mlimages.metrics.score_histograms import UNKNOWN, ScoreHistograms
from mlimages.network.model_files import ClassTable
from mlimages.training.metrics_log import NO_VALIDATION, ValidationScores
from mlimages.training.step import Trainer

BATCH = 50
TRUE_CONFIDENCE = np.float32(0.5)  # as evaluate.threshold
PREDICTED = np.float32(0.5)  # as evaluate.score_threshold
SHOWN = 4
RIGHT, MISSED, WRONG = ("right", "green"), ("missed", "darkorange"), ("wrong", "firebrick")


class ValidationResult(NamedTuple):
    """The scores on the validation images, and the first of them with their confidences.

    The mean average precision is NaN if no image has a class. It and `top_1` are NaN if an output is not finite.
    `probabilities` are those of the first images. `common`, bool [classes], is true for a class of nearly every image.
    """

    scores: ValidationScores
    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    classes: ClassTable
    common: np.ndarray

    def captions(self) -> list[list[tuple[str, str]]]:
        """For each image the lines of its caption and their colours: right, missed and wrong classes, best first.

        Left out, as in the gallery, are classes of unknown confidence, ancestors of a true class, wrong classes that
        are ancestors of a shown one, and common classes.
        """
        return [self._caption(*one) for one in zip(self.labels, self.probabilities, strict=True)]

    def _caption(self, confidences: np.ndarray, scores: np.ndarray) -> list[tuple[str, str]]:
        is_true = confidences >= TRUE_CONFIDENCE
        predicted = scores >= PREDICTED
        true, wrong = self.classes.caption_classes(
            np.flatnonzero(is_true & ~self.common).tolist(),
            np.flatnonzero(predicted & ~is_true & (confidences >= 0) & ~self.common).tolist())
        outcomes = {index: RIGHT if predicted[index] else MISSED for index in true} | dict.fromkeys(wrong, WRONG)
        return [(f"{self.classes.label(index)}: {outcomes[index][0]} {scores[index]:.2f}", outcomes[index][1])
                for index in sorted(outcomes, key=lambda index: -np.nan_to_num(scores[index]))]


class Validation:
    """`params.validation_images` of the validation records, evenly spaced.

    The network sees the central part of each image, `params.validation_fraction` of each side. Images are decoded
    again for each validation, so memory does not grow with their number. Raises UserError without validation records.
    """

    def __init__(self, records: Records, classes: ClassTable, params: Train, *, readers: int) -> None:
        if not len(records):
            raise UserError("train.validation_images asks for validation images, but there are no validation records; "
                            "set it to 0, or run `dvc repro convert` with some")
        self._batches = evaluation_batches(records, batch=BATCH, pixels=params.pixels, preprocessing="central",
                                           central_fraction=params.validation_fraction, readers=readers,
                                           positions=records.evenly_spaced(params.validation_images))
        self._classes = classes
        self._activation: Callable[[Any], Any] = keras.activations.get(params.activation)

    def run(self, trainer: Trainer, report: Callable[..., None]) -> ValidationResult:
        """Compute the scores. `report(validated=...)` receives the number of images so far."""
        losses, seen, hits, first, finite = 0.0, 0, 0, None, True
        with_class = np.zeros(len(self._classes), int)
        for images, labels, _ in self._batches:
            loss, logits = trainer.evaluate(images, labels)
            confidences, probabilities = labels.numpy(), self._activation(logits).numpy()
            losses += float(loss) * len(images)
            seen += len(images)
            report(validated=seen)
            if first is None:
                first = ValidationResult(NO_VALIDATION, images[:SHOWN].numpy(), confidences[:SHOWN],
                                         probabilities[:SHOWN], self._classes, with_class)
                histograms = ScoreHistograms(confidences.shape[1])
            with_class += (confidences >= TRUE_CONFIDENCE).sum(axis=0)
            finite = finite and bool(np.isfinite(probabilities).all())
            best = confidences[np.arange(len(confidences)), probabilities.argmax(axis=1)]
            hits += int((best >= TRUE_CONFIDENCE).sum())
            if finite:
                histograms.update(np.where(confidences >= 0, probabilities, UNKNOWN), confidences >= TRUE_CONFIDENCE)
        if first is None:
            raise UserError("the validation records hold no image; set train.validation_images to 0")
        return first._replace(common=common_classes(with_class, seen), scores=ValidationScores(
            losses / seen, _mean_average_precision(histograms) if finite else math.nan,
            hits / seen if finite else math.nan))


def _mean_average_precision(histograms: ScoreHistograms) -> float:
    found = [ranks.average_precision for ranks in histograms.ranks() if len(ranks.scores)]
    return float(np.mean(found)) if found else math.nan
