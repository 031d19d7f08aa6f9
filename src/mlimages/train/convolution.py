"""Convolutions, those of one pixel as products of matrices where that is faster: with TensorFlow on CPUs.

For a convolution oneDNN lays the kernel out anew in every step, forward, backward and for the kernel's gradient; for a
product of matrices it need not. Two of three convolutions of a bottleneck ResNet are of one pixel: on images of 64
pixels, where there are many weights for each of them, a step of the whole network takes 7 to 9 % less time.
"""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("mlimages")
class Convolution(keras.layers.Conv2D):
    """Keras' own layer of [batch, height, width, channels], without bias or activation, with the same weights."""

    def call(self, inputs: Any) -> Any:
        if self.kernel_size != (1, 1) or not _on_tensorflows_cpu():
            return super().call(inputs)
        rows, columns = self.strides
        pixels = inputs[:, ::rows, ::columns] if self.strides != (1, 1) else inputs
        *places, channels = ops.shape(pixels)
        product = ops.matmul(ops.reshape(pixels, (-1, channels)), ops.reshape(self.kernel, (channels, self.filters)))
        return ops.reshape(product, (*places, self.filters))


def _on_tensorflows_cpu() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf  # only here: the network must be importable without it

    return not tf.config.list_physical_devices("GPU")
