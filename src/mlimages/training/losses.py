"""The losses. Labels are confidences from 0 to 1, and -1 for an unknown label.

`loss(labels, logits)` takes float32 [images of this replica, classes] twice and returns this replica's share of the
loss, a scalar. The shares of all replicas add up to the mean over the global batch. With gradient accumulation,
`weigh(labels)` and `smooth(labels)` see the whole batch, and then `cost(labels, logits, weights)` each of its parts.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from mlimages.core.params import Train
from mlimages.network.compiled import jit_compiled


class Loss(ABC):
    """A mean over the global batch, which `replicas` replicas share equally. It has no state.

    `class_weights`, float32 [classes], multiply the loss of each class.
    """

    variables: tuple[Any, ...] = ()

    def __init__(self, *, replicas: int = 1, label_smoothing: float = 0.0,
                 class_weights: np.ndarray | None = None) -> None:
        self._replicas, self._label_smoothing, self._class_weights = replicas, label_smoothing, class_weights
        self._fused_sum = jit_compiled(self._sum)

    def __call__(self, labels: Any, logits: Any) -> Any:
        return self.cost(self.smooth(labels), logits, self.weigh(labels))

    def counters(self) -> dict[str, Any]:
        """The counters of the loss by name, arrays [classes]; none by default."""
        return {}

    def weigh(self, labels: Any) -> Any:
        """The weight of each class in this batch, by default `class_weights` or 1: float32 [classes]."""
        return ops.ones_like(labels[0]) if self._class_weights is None else ops.convert_to_tensor(self._class_weights)

    def smooth(self, labels: Any) -> Any:
        """The labels y as (1 - e) y + e / 2, with e = `label_smoothing`, as in Keras' BinaryCrossentropy.

        Unknown labels stay -1.
        """
        if not self._label_smoothing:
            return labels
        smoothed = (1 - self._label_smoothing) * labels + self._label_smoothing / 2
        return ops.where(labels >= 0, smoothed, labels)

    def cost(self, labels: Any, logits: Any, weights: Any) -> Any:
        """This replica's share of the loss: a scalar."""
        images = self._replicas * ops.cast(ops.shape(logits)[0], logits.dtype)
        return self._total(labels, logits, ops.stop_gradient(weights)) / images

    def _total(self, labels: Any, logits: Any, weights: Any) -> Any:
        return self._fused_sum(labels, logits, weights)

    @abstractmethod
    def _sum(self, labels: Any, logits: Any, weights: Any) -> Any:
        """The loss summed over the images and the classes."""


