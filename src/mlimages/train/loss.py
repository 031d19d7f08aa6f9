"""The losses, on confidences rather than on 0 and 1; -1 marks a label that is not known."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mlimages.params import Train


def cross_entropy(labels: Any, logits: Any, positive_weight: float = 1.0) -> Any:
    """Sigmoid cross-entropy of every label, [batch, classes]; 0 where the label is -1 (not known)."""
    known = ops.cast(labels >= 0, logits.dtype)
    terms = positive_weight * labels * ops.softplus(-logits) + (1 - labels) * ops.softplus(logits)
    return known * terms


class SigmoidLoss:
    """Plain sigmoid cross-entropy, summed over the classes, mean over the global batch. Keeps no state."""

    variables: tuple[Any, ...] = ()

    def __init__(self, replicas: int = 1) -> None:
        self._replicas = replicas

    def __call__(self, labels: Any, logits: Any) -> Any:
        """Labels and logits [batch of this replica, classes] to this replica's share of the loss, a scalar."""
        return ops.sum(cross_entropy(labels, logits)) / (self._replicas * ops.shape(logits)[0])


class ClassBalancedLoss:
    """The released loss: weighted sigmoid cross-entropy, each class weighted by how long its status has lasted.

    A class is present in a batch if any image has it with `positive_threshold` or more. Two counters for each class
    count the batches in a row of which it was present, or absent and selected (with the probability
    `negative_selection`, drawn for each class and batch). The weight of a present class falls as
    log10(10 / (0.01 + t)) to 0.01, that of an absent and selected one as log10(10 / (8 + t)) to 0.001.
    Source: Tencent ML-Images' train.py; arXiv 1901.01703, section 3.

    `sum_over_replicas` makes the counters see the global batch: it adds a tensor [classes] over all `replicas`.
    """

    def __init__(self, classes: int, positive_threshold: float = 0.7, negative_selection: float = 0.1,
                 positive_weight: float = 12.0, *, seed: int = 0, replicas: int = 1,
                 sum_over_replicas: Callable[[Any], Any] = lambda tensor: tensor) -> None:
        self._classes = classes
        self._threshold = positive_threshold
        self._selection = negative_selection
        self._positive_weight = positive_weight
        self._replicas = replicas
        self._sum_over_replicas = sum_over_replicas
        self._seeds = keras.random.SeedGenerator(seed)
        self._present, self._absent = (keras.Variable(ops.zeros(classes), trainable=False, name=name)
                                       for name in ("batches_present", "batches_absent"))

    @property
    def variables(self) -> tuple[Any, ...]:
        """The state to be saved: both counters, float32 [classes], and that of the selection's random numbers."""
        return self._present, self._absent, self._seeds.state

    def __call__(self, labels: Any, logits: Any) -> Any:
        """Labels and logits [batch of this replica, classes] to this replica's share of the loss, a scalar."""
        terms = cross_entropy(labels, logits, self._positive_weight)
        per_class = ops.sum(terms, axis=0) / (self._replicas * ops.shape(logits)[0])
        return ops.sum(ops.stop_gradient(self._weights(labels)) * per_class)

    def _weights(self, labels: Any) -> Any:
        """Count this batch, then weigh the classes: float32 [classes]."""
        here = ops.cast(ops.any(labels >= self._threshold, axis=0), "float32")
        present = ops.cast(self._sum_over_replicas(here) > 0, "float32")
        absent = 1 - present
        selected = ops.cast(keras.random.uniform((self._classes,), seed=self._seeds) < self._selection, "float32")
        runs_present = present * (self._present + 1)
        runs_absent = absent * (self._absent + selected)
        self._present.assign(runs_present)
        self._absent.assign(runs_absent)
        weight_present = ops.maximum(ops.log10(10 / (0.01 + runs_present)), 0.01)
        falling = ops.log10(10 / (8 + runs_absent))
        weight_absent = ops.where(falling > 0.01, falling, 0.001)
        return present * weight_present + absent * selected * weight_absent


def build_loss(params: Train, classes: int, replicas: int, sum_over_replicas: Callable[[Any], Any]) -> Any:
    """The loss that params.yaml names; create it inside the strategy's scope."""
    if params.loss == "sigmoid":
        return SigmoidLoss(replicas)
    return ClassBalancedLoss(classes, params.positive_threshold, params.negative_selection, params.positive_weight,
                             seed=params.seed, replicas=replicas, sum_over_replicas=sum_over_replicas)
