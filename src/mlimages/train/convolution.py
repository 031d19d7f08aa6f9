"""Convolutions, those of one pixel as products of matrices where that is faster: with TensorFlow on CPUs.

For a convolution oneDNN lays the kernel out anew in every step, forward, backward and for the kernel's gradient; for a
product of matrices it need not. Two of three convolutions of a bottleneck ResNet are of one pixel. A step of the whole
network on images of 64 pixels takes 4 to 9 % less time with products where oneDNN has AVX-512. With AVX2 alone the
kernel's gradient is faster as a convolution, by 1 to 3 % of the step (docs/benchmarks.md).
"""

from typing import Any

import keras
from keras import ops

from mlimages.processor import onednn_has_avx512


@keras.saving.register_keras_serializable("mlimages")
class Convolution(keras.layers.Conv2D):
    """Keras' own layer of [batch, height, width, channels], without bias or activation, with the same weights."""

    def call(self, inputs: Any) -> Any:
        if self.kernel_size != (1, 1) or not _on_tensorflows_cpu():
            return super().call(inputs)
        rows, columns = self.strides
        pixels = inputs[:, ::rows, ::columns] if self.strides != (1, 1) else inputs
        product = _product if onednn_has_avx512() or pixels.dtype != "float32" else _product_with_convolved_gradient
        return product(pixels, self.kernel)


def _product(pixels: Any, kernel: Any) -> Any:
    """[batch, height, width, channels] by a kernel [1, 1, channels, filters]: [batch, height, width, filters]."""
    *places, channels = ops.shape(pixels)
    filters = kernel.shape[-1]
    product = ops.matmul(ops.reshape(pixels, (-1, channels)), ops.reshape(kernel, (channels, filters)))
    return ops.reshape(product, (*places, filters))


def _product_with_convolved_gradient(pixels: Any, kernel: Any) -> Any:
    """The same, whose gradient by the kernel is computed as that of a convolution."""
    import tensorflow as tf  # only here: the network must be importable without it

    @tf.custom_gradient
    def product(pixels: Any, kernel: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            channels, filters = kernel.shape[2:]
            by_pixels = tf.matmul(tf.reshape(upstream, (-1, filters)), tf.reshape(kernel, (channels, filters)),
                                  transpose_b=True)
            by_kernel = tf.raw_ops.Conv2DBackpropFilter(input=pixels, filter_sizes=kernel.shape, out_backprop=upstream,
                                                        strides=[1] * 4, padding="VALID")
            return tf.reshape(by_pixels, tf.shape(pixels)), by_kernel

        return _product(pixels, kernel), gradient

    return product(pixels, tf.convert_to_tensor(kernel))


def _on_tensorflows_cpu() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")
