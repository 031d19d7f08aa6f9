"""Stochastic gradient descent with momentum, AdamW, the loss scale and the average of the weights.

Every replica applies the same gradients, those of the global batch. So clipping, loss scaling and averages do not
depend on the number of replicas.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from mlimages.core.params import Train
from mlimages.network.resnet import depths

FIRST_SCALE, STEPS_TO_DOUBLE = 2.0**15, 2000
# It replaces a momentum of 0, by which Momentum could not divide, and is small enough to have no other effect.
TINY = 1e-20
ADAM_EPSILON = 1e-7  # Keras' default


class Optimizer(Protocol):
    """Updates weights by gradients. `variables` is its state.

    `moments` are the variables that have the shape of a weight. Local SGD averages them with the weights.
    """

    moments: list[Any]

    @property
    def variables(self) -> list[Any]: ...

    def apply(self, gradients: Sequence[Any], rate: Any) -> None:
        """Update the weights by the gradients of the global batch. `rate` is a float32 scalar."""


def build_optimizer(params: Train, weights: Sequence[Any]) -> Optimizer:
    """The optimizer that `params.optimizer` names. It must be created in the strategy's scope."""
    if params.optimizer == "adamw":
        return AdamW(weights, params.momentum, params.beta_2, weight_decay=params.weight_decay,
                     batch_norm_weight_decay=params.batch_norm_weight_decay, layer_decay=params.layer_decay,
                     clip_norm=params.clip_norm)
    return Momentum(weights, params.momentum, weight_decay=params.weight_decay,
                    batch_norm_weight_decay=params.batch_norm_weight_decay, layer_decay=params.layer_decay,
                    clip_norm=params.clip_norm)


class Momentum:
    """v <- momentum * v + gradient; w <- w - rate * v.

    This is TensorFlow 1's MomentumOptimizer, as in the released program. Keras' SGD has the rate inside v, so a lower
    rate takes effect late. First, the gradient of weight_decay * |w|^2 / 2 is added; for batch norm's weights with
    `batch_norm_weight_decay`. If the norm of all gradients together is above `clip_norm`, one factor reduces them all.
    The rate of each block is `layer_decay` times that of the block above it. The logits have the rate itself.
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
        """Update the weights by the gradients of the global batch. `rate` is a float32 scalar."""
        factor = 1.0
        if self._clip_norm is not None:
            factor = _clip_factor([gradient + decay * weight.value for gradient, weight, decay in
                                   zip(gradients, self._weights, self._decays, strict=True)], self._clip_norm)
            gradients = [factor * gradient for gradient in gradients]
        for gradient, velocity, weight, decay, scale in zip(gradients, self.moments, self._weights, self._decays,
                                                            self._scales, strict=True):
            if decay:
                # Added to the velocity in place, divided by the momentum that multiplies it below. Adding it to the
                # gradient would need another tensor of the weight's size.
                tf.raw_ops.ResourceApplyGradientDescent(var=velocity.value.handle, delta=weight.value,
                                                        alpha=-factor * decay / self._momentum)
            tf.raw_ops.ResourceApplyMomentum(var=weight.value.handle, accum=velocity.value.handle,
                                             lr=_scaled(rate, scale), grad=gradient, momentum=self._momentum)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), by the formula of Keras' AdamW.

    m <- b m + (1 - b) gradient and v <- c v + (1 - c) gradient^2, with b `momentum` and c `beta_2`. After t
    steps w <- (1 - rate * weight_decay) w - rate * sqrt(1 - c^t) / (1 - b^t) * m / (sqrt(v) + 1e-7). Batch norm's
    weights have `batch_norm_weight_decay` instead. First, if the norm of all gradients together is above `clip_norm`,
    one factor reduces them all. `layer_decay` is as in Momentum.
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
        """Update the weights by the gradients of the global batch. `rate` is a float32 scalar."""
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
    """The factor that limits the norm of all gradients together to `clip_norm`: a float32 scalar, at most 1."""
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


def all_finite(gradients: Sequence[Any]) -> Any:
    """Whether all values of all gradients are finite: a bool tensor."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])


class LossScale:
    """Keeps float16 gradients in range: the loss is multiplied by a scale, and the gradients are divided by it.

    The scale begins with `first`. A step whose gradients are not all finite changes no weights and halves the scale,
    but not below `least`. After 2,000 finite steps in a row the scale doubles.
    """

    def __init__(self, first: float = FIRST_SCALE, least: float = 1.0) -> None:
        self._least = least
        self.scale = keras.Variable(first, trainable=False, dtype="float32")
        self.good_steps = keras.Variable(0, trainable=False, dtype="int64")

    @property
    def variables(self) -> list[Any]:
        return [self.scale, self.good_steps]

    def unscale(self, gradients: Sequence[Any]) -> list[Any]:
        """The gradients of the loss, from those of the scaled loss."""
        return [gradient / self.scale.value for gradient in gradients]

    def update(self, finite: Any) -> Any:
        """Change the scale after a step. `finite` says whether its gradients were all finite, a bool tensor.

        Returns whether the step overflowed with the scale already at `least`: a bool tensor.
        """
        scale = self.scale.value
        overflowed = ~finite & (scale <= self._least)
        good = tf.where(finite, self.good_steps.value + 1, 0)
        grown = tf.where(good >= STEPS_TO_DOUBLE, 2 * scale, scale)
        self.scale.assign(tf.where(finite, grown, tf.maximum(scale / 2, self._least)))
        self.good_steps.assign(good % STEPS_TO_DOUBLE)
        return overflowed


class WeightAverage:
    """An exponential moving average of all of a network's variables: a <- d * a + (1 - d) * w.

    d is the smaller one of `decay` and (1 + step) / (10 + step), so that the first weights are soon forgotten.
    """

    def __init__(self, network: Sequence[Any], decay: float) -> None:
        self._network = list(network)
        self._decay = decay
        self.step = keras.Variable(0, trainable=False, dtype="int64")
        self.averages = [keras.Variable(tf.identity(variable.value), trainable=False) for variable in network]

    def restart(self) -> None:
        """Set the averages to the present values of the network's variables."""
        self.step.assign(0)
        for average, variable in zip(self.averages, self._network, strict=True):
            average.assign(variable.value)

    @property
    def variables(self) -> list[Any]:
        return [self.step, *self.averages]

    def update(self) -> None:
        """Add the present values of the network's variables to the averages."""
        self.step.assign(self.step.value + 1)
        done = tf.cast(self.step.value, tf.float32)
        kept = tf.minimum(self._decay, (1 + done) / (10 + done))
        for average, variable in zip(self.averages, self._network, strict=True):
            average.assign(average.value - (1 - kept) * (average.value - variable.value))
