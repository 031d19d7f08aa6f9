"""Loading a saved network, its probabilities, and `measure`: all metrics of any network on any data set."""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from mlimages.core.errors import UserError, redo
from mlimages.core.publish import MANIFEST
from mlimages.metrics.average_precision import MultiLabelMetrics
from mlimages.metrics.measurement import MetricsAccumulator

Activation = Literal["sigmoid", "softmax", "none"]
Network = Callable[[Any], Any]

MODEL = "model.keras"
SAVED_MODEL_FILE = "saved_model.pb"
MAX_EXPANSION = 10  # of a .keras file; Keras does not compress its members
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"sigmoid": tf.sigmoid, "softmax": tf.nn.softmax, "none": tf.identity}


def measure(model: str | Path | keras.Model, dataset: Iterable[Any], *, activation: Activation | None = None,
            at_k: Sequence[int] = (1, 5), threshold: float = 0.5, score_threshold: float = 0.5,
            parents: Sequence[int] | None = None) -> MultiLabelMetrics:
    """Compute the metrics of a network on a data set. Memory grows by 8 bytes for each true label.

    `model` is a keras.Model, a .keras file, the folder of a SavedModel, or data/model. `dataset`, such as a
    tf.data.Dataset, yields batches: images as the network takes them, confidences float [images, classes], and any
    further elements, which are ignored. A negative confidence is unknown and does not count.

    `activation` turns the network's outputs into probabilities. None means the one in the manifest beside a trained
    model; "none" if the last layer of a keras.Model is a sigmoid or softmax; otherwise "sigmoid". The other parameters
    are those of `MetricsAccumulator`; `read_tree(path).parents` are the `parents` of a class tree.

    Raises UserError for a file without a network, labels of another shape, scores that are not probabilities, and an
    empty data set. A SavedModel is a program: load it only if you trust it. A .keras file runs no code.
    """
    network, saved_activation = load_network(model)
    accumulator = None
    batches = tqdm(probabilities(network, activation or saved_activation, dataset), "measure",
                   _batch_count(dataset), unit=" batches", disable=None)
    for scores, confidences in batches:
        if accumulator is None:
            accumulator = MetricsAccumulator(scores.shape[-1], at_k=at_k, threshold=threshold,
                                      score_threshold=score_threshold, parents=parents)
        accumulator.update(scores, confidences)
    if accumulator is None:
        raise UserError("the data set is empty, expected at least one batch")
    return accumulator.result()


def probabilities(network: Network, activation: Activation,
                  batches: Iterable[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the probabilities, float32 [images, classes], and the labels of each batch (images, labels, ...)."""
    function = tf.function(lambda images: ACTIVATIONS[activation](tf.cast(network(images), tf.float32)),
                           reduce_retracing=True)
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise UserError(f"the data set gives {type(batch).__name__}, expected batches (images, confidences)")
        images, labels, *_ = batch
        yield function(images).numpy(), tf.convert_to_tensor(labels).numpy()


def load_network(model: str | Path | keras.Model) -> tuple[Network, Activation]:
    """The network as a function of images, and the activation of its outputs; see `measure`."""
    if isinstance(model, keras.Model):
        last = [getattr(layer, "activation", None) for layer in model.layers[-1:]]
        finished = last in ([keras.activations.sigmoid], [keras.activations.softmax])
        return (lambda images: model(images, training=False)), "none" if finished else "sigmoid"
    path = Path(model)
    if (path / MODEL).exists():
        path = path / MODEL
    if (path / SAVED_MODEL_FILE).exists():
        return _load_saved_model(path), _published_activation(path.parent) or "sigmoid"
    network, activation = load_network(load_keras(path))
    return network, _published_activation(path.parent) or activation


def load_keras(path: Path) -> keras.Model:
    """The network of a .keras file; no code in the file is run. Raises UserError for a damaged file.

    The file is unpacked first: Keras then reads the weights one by one, not all of them at once.
    """
    try:
        with TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MAX_EXPANSION * path.stat().st_size:
                raise ValueError(f"it would unpack to {unpacked:,} bytes")
            archive.extractall(folder)
            return keras.models.load_model(folder, compile=False, safe_mode=True)
    except (ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no network that can be loaded ({error}); {redo('train')}") from None


def _load_saved_model(path: Path) -> Network:
    try:
        loaded = tf.saved_model.load(path)
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise UserError(f"{path} is no SavedModel that can be loaded ({error}); {redo('train')}") from None
    if hasattr(loaded, "serve"):  # as Keras exports it
        return lambda images: loaded.serve(images)  # the lambda keeps `loaded`, and so its variables
    if "serving_default" not in loaded.signatures:
        raise UserError(f"{path} has neither the endpoint `serve` nor the signature `serving_default`, only "
                        f"{list(loaded.signatures)}")
    signature = loaded.signatures["serving_default"]
    [argument], [output] = signature.structured_input_signature[1], signature.structured_outputs
    return lambda images: loaded.signatures["serving_default"](**{argument: images})[output]


def _published_activation(folder: Path) -> Activation | None:
    """The activation that `train` published in this folder; None without its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest.get("activation") if isinstance(manifest, dict) else None


def _batch_count(dataset: Iterable[Any]) -> int | None:
    """The number of batches, if the data set knows it."""
    try:
        return len(dataset)  # type: ignore[arg-type]
    except TypeError:
        return None
