"""A saved network and its probabilities, and `measure`: all figures of any network on any data set."""

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
from mlimages.metrics.average_precision import Figures
from mlimages.metrics.measurement import Measurement

Activation = Literal["sigmoid", "softmax", "none"]
Network = Callable[[Any], Any]

MODEL = "model.keras"
SAVED_MODEL_FILE = "saved_model.pb"
MOST_EXPANSION = 10  # of a .keras file, in which Keras compresses nothing
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"sigmoid": tf.sigmoid, "softmax": tf.nn.softmax, "none": tf.identity}


def measure(model: str | Path | keras.Model, dataset: Iterable[Any], *, activation: Activation | None = None,
            at_k: Sequence[int] = (1, 5), threshold: float = 0.5, score_threshold: float = 0.5,
            parents: Sequence[int] | None = None) -> Figures:
    """The figures of a network on a data set; the memory grows with it by no more than 8 bytes for each true label.

    `model` is a keras.Model, a .keras file, the folder of a SavedModel, or data/model. `dataset`, such as a
    tf.data.Dataset, gives batches (images as the network takes them, confidences float [images, classes], and whatever
    else, which is not looked at); a negative confidence is unknown and does not count.

    `activation` makes probabilities of the network's outputs. Without it: the one that the manifest beside a trained
    model tells; none where the last layer of a keras.Model is a sigmoid or softmax; otherwise the sigmoid. The other
    parameters are those of `Measurement`; `parents` of a class tree are `read_tree(path).parents`.

    Raises UserError for a file that holds no network, labels of another shape, scores that are no probabilities, and
    an empty data set. A SavedModel is a program: load only such as you trust; in a .keras file no code is run.
    """
    network, found = load_network(model)
    measurement = None
    batches = tqdm(probabilities(network, activation or found, dataset), "measure", _batches(dataset), unit=" batches",
                   disable=None)
    for scores, confidences in batches:
        if measurement is None:
            measurement = Measurement(scores.shape[-1], at_k=at_k, threshold=threshold,
                                      score_threshold=score_threshold, parents=parents)
        measurement.update(scores, confidences)
    if measurement is None:
        raise UserError("the data set is empty: there is nothing to measure by")
    return measurement.figures()


def probabilities(network: Network, activation: Activation,
                  batches: Iterable[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each batch (images, labels, ...) the probabilities, float32 [images, classes], and the labels."""
    function = tf.function(lambda images: ACTIVATIONS[activation](tf.cast(network(images), tf.float32)),
                           reduce_retracing=True)
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise UserError(f"the data set gives {type(batch).__name__}, expected batches (images, confidences)")
        images, labels, *_ = batch
        yield function(images).numpy(), tf.convert_to_tensor(labels).numpy()


def load_network(model: str | Path | keras.Model) -> tuple[Network, Activation]:
    """What makes outputs of images, and what makes probabilities of these, as far as is known; see `measure`."""
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
    """The network of a .keras file; nothing in the file is run as code.

    Unpacked, so that its weights are read one by one: from the file itself Keras reads all of them before any is set.
    """
    try:
        with TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MOST_EXPANSION * path.stat().st_size:
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
        return lambda images: loaded.serve(images)  # which keeps the variables that it needs
    if "serving_default" not in loaded.signatures:
        raise UserError(f"{path} has neither the endpoint `serve` nor the signature `serving_default`, only "
                        f"{list(loaded.signatures)}")
    signature = loaded.signatures["serving_default"]
    [given], [output] = signature.structured_input_signature[1], signature.structured_outputs
    return lambda images: loaded.signatures["serving_default"](**{given: images})[output]


def _published_activation(folder: Path) -> Activation | None:
    """What `train` published beside the network that lies in this folder."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest.get("activation") if isinstance(manifest, dict) else None


def _batches(dataset: Iterable[Any]) -> int | None:
    """How many there are, where the data set knows."""
    try:
        return len(dataset)  # type: ignore[arg-type]
    except TypeError:
        return None
