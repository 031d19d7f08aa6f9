"""Predictions: what the trained network says of the validation records, and the file that keeps it."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from mlimages.errors import UserError, redo
from mlimages.publish import atomic


class Predictions(NamedTuple):
    """`keys` str [images]; `scores` (probabilities) and `confidences` (the labels) float32 [images, classes]."""

    keys: np.ndarray
    scores: np.ndarray
    confidences: np.ndarray


def load_model(path: Path) -> keras.Model:
    """The network of a .keras file; nothing in the file is run as code."""
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no network that can be loaded ({error}); {redo('train')}") from None


def predict(model: keras.Model, batches: Iterable[Any], advance: Any) -> Predictions:
    """Run the network over batches of images, confidences and keys; `advance(images)` is told of each batch."""
    keys, scores, confidences = [], [], []
    for images, labels, names in batches:
        scores.append(keras.ops.convert_to_numpy(keras.ops.sigmoid(model(images, training=False))))
        confidences.append(keras.ops.convert_to_numpy(labels))
        keys.append(np.array([name.decode() for name in keras.ops.convert_to_numpy(names)]))
        advance(len(keys[-1]))
    return Predictions(np.concatenate(keys), np.concatenate(scores), np.concatenate(confidences))


def write_predictions(path: Path, predictions: Predictions) -> None:
    with atomic(path) as file:
        np.savez_compressed(file, **predictions._asdict())


def read_predictions(path: Path) -> Predictions:
    """Read them back; arrays only, a pickle inside is refused."""
    with np.load(path, allow_pickle=False) as arrays:
        return Predictions(arrays["keys"], arrays["scores"], arrays["confidences"])
