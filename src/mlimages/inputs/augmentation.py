"""The part of augmentation that works on tensors: rotation, colour jitter, RandAugment and mixup.

It runs on the host inside tf.data, or on a device. Rotation and colour jitter are the released program's operations in
its order. RandAugment and mixup are Keras' layers. random_draws.py draws the random parameters. Keras would draw them
from a state that depends on the number of calls, replicas and readers, and that a resume would have to restore.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from mlimages.convert.example import UNKNOWN
from mlimages.core.params import Train
from mlimages.inputs.random_draws import OPERATION_NAMES, OPERATIONS, AugmentationParams, mixup_weights

COLOR_JITTER = ("case", "angle", "brightness", "saturation", "hue", "contrast")


class TensorAugmentation:
    """The operations that `params` assign to the host, or to the device.

    A call with a batch returns images float32 [images, pixels, pixels, 3] from -1 to 1, and labels. `specs` describes
    the random values that a call also needs: a dictionary of tf.TensorSpec by name, which may be empty.
    """

    def __init__(self, params: Train, *, device: bool) -> None:
        self._params = params
        active = device == (params.augment_on == "device")
        self.specs: dict[str, Any] = {}
        if device and active and params.rotate_and_color_jitter:  # on the host, OpenCV does it
            self.specs |= {name: tf.TensorSpec([None], tf.int32 if name == "case" else tf.float32)
                           for name in COLOR_JITTER}
        if active and params.rand_augment is not None:
            self.specs |= {"operations": tf.TensorSpec([None, OPERATIONS], tf.int32),
                           "seeds": tf.TensorSpec([None, OPERATIONS, 2], tf.int32)}
            self._rand_augment = _rand_augment(params.rand_augment, params.pixels)
        if active and params.mixup is not None:
            self.specs |= {"mixup_weight": tf.TensorSpec([None], tf.float32)}
            self._mixup = keras.layers.MixUp(seed=0, dtype="float32")

    def random_values(self, drawn: AugmentationParams, first: int) -> dict[str, np.ndarray]:
        """The arrays that `specs` describes, for a batch that begins with the record `first` of the training."""
        values = drawn._asdict()
        if "mixup_weight" in self.specs and self._params.mixup is not None:
            values["mixup_weight"] = mixup_weights(self._params.seed, first, first + len(drawn.case),
                                                   self._params.mixup)
        return {name: values[name].astype(spec.dtype.as_numpy_dtype) for name, spec in self.specs.items()}

    def __call__(self, images: Any, labels: Any, values: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
        """`images` are uint8, or float32 from -1 to 1; `labels` are [images, classes], -1 where unknown."""
        is_uint8 = images.dtype == tf.uint8
        if not values:
            return ops.cast(images, "float32") / 127.5 - 1 if is_uint8 else images, labels
        images = ops.cast(images, "float32") / 255 if is_uint8 else (images + 1) / 2
        if "angle" in values:
            images = _jitter_colors(_rotate(images, values), values)
        if "operations" in values:
            images = self._rand_augment(images, values["operations"], values["seeds"])
        if "mixup_weight" in values:
            images, labels = self._mix_pairs(images, labels, values["mixup_weight"])
        return images * 2 - 1, labels

    def _mix_pairs(self, images: Any, labels: Any, weight: Any) -> tuple[Any, Any]:
        """Mix each image with its neighbour, so that the result does not depend on the number of replicas."""
        partner = ops.arange(labels.shape[0]) ^ 1
        mixing = {"mix_weight": weight, "permutation_order": partner}
        unknown = ops.logical_or(labels == UNKNOWN, ops.take(labels, partner, axis=0) == UNKNOWN)
        mixed = self._mixup.transform_labels(labels, mixing)
        return self._mixup.transform_images(images, mixing), ops.where(unknown, UNKNOWN, mixed)


@lru_cache
def _rand_augment(strength: float, pixels: int) -> Any:
    """RandAugment of images float32 [images, pixels, pixels, 3], each with its own `operations` and `seeds`.

    It computes only the drawn operations; Keras' layer computes all. The function is traced once for all callers.
    """
    layer = keras.layers.RandAugment(value_range=(0, 1), factor=strength, seed=0, dtype="float32")
    layer.build((None, pixels, pixels, 3))
    layers = [getattr(layer, name) for name in OPERATION_NAMES]

    def augment(drawn: tuple[Any, Any, Any]) -> Any:
        image, operations, seeds = drawn

        def apply(index: Any, image: Any) -> Any:
            branches = [partial(_transform, layer, image, seeds[index]) for layer in layers]
            return ops.reshape(ops.switch(operations[index], branches), image.shape)

        return ops.fori_loop(0, OPERATIONS, apply, image[None])[0]

    return tf.function(lambda *drawn: ops.map(augment, drawn), input_signature=[
        tf.TensorSpec([None, pixels, pixels, 3], tf.float32), tf.TensorSpec([None, OPERATIONS], tf.int32),
        tf.TensorSpec([None, OPERATIONS, 2], tf.int32)])


class _Seeds(keras.random.SeedGenerator):
    """Seeds that are counted up from a given one, int [2], in place of Keras' variable."""

    def __init__(self, seed: Any) -> None:
        self._seed, self._number = seed, 0

    def next(self, ordered: bool = True) -> Any:
        self._number += 1
        return self._seed + np.array([0, self._number], np.int32)


def _transform(layer: Any, images: Any, seed: Any) -> Any:
    transformation = layer.get_random_transformation(images, training=True, seed=_Seeds(seed))
    return ops.cast(layer.transform_images(images, transformation, training=True), "float32")


def _rotate(images: Any, values: Mapping[str, Any]) -> Any:
    """Rotate the images of case 0 about their centre, by the nearest pixel, and fill the corners with black."""
    angle = ops.where(values["case"] == 0, values["angle"], 0.0)
    cos, sin, centre = ops.cos(angle), ops.sin(angle), (images.shape[1] - 1) / 2
    zero = ops.zeros_like(angle)
    matrices = ops.stack([cos, -sin, centre * (1 - cos + sin), sin, cos, centre * (1 - sin - cos), zero, zero], axis=1)
    return ops.image.affine_transform(images, matrices, interpolation="nearest", fill_mode="constant", fill_value=0.0)


def _jitter_colors(images: Any, values: Mapping[str, Any]) -> Any:
    """Jitter the colours of cases 0 and 1, in the two released orders; values from 0 to 1."""
    case = values["case"][:, None, None, None]

    def factor(name: str, cases: Any, neutral: float) -> Any:
        return ops.where(cases, values[name][:, None, None, None], neutral)

    images = images + factor("brightness", case < 2, 0.0)
    images = _adjust_contrast(images, factor("contrast", case == 1, 1.0))
    hue, saturation, value = ops.split(ops.image.rgb_to_hsv(images), 3, axis=-1)
    hue = ops.mod(hue + factor("hue", case < 2, 0.0), 1.0)
    saturation = ops.minimum(saturation * factor("saturation", case < 2, 1.0), 1.0)
    images = ops.image.hsv_to_rgb(ops.concatenate([hue, saturation, value], axis=-1))
    return ops.clip(_adjust_contrast(images, factor("contrast", case == 0, 1.0)), 0.0, 1.0)


def _adjust_contrast(images: Any, factor: Any) -> Any:
    """Contrast around the mean of each channel."""
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    return (images - mean) * factor + mean
