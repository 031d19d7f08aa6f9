"""One training step, written once for one device, MirroredStrategy and MultiWorkerMirroredStrategy."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlimages.core.errors import UserError
from mlimages.core.params import Train
from mlimages.inputs.augmentation import TensorAugmentation
from mlimages.network.load_weights import load_weights
from mlimages.network.resnet import build, freeze_through
from mlimages.training.distribution import LocalSGD, all_reduce, sum_over_replicas
from mlimages.training.losses import build_loss
from mlimages.training.optimizer import LossScale, WeightAverage, build_optimizer


class Trainer:
    """The network, its loss and its optimizer on all replicas of a strategy.

    Variables are equal on all replicas after every call of `train`, batch norm's statistics included, which are the
    mean of what the replicas saw: so the state between calls can be saved, and says all. `evaluate(images, labels)`
    gives the loss of some images, every class weighted alike, and their logits, by the weights that would be published.
    A call takes `steps_per_call` steps at most, a multiple of `local_sgd_steps`. The replicas exchange after every
    `local_sgd_steps` steps, and at the end of a call. `loaded` says what was taken of a released checkpoint, if any
    was; `stopping`, whether the process of any replica had to stop when it began the last call of `train`;
    `overflowed`, of which steps of that call the gradients were not finite however small the loss scale was.
    """

    def __init__(self, params: Train, classes: int, strategy: Any, *, steps_per_call: int = 1) -> None:
        keras.utils.set_random_seed(params.seed)
        self.strategy = strategy
        self.stopping = False
        self.overflowed = np.zeros(0, bool)
        self._replicas = strategy.num_replicas_in_sync
        self._parts = params.gradient_accumulation
        self.exchanged = tf.as_dtype(params.all_reduce_dtype)
        self.local_sgd_steps = params.local_sgd_steps if self._replicas > 1 else 1
        self.steps_per_call = -(-steps_per_call // self.local_sgd_steps) * self.local_sgd_steps
        self._finish = TensorAugmentation(params, device=True)
        with strategy.scope():
            self.model = build(params.architecture, classes, batch_norm_momentum=params.batch_norm_momentum,
                               zero_init_residual=params.zero_init_residual,
                               synchronized=params.batch_norm == "synchronized", dtype=params.precision)
            self.loaded = None if params.initialize_from is None else load_weights(
                self.model, params.initialize_from, logits=params.initialize_logits)
            if params.freeze_through:
                _freeze(self.model, params.freeze_through)
            # Of the global batch's loss a replica has a share; of that of a step which it takes alone, all.
            self._shares = self._replicas if self.local_sgd_steps == 1 else 1
            self.loss = build_loss(params, classes, self._shares, sum_over_replicas)
            self.optimizer = build_optimizer(params, self.model.trainable_variables)
            self.scale = self._loss_scale(params)
            self.average = WeightAverage(self.model.variables, params.ema_decay) if params.ema_decay else None
        self._local_sgd = LocalSGD([*self.model.trainable_variables, *self.optimizer.moments,
                                 *(self.average.averages if self.average else [])], self.exchange, self._replicas)
        gpus = bool(tf.config.list_physical_devices("GPU"))
        self.compiled = params.xla == "on" or (params.xla == "auto" and gpus and params.batch_norm == "local")
        self._part = tf.function(self._part_of_replica, jit_compile=True) if self.compiled else self._part_of_replica
        self.call = tf.function(self._call)
        self.evaluate = tf.function(self._evaluate, reduce_retracing=True)

    def _loss_scale(self, params: Train) -> LossScale | None:
        """For gradients that are computed as float16, which the scale keeps from vanishing, or only travel as such."""
        if params.precision == "mixed_float16":
            return LossScale()
        travel = params.all_reduce_dtype == "float16" and self._replicas > 1 and self.local_sgd_steps == 1
        return LossScale(first=1.0, least=2.0**-15) if travel else None

    @property
    def exchanged_shapes(self) -> list[Any]:
        """Of what replicas exchange after `local_sgd_steps`: the gradients, or more where they were parted."""
        if self.local_sgd_steps > 1:
            return self._local_sgd.shapes
        return [weight.shape for weight in self.model.trainable_variables]

    @property
    def variables(self) -> dict[str, list[Any]]:
        """All that changes from step to step, by what it belongs to."""
        parts = {"network": self.model, "loss": self.loss, "optimizer": self.optimizer, "scale": self.scale,
                 "average": self.average}
        return {name: [variable.value for variable in part.variables] for name, part in parts.items() if part}

    def train(self, batches: Iterator[Any], rates: np.ndarray, *, stop: bool = False) -> np.ndarray:
        """Train on the next len(rates) global batches, `steps_per_call` at most, each at its learning rate.

        Returns their losses, without the weight decay: float32 [steps]. `stop` becomes every process' `stopping`.
        """
        # Of one length always: another shape would be traced again.
        padded = np.zeros(self.steps_per_call, np.float32)
        padded[: len(rates)] = rates
        results = self.call(batches, tf.constant(padded), tf.constant(len(rates)), tf.constant(float(stop))).numpy()
        self.stopping, self.overflowed = bool(results[-1, 1]), results[:, 2] > 0
        return results[:, 0]

    def weights(self) -> list[np.ndarray]:
        """The network's variables, or their averages where they are kept: what is to be published."""
        return [keras.ops.convert_to_numpy(variable) for variable in self._published]

    @property
    def _published(self) -> list[Any]:
        return self.average.averages if self.average else self.model.variables

    def _evaluate(self, images: Any, labels: Any) -> tuple[Any, Any]:
        values = {variable.path: value for variable, value in zip(self.model.variables, self._published, strict=True)}
        logits, _ = self.model.stateless_call(
            [values[variable.path] for variable in self.model.trainable_variables],
            [values[variable.path] for variable in self.model.non_trainable_variables], images, training=False)
        # The mean over these images alone, every class weighted alike.
        return self.loss.cost(labels, logits, tf.ones(labels.shape[1])) * self._shares, logits

    def digest(self) -> str:
        """The sha256 of all variables, by which replicas in several processes know that they are equal."""
        found = hashlib.sha256()
        for part in self.variables.values():
            for variable in part:
                found.update(variable.numpy().tobytes())
        return found.hexdigest()

    def is_finite(self) -> bool:
        """Whether every variable is a finite number."""
        finite = [tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable)))
                  for part in self.variables.values() for variable in part if variable.dtype.is_floating]
        return bool(tf.reduce_all(finite))

    def _call(self, batches: Any, rates: Any, steps: Any, stop: Any) -> Any:
        results = tf.TensorArray(tf.float32, steps, element_shape=[3])
        if self.local_sgd_steps == 1:
            return self._steps(results, tf.range(steps), batches, rates, stop).stack()
        for first in tf.range(0, steps, self.local_sgd_steps):
            parted = self.strategy.run(self._local_sgd.snapshot)
            alone = tf.range(first, tf.minimum(first + self.local_sgd_steps, steps))
            results = self._steps(results, alone, batches, rates, stop)
            self.strategy.run(self._local_sgd.average, args=(parted,))
        return results.stack()

    def _steps(self, results: Any, numbers: Any, batches: Any, rates: Any, stop: Any) -> Any:
        for index in numbers:
            of_replicas = self.strategy.run(self._replica_step, args=(rates[index], stop, *next(batches)))
            results = results.write(index, self.strategy.experimental_local_results(of_replicas)[0])
        return results

    def _replica_step(self, rate: Any, stop: Any, *batch: Any) -> Any:
        """Float32 [3], the same on all replicas: the loss, how many are to stop, whether the gradients overflowed."""
        images, labels = self._finish(*batch)
        weights, labels = self.loss.weigh(labels), self.loss.smooth(labels)
        if self._parts == 1:
            loss, gradients = self._part(images, labels, weights)
        else:
            loss, gradients = self._accumulated(images, labels, weights)
        sums = tf.stack([loss * self._shares / self._replicas, stop])
        if self._replicas > 1:
            gradients = self.exchange(gradients) if self.local_sgd_steps == 1 else gradients
            sums = self._average_statistics(sums)
        overflowed = tf.constant(False)
        if self.scale:
            overflowed = self.scale.apply(self.optimizer, gradients, rate)
        else:
            self.optimizer.apply(gradients, rate)
        if self.average:
            self.average.update()
        return tf.concat([sums, [tf.cast(overflowed, tf.float32)]], 0)

    def exchange(self, gradients: Sequence[Any]) -> list[Any]:
        """The sums of gradients, or of changes, over the replicas, which travel as `train.all_reduce_dtype`."""
        summed = all_reduce([tf.cast(gradient, self.exchanged) for gradient in gradients])
        return [tf.cast(total, gradient.dtype) for total, gradient in zip(summed, gradients, strict=True)]

    def _accumulated(self, images: Any, labels: Any, weights: Any) -> tuple[Any, list[Any]]:
        """Loss and gradients of the replica's batch, from one part of it after the other."""
        size = tf.shape(images)[0] // self._parts
        loss = tf.constant(0.0)
        gradients = [tf.zeros(weight.shape) for weight in self.model.trainable_variables]
        for index in tf.range(self._parts):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            part = slice(index * size, (index + 1) * size)
            more, steeper = self._part(images[part], labels[part], weights)
            loss += more / self._parts
            gradients = [one + other / self._parts for one, other in zip(gradients, steeper, strict=True)]
        return loss, gradients

    def _part_of_replica(self, images: Any, labels: Any, weights: Any) -> tuple[Any, list[Any]]:
        """The loss of some images, and its gradients, times the loss scale where there is one."""
        with tf.GradientTape() as tape:
            loss = self.loss.cost(labels, self.model(images, training=True), weights)
            scaled = loss * self.scale.scale.value if self.scale else loss
        return loss, tape.gradient(scaled, [variable.value for variable in self.model.trainable_variables])

    def _average_statistics(self, sums: Any) -> Any:
        """Make batch norm's statistics, of which each replica has its own, equal to their mean on all.

        In the same message, `sums` [n] is summed over the replicas. Frozen layers are equal on all replicas already.
        """
        statistics = [variable for layer in self.model.layers if layer.trainable
                      for variable in layer.non_trainable_variables]
        parts = [sums, *(tf.reshape(variable.value, [-1]) for variable in statistics)]
        [flat] = all_reduce([tf.concat(parts, 0)])
        total, *means = tf.split(flat, [int(np.prod(part.shape)) for part in parts])
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(tf.reshape(mean / self._replicas, variable.shape))
        return total


def _freeze(model: keras.Model, stage: str) -> None:
    try:
        freeze_through(model, stage)
    except ValueError as error:
        raise UserError(f"train.freeze_through: {error}") from None
