"""Faster versions of two of Keras' layers, for TensorFlow as Keras' backend.

Keras' batch normalization computes the mean, the variance and the product one after the other. On CPUs, a step of the
whole network takes a third longer with it than with TensorFlow's fused kernel.
"""

from typing import Any

import keras
from keras import ops

from mlimages.core.tuning import onednn_uses_avx512

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

FEW_POSITIONS = 512  # of a batch: the last stage at 224 px with 8 images, and the last two at 32 px with 32


@keras.saving.register_keras_serializable("mlimages")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over the channels of [batch, height, width, channels].

    It has the weights and the outputs of Keras' layer. Its moving variance is the unbiased one, as in the released
    program. On other backends and with `synchronized`, for which there is no kernel, it is Keras' layer.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if keras.backend.backend() != "tensorflow" or self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        learning = bool(training) and self.trainable
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta),
            tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance), epsilon=self.epsilon,
            is_training=learning, exponential_avg_factor=1 - self.momentum if learning else 1.0)
        if learning:
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return outputs


@keras.saving.register_keras_serializable("mlimages")
class Convolution(keras.layers.Conv2D):
    """Convolution of [batch, height, width, channels] without bias or activation.

    It has the weights and the outputs of Keras' layer. On CPUs, it computes parts of them as products of matrices:
    kernels of 1 x 1, and the gradients of kernels with few positions (`_gradient_by_kernel`).
    """

    def call(self, inputs: Any) -> Any:
        pointwise = self.kernel_size == (1, 1)
        if not _on_tensorflows_cpu() or (inputs.dtype != "float32" and not pointwise):
            return super().call(inputs)
        if not pointwise:
            return _convolve(inputs, self.kernel, self.strides, self.padding)
        # A pool of one pixel takes every second one, like a slice, but on all cores.
        pixels = ops.average_pool(inputs, 1, self.strides) if self.strides != (1, 1) else inputs
        if onednn_uses_avx512() or pixels.dtype != "float32":
            return _product(pixels, self.kernel)
        return _convolve(pixels, self.kernel, (1, 1), self.padding)


def _product(pixels: Any, kernel: Any, *, transposed: bool = False) -> Any:
    """Multiply [batch, height, width, channels] by a kernel [1, 1, channels, filters], or by the transposed one.

    Returns [batch, height, width, filters].
    """
    *places, channels = ops.shape(pixels)
    product = tf.matmul(tf.reshape(pixels, (-1, channels)), tf.reshape(kernel, kernel.shape[2:]),
                        transpose_b=transposed)
    return tf.reshape(product, (*places, product.shape[-1]))


def _convolve(pixels: Any, kernel: Any, strides: tuple[int, int], padding: str) -> Any:
    """Convolve float32 [batch, height, width, channels] with a kernel [rows, columns, channels, filters].

    Returns float32 [batch, height, width, filters].
    """
    window = {"strides": [1, *strides, 1], "padding": padding.upper()}

    @tf.custom_gradient
    def convolve(pixels: Any, kernel: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            by_pixels = (_product(upstream, kernel, transposed=True) if kernel.shape[:2] == (1, 1) else
                         tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(pixels), filter=kernel,
                                                        out_backprop=upstream, **window))
            return by_pixels, _gradient_by_kernel(pixels, kernel.shape, upstream, window)

        outputs = _product(pixels, kernel) if kernel.shape[:2] == (1, 1) else tf.nn.conv2d(pixels, kernel, **window)
        return outputs, gradient

    return convolve(pixels, tf.convert_to_tensor(kernel))


def _gradient_by_kernel(pixels: Any, shape: Any, upstream: Any, window: dict[str, Any]) -> Any:
    """The gradient of a convolution with respect to its kernel, which has this shape.

    With few positions, the product of the patches below them with `upstream` is faster than oneDNN's gradient; with
    many, it takes longer to copy the patches than the product saves (docs/benchmarks.md).
    """
    rows, columns, _, filters = shape
    positions = upstream.shape[:-1].num_elements()
    if positions is None or positions >= FEW_POSITIONS:
        return tf.raw_ops.Conv2DBackpropFilter(input=pixels, filter_sizes=shape, out_backprop=upstream, **window)
    patches = pixels if (rows, columns) == (1, 1) else tf.image.extract_patches(
        pixels, sizes=[1, rows, columns, 1], rates=[1] * 4, **window)
    product = tf.matmul(tf.reshape(patches, (positions, -1)), tf.reshape(upstream, (positions, filters)),
                        transpose_a=True)
    return tf.reshape(product, shape)


def _on_tensorflows_cpu() -> bool:
    return keras.backend.backend() == "tensorflow" and not tf.config.list_physical_devices("GPU")