class SigmoidLoss(Loss):
    """Sigmoid cross-entropy, summed over the classes. `positive_weight` multiplies the terms of present classes.

    The gradient has its own formula, so it needs only labels and logits, and no intermediate result is stored.
    """

    def __init__(self, positive_weight: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self._positive_weight = positive_weight
        self._fused_slopes = jit_compiled(self._slopes)

    def _total(self, labels: Any, logits: Any, weights: Any) -> Any:
        @ops.custom_gradient
        def total(logits: Any) -> Any:
            def gradient(*arguments: Any, upstream: Any = None) -> Any:
                share = arguments[0] if upstream is None else upstream
                return self._fused_slopes(labels, logits, share * weights, summed)

            summed = self._fused_sum(labels, logits, weights)
            return summed, gradient

        return total(logits)

    def _sum(self, labels: Any, logits: Any, weights: Any) -> Any:
        known = ops.cast(labels >= 0, logits.dtype)
        terms = self._positive_weight * labels * ops.softplus(-logits) + (1 - labels) * ops.softplus(logits)
        return _total(weights * known * terms)

    def _slopes(self, labels: Any, logits: Any, weights: Any, summed: Any) -> Any:
        """The derivative of `_sum` with respect to the logits."""
        del summed  # an argument so that the loss is computed first: both at once would take twice the memory
        known = ops.cast(labels >= 0, logits.dtype)
        positive = self._positive_weight * labels
        return weights * known * ((positive + 1 - labels) * ops.sigmoid(logits) - positive)


class ClassBalancedLoss(SigmoidLoss):
    """The released loss: sigmoid cross-entropy whose class weights fall the longer a class stays present or absent.

    A class is present in a batch if an image has it with at least `positive_threshold`. An absent class is selected
    with the probability `negative_selection`, drawn for each class and batch; the others have the weight 0. Two
    counters of each class count the batches in a row in which it was present, and those in which it was absent and
    selected. With t counted batches, a present class has the weight log10(10 / (0.01 + t)), at least 0.01, and a
    selected one log10(10 / (8 + t)), or 0.001 where that is 0.01 or less.
    Source: Tencent ML-Images' train.py; arXiv 1901.01703, section 3.

    `sum_over_replicas` sums a tensor [classes] over all replicas, so that the counters see the global batch.
    """

    def __init__(self, classes: int, positive_threshold: float = 0.7, negative_selection: float = 0.1,
                 positive_weight: float = 12.0, *, seed: int = 0,
                 sum_over_replicas: Callable[[Any], Any] = lambda tensor: tensor, **options: Any) -> None:
        super().__init__(positive_weight, **options)
        self._classes = classes
        self._threshold = positive_threshold
        self._selection = negative_selection
        self._sum_over_replicas = sum_over_replicas
        self._seeds = keras.random.SeedGenerator(seed)
        self.batches_present, self.batches_absent = (
            keras.Variable(ops.zeros(classes), trainable=False, name=name)
            for name in ("batches_present", "batches_absent"))

    @property
    def variables(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The state: both counters, float32 [classes], and the state of the random generator."""
        return self.batches_present, self.batches_absent, self._seeds.state

    def counters(self) -> dict[str, Any]:
        return {"batches_present": ops.convert_to_numpy(self.batches_present),
                "batches_absent": ops.convert_to_numpy(self.batches_absent)}

    def weigh(self, labels: Any) -> Any:
        """Count this batch, then return the weights of the classes: float32 [classes]."""
        here = ops.cast(ops.max(labels, axis=0) >= self._threshold, "float32")
        present = ops.cast(self._sum_over_replicas(here) > 0, "float32")
        absent = 1 - present
        selected = ops.cast(keras.random.uniform((self._classes,), seed=self._seeds) < self._selection, "float32")
        runs_present = present * (self.batches_present + 1)
        runs_absent = absent * (self.batches_absent + selected)
        self.batches_present.assign(runs_present)
        self.batches_absent.assign(runs_absent)
        weight_present = ops.maximum(ops.log10(10 / (0.01 + runs_present)), 0.01)
        falling = ops.log10(10 / (8 + runs_absent))
        weight_absent = ops.where(falling > 0.01, falling, 0.001)
        return present * weight_present + absent * selected * weight_absent


class FocalLoss(Loss):
    """Sigmoid cross-entropy with smaller terms for labels that the network already predicts well.

    With p = sigmoid(logit), q = max(p - `margin`, 0) and a = `alpha`, the loss of a label y is
    -y a (1-p)^`gamma_positive` log p - (1-y) (1-a) q^`gamma_negative` log(1-q). Without `alpha`, a and 1-a are both
    replaced by 1. The focal loss (Lin et al., arXiv 1708.02002) uses gamma 2 twice and alpha 0.25. The asymmetric loss
    (Ben-Baruch et al., arXiv 2009.14119) uses the gammas 0 and 4, the margin 0.05 and no alpha.
    """

    def __init__(self, gamma_positive: float, gamma_negative: float, *, margin: float = 0.0,
                 alpha: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._gammas = gamma_positive, gamma_negative
        self._margin = margin
        self._alphas = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def _sum(self, labels: Any, logits: Any, weights: Any) -> Any:
        known = ops.cast(labels >= 0, logits.dtype)
        absent = ops.softplus(logits)  # -log(1 - p)
        wrong = ops.sigmoid(logits)
        if self._margin:
            wrong = ops.maximum(wrong - self._margin, 0.0)
            absent = -ops.log1p(-wrong)
        present = ops.softplus(-logits)  # -log p
        terms = (self._alphas[0] * labels * _power(ops.sigmoid(-logits), self._gammas[0]) * present
                 + self._alphas[1] * (1 - labels) * _power(wrong, self._gammas[1]) * absent)
        return _total(weights * known * terms)


class SoftmaxLoss(Loss):
    """Softmax cross-entropy, for images of one class each. The target is the labels divided by their sum."""

    def smooth(self, labels: Any) -> Any:
        """The target distribution y as (1 - e) y + e / classes, with e = `label_smoothing`.

        Source: Szegedy et al., arXiv 1512.00567, section 7. An image without a class keeps none.
        """
        if not self._label_smoothing:
            return labels
        targets = _distribution(labels)
        uniform = ops.sum(targets, axis=1, keepdims=True) / targets.shape[1]
        return (1 - self._label_smoothing) * targets + self._label_smoothing * uniform

    def _sum(self, labels: Any, logits: Any, weights: Any) -> Any:
        return -ops.sum(weights * _distribution(labels) * ops.log_softmax(logits, axis=1))


def _distribution(labels: Any) -> Any:
    """Labels [images, classes] divided by their sum for each image; all zero for an image without a class."""
    confidences = ops.maximum(labels, 0.0)
    total = ops.sum(confidences, axis=1, keepdims=True)
    return confidences / ops.where(total > 0, total, 1.0)


def _total(terms: Any) -> Any:
    """The sum of float32 [images, classes].

    It sums over the classes first. With the images first, XLA would store all terms.
    """
    return ops.sum(ops.sum(terms, axis=1))


def _power(base: Any, exponent: float) -> Any:
    """base ** exponent with a finite derivative at 0, where that of ops.power has the logarithm of 0."""
    if exponent == 0:
        return ops.ones_like(base)
    return ops.power(ops.maximum(base, 1e-7), exponent)


def build_class_weights(rule: str | None, class_records: np.ndarray) -> np.ndarray | None:
    """The weights of the classes by a rule of `train.class_weights`: float32 [classes], None without a rule.

    With n training records of a class, and at least 1, its weight is proportional to 1 / n (`inverse_frequency`) or to
    1 / sqrt(n) (`inverse_sqrt_frequency`). The mean of the weights is 1, as in Cui et al., arXiv 1901.05555.
    """
    if rule is None:
        return None
    powers = {"inverse_frequency": 1.0, "inverse_sqrt_frequency": 0.5}
    weights = np.maximum(class_records, 1.0) ** -powers[rule]
    return (weights / weights.mean()).astype(np.float32)


def multi_label_warning(params: Train, class_records: np.ndarray, images: int) -> str:
    """A warning if the loss is softmax and the training images have more than one class each; "" otherwise.

    `class_records` are the training records of each class, `images` is the number of all records.
    """
    labels = int(class_records.sum())
    if params.loss != "softmax" or labels <= images:
        return ""
    return (f"WARNING: train.loss is softmax, which expects one class for each image, but {images:,} training images "
            f"have {labels:,} classes: the classes of an image share its probability. For images of several classes, "
            f"set train.loss to sigmoid")


def build_loss(params: Train, classes: int, replicas: int, sum_over_replicas: Callable[[Any], Any],
               class_weights: np.ndarray | None = None) -> Loss:
    """The loss that `params.loss` names. It must be created in the strategy's scope."""
    options: dict[str, Any] = {"replicas": replicas, "label_smoothing": params.label_smoothing,
                               "class_weights": class_weights}
    if params.loss == "class_balanced":
        return ClassBalancedLoss(classes, params.positive_threshold, params.negative_selection, params.positive_weight,
                                 seed=params.seed, sum_over_replicas=sum_over_replicas, **options)
    if params.loss == "asymmetric":
        return FocalLoss(0.0, params.asymmetric_gamma_negative, margin=params.asymmetric_margin, **options)
    if params.loss == "focal":
        return FocalLoss(params.focal_gamma, params.focal_gamma, alpha=params.focal_alpha, **options)
    return SoftmaxLoss(**options) if params.loss == "softmax" else SigmoidLoss(**options)
