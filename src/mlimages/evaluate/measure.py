"""The probabilities of a network, and `measure`: all metrics of any network on any data set."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from mlimages.core.errors import UserError
from mlimages.metrics.average_precision import MultiLabelMetrics
from mlimages.metrics.measurement import MetricsAccumulator
from mlimages.network.load_model import ACTIVATIONS, load_model
from mlimages.network.model_files import Activation


def measure(model: str | Path | keras.Model, dataset: Iterable[Any], *, activation: Activation | None = None,
            at_k: Sequence[int] = (1, 5), threshold: float = 0.5, score_threshold: float = 0.5,
            parents: Sequence[int] | None = None) -> MultiLabelMetrics:
    """Compute the metrics of a network on a data set. Memory grows by 8 bytes for each true label.

    `model` is a keras.Model, a .keras file, the folder of a SavedModel, or data/model. `dataset`, such as a
    tf.data.Dataset, yields batches: images as the network takes them, confidences float [images, classes], and any
    further elements, which are ignored. A negative confidence is unknown and does not count.

    `activation` converts the network's outputs to probabilities. None means the activation that a trained model was
    published with. Pass "none" if a keras.Model ends in a sigmoid or softmax, and "sigmoid" if it returns logits. The
    other parameters are those of `MetricsAccumulator`; for a class tree, `parents` is `read_tree(path).parents`.

    Raises UserError for a file without a network, for a network whose activation is not known, such as a SavedModel
    from elsewhere, for labels of another shape, for scores that are no probabilities, and for an empty data set. A
    SavedModel is a program: load it only if you trust it. A .keras file runs no code.
    """
    loaded = load_model(model)
    accumulator = None
    batches = tqdm(probabilities(loaded.call, loaded.require_activation(activation), dataset), "measure",
                   operator.length_hint(dataset) or None, unit=" batches", disable=None)
    for scores, confidences in batches:
        if accumulator is None:
            accumulator = MetricsAccumulator(scores.shape[-1], at_k=at_k, threshold=threshold,
                                      score_threshold=score_threshold, parents=parents)
        accumulator.update(scores, confidences)
    if accumulator is None:
        raise UserError("the data set is empty, expected at least one batch")
    return accumulator.result()


def probabilities(network: Callable[[Any], Any], activation: Activation,
                  batches: Iterable[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the probabilities, float32 [images, classes], and the labels of each batch (images, labels, ...)."""
    function = tf.function(lambda images: ACTIVATIONS[activation](tf.cast(network(images), tf.float32)),
                           reduce_retracing=True)
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise UserError(f"the data set gives {type(batch).__name__}, expected batches (images, confidences)")
        images, labels, *_ = batch
        yield function(images).numpy(), tf.convert_to_tensor(labels).numpy()
