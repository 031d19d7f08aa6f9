"""Stochastic gradient descent with momentum, or AdamW, on the gradient of the global batch.

All of it happens on every replica alike, with the same numbers, after the gradients were summed over the replicas: so
clipping, loss scaling and averages mean the same on any number of them.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from mlimages.core.params import Train
from mlimages.network.resnet import depths

FIRST_SCALE, STEPS_TO_DOUBLE = 2.0**15, 2000
# In place of a momentum of 0, by which it could not be divided: next to it, nothing is left of an earlier velocity.
TINY = 1e-20
ADAM_EPSILON = 1e-7  # as Keras has it


class Optimizer(Protocol):
    """Changes weights by gradients, and keeps `variables` from step to step.

    `moments` are those of its variables that have a weight's shape; local SGD averages them with the weights.
    """

    moments: list[Any]

    @property
    def variables(self) -> list[Any]: ...

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """Change the weights by the gradients of the global batch; `rate` is a float32 scalar."""


def build_optimizer(params: Train, weights: Sequence[Any]) -> Optimizer:
    """The optimizer that params.yaml names; create it inside the strategy's scope."""
    if params.optimizer == "adamw":
        return AdamW(weights, params.momentum, params.beta_2, weight_decay=params.weight_decay,
                     batch_norm_weight_decay=params.batch_norm_weight_decay, layer_decay=params.layer_decay,
                     clip_norm=params.clip_norm)
    return Momentum(weights, params.momentum, weight_decay=params.weight_decay,
                    batch_norm_weight_decay=params.batch_norm_weight_decay, layer_decay=params.layer_decay,
                    clip_norm=params.clip_norm)


