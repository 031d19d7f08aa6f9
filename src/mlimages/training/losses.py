"""The losses, on confidences rather than on 0 and 1; -1 marks a label that is not known.

Each is called as `loss(labels, logits)`, both float32 [images of this replica, classes], for this replica's share of
the loss of the global batch: a scalar; the shares of all replicas add up to the mean over the global batch. In three
parts, for a batch that is taken in parts: `weigh(labels)` and `smooth(labels)` once for the whole, then
`cost(labels, logits, weights)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mlimages.core.params import Train
from mlimages.network.compiled import jit_compiled


class Loss(ABC):
    """A mean over the global batch, of `replicas` equal shares, that keeps no state."""

    variables: tuple[Any, ...] = ()

    def __init__(self, replicas: int = 1, *, label_smoothing: float = 0.0) -> None:
        self._replicas, self._label_smoothing = replicas, label_smoothing
        self._fused_sum = jit_compiled(self._sum)

    def __call__(self, labels: Any, logits: Any) -> Any:
        return self.cost(self.smooth(labels), logits, self.weigh(labels))

    def counters(self) -> dict[str, Any]:
        """What the loss counts, by name: arrays [classes]."""
        return {}

    def weigh(self, labels: Any) -> Any:
        """What weight each class has in this batch: float32 [classes]."""
        return ops.ones_like(labels[0])

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
    """Sigmoid cross-entropy, summed over the classes; the half of a label that says yes weighs `positive_weight`.

    The gradient is written out: it needs only labels and logits again, and keeps nothing from the loss.
    """

    def __init__(self, positive_weight: float = 1.0, *, replicas: int = 1, label_smoothing: float = 0.0) -> None:
        super().__init__(replicas, label_smoothing=label_smoothing)
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
        """The derivative of `_sum` by the logits; it waits for `summed`, so that both never take memory at once."""
        del summed
        known = ops.cast(labels >= 0, logits.dtype)
        positive = self._positive_weight * labels
        return weights * known * ((positive + 1 - labels) * ops.sigmoid(logits) - positive)


class ClassBalancedLoss(SigmoidLoss):
    """The released loss: weighted sigmoid cross-entropy, each class weighted by how long its status has lasted.

    A class is present in a batch if any image has it with `positive_threshold` or more. Two counters for each class
    count the batches in a row of which it was present, or absent and selected (with the probability
    `negative_selection`, drawn for each class and batch). The weight of a present class falls as
    log10(10 / (0.01 + t)) to 0.01, that of an absent and selected one as log10(10 / (8 + t)) to 0.001.
    Source: Tencent ML-Images' train.py; arXiv 1901.01703, section 3.

    `sum_over_replicas` makes the counters see the global batch: it adds a tensor [classes] over all `replicas`.
    """

    def __init__(self, classes: int, positive_threshold: float = 0.7, negative_selection: float = 0.1,
                 positive_weight: float = 12.0, *, seed: int = 0, replicas: int = 1, label_smoothing: float = 0.0,
                 sum_over_replicas: Callable[[Any], Any] = lambda tensor: tensor) -> None:
        super().__init__(positive_weight, replicas=replicas, label_smoothing=label_smoothing)
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
        """The state to be saved: both counters, float32 [classes], and that of the selection's random numbers."""
        return self.batches_present, self.batches_absent, self._seeds.state

    def counters(self) -> dict[str, Any]:
        return {"batches_present": ops.convert_to_numpy(self.batches_present),
                "batches_absent": ops.convert_to_numpy(self.batches_absent)}

    def weigh(self, labels: Any) -> Any:
        """Count this batch, then weigh the classes: float32 [classes]."""
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
    """Sigmoid cross-entropy that looks away from labels that are already right.

    With p = sigmoid(logit) and q = max(p - `margin`, 0), a label y costs
    -y a (1-p)^`gamma_positive` log p - (1-y) (1-a) q^`gamma_negative` log(1-q), with a = `alpha`. Without `alpha`, both
    a and 1-a are 1. The focal loss (Lin et al., arXiv 1708.02002) has both gammas 2 and the alpha 0.25. The asymmetric
    loss (Ben-Baruch et al., arXiv 2009.14119) has the gammas 0 and 4, the margin 0.05 and no alpha.
    """

    def __init__(self, gamma_positive: float, gamma_negative: float, *, margin: float = 0.0,
                 alpha: float | None = None, replicas: int = 1, label_smoothing: float = 0.0) -> None:
        super().__init__(replicas, label_smoothing=label_smoothing)
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
    """Softmax cross-entropy, for images of one class each; several share it by their confidences."""

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
        return -ops.sum(_distribution(weights * labels) * ops.log_softmax(logits, axis=1))


def _distribution(labels: Any) -> Any:
    """Labels [images, classes] divided by their sum for each image; all zero for an image without a class."""
    confidences = ops.maximum(labels, 0.0)
    total = ops.sum(confidences, axis=1, keepdims=True)
    return confidences / ops.where(total > 0, total, 1.0)


def _total(terms: Any) -> Any:
    """The sum of [images, classes], over the classes first: over the images first, XLA would store the terms."""
    return ops.sum(ops.sum(terms, axis=1))


def _power(base: Any, exponent: float) -> Any:
    """base ** exponent, whose derivative is finite where the base is 0 (XLA and autodiff would take its logarithm)."""
    if exponent == 0:
        return ops.ones_like(base)
    return ops.power(ops.maximum(base, 1e-7), exponent)


def build_loss(params: Train, classes: int, replicas: int, sum_over_replicas: Callable[[Any], Any]) -> Loss:
    """The loss that params.yaml names; create it inside the strategy's scope."""
    smoothing = params.label_smoothing
    if params.loss == "class_balanced":
        return ClassBalancedLoss(classes, params.positive_threshold, params.negative_selection, params.positive_weight,
                                 seed=params.seed, replicas=replicas, label_smoothing=smoothing,
                                 sum_over_replicas=sum_over_replicas)
    if params.loss == "asymmetric":
        return FocalLoss(0.0, params.asymmetric_gamma_negative, margin=params.asymmetric_margin, replicas=replicas)
    if params.loss == "focal":
        return FocalLoss(params.focal_gamma, params.focal_gamma, alpha=params.focal_alpha, replicas=replicas,
                         label_smoothing=smoothing)
    if params.loss == "softmax":
        return SoftmaxLoss(replicas, label_smoothing=smoothing)
    return SigmoidLoss(replicas=replicas, label_smoothing=smoothing)
