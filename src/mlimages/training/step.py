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
from mlimages.training.optimizer import LossScale, WeightAverage, all_finite, build_optimizer

DROPOUT_STREAM = 5  # the first number of the seeds; random_draws.py and sampler.py have others


class FeatureDropout:
    """Sets a share `rate` of the features to 0 and divides the others by 1 - `rate`.

    Source: Srivastava et al., Journal of Machine Learning Research 15, 2014. The mask follows from the seed, the step
    and the replica alone, so a resumed training has the same masks.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self._rate, self._seed = rate, seed
        self.step = keras.Variable(0, trainable=False, dtype="int64")

    @property
    def variables(self) -> list[Any]:
        return [self.step]

    def mask(self, images: Any, features: int) -> Any:
        """The factors of this replica's features in the next step: float32 [images, features]."""
        seed = tf.constant([DROPOUT_STREAM, self._seed], tf.int64)
        for part in (self.step.value, tf.distribute.get_replica_context().replica_id_in_sync_group):
            seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(part, tf.int64), alg="philox")
        self.step.assign(self.step.value + 1)
        kept = tf.random.stateless_uniform([images, features], seed, alg="philox") >= self._rate
        return tf.cast(kept, tf.float32) / (1 - self._rate)


class Trainer:
    """The network, its loss and its optimizer on all replicas of a strategy.

    After every call of `train`, all variables are equal on all replicas, and `variables` is the whole state. Batch
    norm's statistics become the mean over the replicas. A call takes at most `steps_per_call` steps, a multiple of
    `local_sgd_steps`. With local SGD, the replicas average their weights after this many steps and at the end of a
    call.

    `evaluate(images, labels)` returns the mean loss, without class weights, and the logits, both with the weights that
    would be published. `loaded` describes the initial weights, None without any. `stopping` says whether a process
    asked to stop in the last call of `train`, and `overflowed`, bool [steps], in which of its steps the gradients were
    not finite with the loss scale at its lowest.
    """

    def __init__(self, params: Train, classes: int, strategy: Any, *, steps_per_call: int = 1,
                 class_weights: np.ndarray | None = None) -> None:
        keras.utils.set_random_seed(params.seed)
        self.strategy = strategy
        self.stopping = False
        self.overflowed = np.zeros(0, bool)
        self._replicas = strategy.num_replicas_in_sync
        self._accumulation = params.gradient_accumulation
        self.exchanged = tf.as_dtype(params.all_reduce_dtype)
        self.local_sgd_steps = params.local_sgd_steps if self._replicas > 1 else 1
        self.steps_per_call = -(-steps_per_call // self.local_sgd_steps) * self.local_sgd_steps
        self._augment = TensorAugmentation(params, device=True)
        with strategy.scope():
            self.model = build(params.architecture, classes, batch_norm_momentum=params.batch_norm_momentum,
                               zero_init_residual=params.zero_init_residual,
                               synchronized=params.batch_norm == "synchronized", dtype=params.precision)
            self.loaded = None if params.initialize_from is None else load_weights(
                self.model, params.initialize_from, logits=params.initialize_logits)
            if params.freeze_through:
                _freeze(self.model, params.freeze_through)
            # With local SGD each replica computes its own loss, otherwise its share of the global batch's loss.
            self._shares = self._replicas if self.local_sgd_steps == 1 else 1
            self.loss = build_loss(params, classes, self._shares, sum_over_replicas, class_weights)
            self.optimizer = build_optimizer(params, self.model.trainable_variables)
            self.scale = self._loss_scale(params)
            self.dropout = FeatureDropout(params.dropout, params.seed) if params.dropout else None
            self.average = WeightAverage(self.model.variables, params.ema_decay) if params.ema_decay else None
        self._logits_layer = self.model.get_layer("logits")
        self._features = keras.Model(self.model.inputs, self._logits_layer.input)
        self._local_sgd = LocalSGD([*self.model.trainable_variables, *self.optimizer.moments,
                                 *(self.average.averages if self.average else [])], self.exchange, self._replicas)
        gpus = bool(tf.config.list_physical_devices("GPU"))
        self.compiled = params.xla == "on" or (params.xla == "auto" and gpus and params.batch_norm == "local")
        self._loss_and_gradients = (tf.function(self._differentiate, jit_compile=True) if self.compiled
                                    else self._differentiate)
        self._constants = [(variable, variable.numpy()) for part in (self.loss, self.scale, self.dropout) if part
                           for variable in part.variables]
        self.call = tf.function(self._call)
        self.evaluate = tf.function(self._evaluate, reduce_retracing=True)

    def restart(self, start: str | None, *, logits: bool) -> None:
        """Set all variables to those of a new trainer. `start` and `logits` are as for `load_weights`.

        The functions need no other trace, which takes longer than many steps of small images.
        """
        self.stopping = False
        with self.strategy.scope():
            for layer in self.model.layers:  # a random initializer of Keras returns the same values again
                for variable in layer.variables:
                    variable.assign(getattr(layer, f"{variable.name}_initializer")(variable.shape))
            self.loaded = None if start is None else load_weights(self.model, start, logits=logits)
            for variable in self.optimizer.variables:
                variable.assign(tf.zeros(variable.shape, variable.dtype))
            for variable, value in self._constants:
                variable.assign(value)
            if self.average:
                self.average.restart()

    def _loss_scale(self, params: Train) -> LossScale | None:
        """The loss scale, if gradients are computed in float16 or summed over the replicas in float16."""
        if params.precision == "mixed_float16":
            return LossScale()
        summed_in_float16 = params.all_reduce_dtype == "float16" and self._replicas > 1 and self.local_sgd_steps == 1
        return LossScale(first=1.0, least=2.0**-15) if summed_in_float16 else None

    @property
    def exchanged_shapes(self) -> list[Any]:
        """The shapes of what the replicas sum: the gradients or, with local SGD, all that is averaged."""
        if self.local_sgd_steps > 1:
            return self._local_sgd.shapes
        return [weight.shape for weight in self.model.trainable_variables]

    @property
    def variables(self) -> dict[str, list[Any]]:
        """The state of the training: the variables of each part, by the part's name."""
        parts = {"network": self.model, "loss": self.loss, "optimizer": self.optimizer, "scale": self.scale,
                 "dropout": self.dropout, "average": self.average}
        return {name: [variable.value for variable in part.variables] for name, part in parts.items() if part}

    def train(self, batches: Iterator[Any], rates: np.ndarray, *, stop: bool = False) -> np.ndarray:
        """Train on the next len(rates) global batches, at most `steps_per_call`, each with its learning rate.

        Returns their losses without weight decay: float32 [steps]. With `stop`, all processes set `stopping`.
        """
        # The length is constant, since TensorFlow traces the function again for another shape.
        padded = np.zeros(self.steps_per_call, np.float32)
        padded[: len(rates)] = rates
        results = self.call(batches, tf.constant(padded), tf.constant(len(rates)), tf.constant(float(stop))).numpy()
        self.stopping, self.overflowed = bool(results[-1, 1]), results[:, 2] > 0
        return results[:, 0]

    def weights(self) -> list[np.ndarray]:
        """The values to publish: of the network's variables or, with `train.ema_decay`, of their averages."""
        return [keras.ops.convert_to_numpy(variable) for variable in self._published]

    @property
    def _published(self) -> list[Any]:
        return self.average.averages if self.average else self.model.variables

    def _evaluate(self, images: Any, labels: Any) -> tuple[Any, Any]:
        values = {variable.path: value for variable, value in zip(self.model.variables, self._published, strict=True)}
        logits, _ = self.model.stateless_call(
            [values[variable.path] for variable in self.model.trainable_variables],
            [values[variable.path] for variable in self.model.non_trainable_variables], images, training=False)
        # The loss divides by the images of all replicas, but these are all images.
        return self.loss.cost(labels, logits, tf.ones(labels.shape[1])) * self._shares, logits

    def digest(self) -> str:
        """The sha256 of all variables. Processes compare it to check that their variables are equal."""
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
            snapshot = self.strategy.run(self._local_sgd.snapshot)
            local_steps = tf.range(first, tf.minimum(first + self.local_sgd_steps, steps))
            results = self._steps(results, local_steps, batches, rates, stop)
            self.strategy.run(self._local_sgd.average, args=(snapshot,))
        return results.stack()

    def _steps(self, results: Any, numbers: Any, batches: Any, rates: Any, stop: Any) -> Any:
        for index in numbers:
            per_replica = self.strategy.run(self._replica_step, args=(rates[index], stop, *next(batches)))
            results = results.write(index, self.strategy.experimental_local_results(per_replica)[0])
        return results

    def _replica_step(self, rate: Any, stop: Any, *batch: Any) -> Any:
        """One step of one replica.

        Returns the loss, the number of replicas that ask to stop, and whether the gradients overflowed: float32 [3],
        equal on all replicas.
        """
        images, labels = self._augment(*batch)
        weights, labels = self.loss.weigh(labels), self.loss.smooth(labels)
        mask = self.dropout.mask(tf.shape(images)[0], self._features.output_shape[-1]) if self.dropout else None
        if self._accumulation == 1:
            loss, gradients = self._loss_and_gradients(images, labels, weights, mask)
        else:
            loss, gradients = self._accumulated(images, labels, weights, mask)
        sums = tf.stack([loss * self._shares / self._replicas, stop])
        if self._replicas > 1:
            gradients = self.exchange(gradients) if self.local_sgd_steps == 1 else gradients
            sums = self._average_statistics(sums)
        overflowed = tf.constant(False)
        if self.scale:
            finite = all_finite(gradients)
            if finite:
                self.optimizer.apply(self.scale.unscale(gradients), rate)
            overflowed = self.scale.update(finite)
        else:
            self.optimizer.apply(gradients, rate)
        if self.average:
            self.average.update()
        return tf.concat([sums, [tf.cast(overflowed, tf.float32)]], 0)

    def exchange(self, gradients: Sequence[Any]) -> list[Any]:
        """The sums over the replicas of tensors, which are sent as `train.all_reduce_dtype`."""
        summed = all_reduce([tf.cast(gradient, self.exchanged) for gradient in gradients])
        return [tf.cast(total, gradient.dtype) for total, gradient in zip(summed, gradients, strict=True)]

    def _accumulated(self, images: Any, labels: Any, weights: Any, mask: Any) -> tuple[Any, list[Any]]:
        """The loss and the gradients of the replica's batch, computed part by part."""
        size = tf.shape(images)[0] // self._accumulation
        loss = tf.constant(0.0)
        gradients = [tf.zeros(weight.shape) for weight in self.model.trainable_variables]
        for index in tf.range(self._accumulation):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            part = slice(index * size, (index + 1) * size)
            part_loss, part_gradients = self._loss_and_gradients(images[part], labels[part], weights,
                                                                 None if mask is None else mask[part])
            loss += part_loss / self._accumulation
            gradients = [total + gradient / self._accumulation
                         for total, gradient in zip(gradients, part_gradients, strict=True)]
        return loss, gradients

    def _differentiate(self, images: Any, labels: Any, weights: Any, mask: Any) -> tuple[Any, list[Any]]:
        """The loss of some images, and its gradients multiplied by the loss scale, if there is one.

        `mask` is that of FeatureDropout, or None.
        """
        with tf.GradientTape() as tape:
            if mask is None:
                logits = self.model(images, training=True)
            else:
                logits = self._logits_layer(self._features(images, training=True) * mask)
            loss = self.loss.cost(labels, logits, weights)
            scaled = loss * self.scale.scale.value if self.scale else loss
        return loss, tape.gradient(scaled, [variable.value for variable in self.model.trainable_variables])

    def _average_statistics(self, sums: Any) -> Any:
        """Set batch norm's statistics to their mean over the replicas.

        The same message sums `sums`, float32 [n], over the replicas, and this returns the result. Frozen layers are
        left out: their statistics are equal on all replicas.
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