class Momentum:
    """v <- momentum * v + gradient; w <- w - rate * v.

    Keras' own SGD folds the rate into v, so that a drop of the rate takes effect late; TensorFlow 1's
    MomentumOptimizer, which the released program uses, does not. Before that, the gradient gets `weight_decay` times
    the weight, the gradient of weight_decay * |w|^2 / 2; batch norm's weights have `batch_norm_weight_decay` instead.
    Where the norm of all gradients together is above `clip_norm`, they are all made smaller by the same factor. The
    rate of each block is `layer_decay` times that of the block above it; that of the logits is the rate itself.
    """

    def __init__(self, weights: Sequence[Any], momentum: float, *, weight_decay: float = 0.0,
                 batch_norm_weight_decay: float = 0.0, layer_decay: float = 1.0,
                 clip_norm: float | None = None) -> None:
        self._weights = list(weights)
        self._momentum, self._clip_norm = max(momentum, TINY), clip_norm
        self._decays = _decays(weights, weight_decay, batch_norm_weight_decay)
        self._scales = _scales(weights, layer_decay)
        self.moments = _zeros_like(weights)

    @property
    def variables(self) -> list[Any]:
        return self.moments

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """Change the weights by the gradients of the global batch; `rate` is a float32 scalar."""
        factor = 1.0
        if self._clip_norm is not None:
            factor = _clip_factor([gradient + decay * weight.value for gradient, weight, decay in
                                   zip(gradients, self._weights, self._decays, strict=True)], self._clip_norm)
            gradients = [factor * gradient for gradient in gradients]
        for gradient, velocity, weight, decay, scale in zip(gradients, self.moments, self._weights, self._decays,
                                                            self._scales, strict=True):
            if decay:
                # In place, as a part of the velocity that momentum then makes so small as it must be: the sum with the
                # gradient would be another tensor of the size of the weight.
                tf.raw_ops.ResourceApplyGradientDescent(var=velocity.value.handle, delta=weight.value,
                                                        alpha=-factor * decay / self._momentum)
            tf.raw_ops.ResourceApplyMomentum(var=weight.value.handle, accum=velocity.value.handle,
                                             lr=_scaled(rate, scale), grad=gradient, momentum=self._momentum)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), by the formula of Keras' AdamW.

    m <- b m + (1 - b) gradient and v <- c v + (1 - c) gradient^2, with b `momentum` and c `beta_2`. After t
    steps w <- (1 - rate * weight_decay) w - rate * sqrt(1 - c^t) / (1 - b^t) * m / (sqrt(v) + 1e-7). Batch norm's
    weights have `batch_norm_weight_decay` instead. Where the norm of all gradients together is above `clip_norm`, they
    are all made smaller by the same factor first. `layer_decay` is as in Momentum.
    """

    def __init__(self, weights: Sequence[Any], momentum: float, beta_2: float, *, weight_decay: float = 0.0,
                 batch_norm_weight_decay: float = 0.0, layer_decay: float = 1.0,
                 clip_norm: float | None = None) -> None:
        self._weights = list(weights)
        self._betas, self._clip_norm = (momentum, beta_2), clip_norm
        self._decays = _decays(weights, weight_decay, batch_norm_weight_decay)
        self._scales = _scales(weights, layer_decay)
        self._first, self._second = _zeros_like(weights), _zeros_like(weights)
        self.moments = [*self._first, *self._second]
        self.step = keras.Variable(0, trainable=False, dtype="int64")

    @property
    def variables(self) -> list[Any]:
        return [self.step, *self.moments]

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """Change the weights by the gradients of the global batch; `rate` is a float32 scalar."""
        if self._clip_norm is not None:
            factor = _clip_factor(gradients, self._clip_norm)
            gradients = [factor * gradient for gradient in gradients]
        self.step.assign(self.step.value + 1)
        done = tf.cast(self.step.value, tf.float32)
        powers = [tf.pow(beta, done) for beta in self._betas]
        for gradient, first, second, weight, decay, scale in zip(
                gradients, self._first, self._second, self._weights, self._decays, self._scales, strict=True):
            if decay:
                tf.raw_ops.ResourceApplyGradientDescent(var=weight.value.handle, delta=weight.value,
                                                        alpha=_scaled(rate, scale) * decay)
            tf.raw_ops.ResourceApplyAdam(
                var=weight.value.handle, m=first.value.handle, v=second.value.handle, beta1_power=powers[0],
                beta2_power=powers[1], lr=_scaled(rate, scale), beta1=self._betas[0], beta2=self._betas[1],
                epsilon=ADAM_EPSILON, grad=gradient)


def _zeros_like(weights: Sequence[Any]) -> list[Any]:
    return [keras.Variable(keras.ops.zeros(weight.shape), trainable=False) for weight in weights]


def _clip_factor(gradients: Sequence[Any], clip_norm: float) -> Any:
    """What makes the norm of all gradients together `clip_norm` at most, a float32 scalar."""
    return clip_norm / tf.maximum(tf.linalg.global_norm(gradients), clip_norm)


def is_batch_norm(weight: Any) -> bool:
    """Whether a weight belongs to batch norm. The released program gives these no weight decay in pre-training."""
    return weight.path.rsplit("/", 1)[-1] in ("gamma", "beta")


def _decays(weights: Sequence[Any], weight_decay: float, batch_norm_weight_decay: float) -> list[float]:
    return [batch_norm_weight_decay if is_batch_norm(weight) else weight_decay for weight in weights]


def _scales(weights: Sequence[Any], layer_decay: float) -> list[float]:
    return [layer_decay**depth for depth in depths(weights)]


def _scaled(rate: Any, scale: float) -> Any:
    return rate if scale == 1.0 else rate * scale


class LossScale:
    """Keeps float16 gradients in range: the loss is multiplied by a scale, the gradients divided by it.

    A step whose gradients are not all finite changes nothing and halves the scale, which begins with `first`, down to
    `least`; after 2,000 others in a row it doubles.
    """

    def __init__(self, first: float = FIRST_SCALE, least: float = 1.0) -> None:
        self._least = least
        self.scale = keras.Variable(first, trainable=False, dtype="float32")
        self.good_steps = keras.Variable(0, trainable=False, dtype="int64")

    @property
    def variables(self) -> list[Any]:
        return [self.scale, self.good_steps]

    def apply(self, optimizer: Optimizer, gradients: Sequence[Any], rate: Any) -> Any:
        """What `optimizer` does with the gradients, of the scaled loss, if they are finite.

        Returns a bool tensor: whether they are not, and no lower scale could mend it.
        """
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        scale = self.scale.value

        def step() -> Any:
            optimizer.apply([gradient / scale for gradient in gradients], rate)
            return tf.constant(True)

        tf.cond(finite, step, lambda: tf.constant(False))
        hopeless = ~finite & (scale <= self._least)
        good = tf.where(finite, self.good_steps.value + 1, 0)
        grown = tf.where(good >= STEPS_TO_DOUBLE, 2 * scale, scale)
        self.scale.assign(tf.where(finite, grown, tf.maximum(scale / 2, self._least)))
        self.good_steps.assign(good % STEPS_TO_DOUBLE)
        return hopeless


class WeightAverage:
    """An exponential moving average of all of a network's variables: a <- d * a + (1 - d) * w.

    d is `decay`, in the first steps less, (1 + step) / (10 + step), so that the average forgets the first weights.
    """

    def __init__(self, network: Sequence[Any], decay: float) -> None:
        self._network = list(network)
        self._decay = decay
        self.step = keras.Variable(0, trainable=False, dtype="int64")
        self.averages = [keras.Variable(tf.identity(variable.value), trainable=False) for variable in network]

    @property
    def variables(self) -> list[Any]:
        return [self.step, *self.averages]

    def update(self) -> None:
        self.step.assign(self.step.value + 1)
        done = tf.cast(self.step.value, tf.float32)
        kept = tf.minimum(self._decay, (1 + done) / (10 + done))
        for average, variable in zip(self.averages, self._network, strict=True):
            average.assign(average.value - (1 - kept) * (average.value - variable.value))
