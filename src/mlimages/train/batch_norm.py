"""Batch normalization by TensorFlow's fused kernel, where TensorFlow is Keras' backend.

Keras' own layer takes the mean, the variance and the product one after the other: on CPUs a step of the whole network
then takes a third longer.
"""

from typing import Any

import keras


@keras.saving.register_keras_serializable("mlimages")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over the channels of [batch, height, width, channels].

    The same weights and the same result as Keras' own layer; the variance that it keeps is the unbiased one, as in the
    released program. It is Keras' own layer on other backends, and where `synchronized`, which no kernel does.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if keras.backend.backend() != "tensorflow" or self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf  # only here: the network must be importable without it

        learning = bool(training) and self.trainable
        fixed = {} if learning else {"mean": tf.convert_to_tensor(self.moving_mean),
                                     "variance": tf.convert_to_tensor(self.moving_variance)}
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta), epsilon=self.epsilon,
            is_training=learning, **fixed)
        if learning:
            self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
            self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs
