"""One training step, written once for one device, MirroredStrategy and MultiWorkerMirroredStrategy."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mlimages.params import Train
from mlimages.train.loss import build_loss
from mlimages.train.resnet import build
from mlimages.train.schedule import Momentum, Schedule


class Trainer:
    """The network, its loss and its optimizer on all replicas of a strategy.

    `step(batch)` trains on one global batch and returns its loss, without the weight decay, summed over replicas.
    """

    def __init__(self, params: Train, classes: int, schedule: Schedule, strategy: Any) -> None:
        keras.utils.set_random_seed(params.seed)
        self.strategy = strategy
        with strategy.scope():
            self.model = build(params.architecture, classes, batch_norm_momentum=params.batch_norm_momentum)
            self.loss = build_loss(params, classes, strategy.num_replicas_in_sync, _sum_over_replicas)
            self.optimizer = Momentum(schedule, params.momentum)
            self.optimizer.build(self.model.trainable_variables)
        self._decayed = [variable for variable in self.model.trainable_variables
                         if variable.path.rsplit("/", 1)[-1] not in ("gamma", "beta")]
        self._weight_decay = params.weight_decay
        self.step: Callable[[Any], Any] = tf.function(self._step)

    def _step(self, batch: Any) -> Any:
        losses = self.strategy.run(self._replica_step, args=batch)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _replica_step(self, images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self.loss(labels, self.model(images, training=True))
            decay = tf.add_n([tf.nn.l2_loss(tf.convert_to_tensor(variable)) for variable in self._decayed])
            # Gradients are summed over the replicas, so each contributes its share of the decay.
            total = loss + self._weight_decay * decay / self.strategy.num_replicas_in_sync
        weights = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(total, [variable.value for variable in weights]), weights)
        return loss

    @tf.function
    def average_statistics(self) -> None:
        """Make the batch norm statistics, which each replica keeps for itself, equal to their mean on all."""
        self.strategy.run(self._average_statistics)

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        finite = [tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(variable))) for variable in self.model.variables
                  if variable.dtype.startswith("float")]
        return bool(tf.reduce_all(finite))

    def _average_statistics(self) -> None:
        variables = self.model.non_trainable_variables
        means = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.identity(variable.value) for variable in variables])
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)


def _sum_over_replicas(tensor: Any) -> Any:
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensor)
