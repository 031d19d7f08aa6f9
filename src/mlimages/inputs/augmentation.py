"""What remains of the augmentation after crop, resize and flip, on tensors: on the host inside tf.data, or on a device.

Rotation and colour are the released program's operations in its order. RandAugment and mixup are Keras' own layers.
What they draw comes with the images, see draws.py: Keras' random state is a variable, which would depend on how often
it was asked, on the number of replicas and of reading threads, and which an exact resume would have to restore.
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
from mlimages.inputs.random_draws import OPERATION_NAMES, OPERATIONS, Draws, mixing

RELEASED = ("case", "angle", "brightness", "saturation", "hue", "contrast")


class Finish:
    """What `params` ask to be done on tensors, on the host or on the device. Called with a batch it gives images
    float32 [images, pixels, pixels, 3] from -1 to 1 and labels.

    `wants` is what it must be given with a batch, as specifications of a dictionary's tensors; it may be empty.
    """

    def __init__(self, params: Train, *, device: bool) -> None:
        self._params = params
        here = device == (params.augment_on == "device")
        self.wants: dict[str, Any] = {}
        if device and here and params.rotate_and_color_jitter:  # on the host, OpenCV does it
            self.wants |= {name: tf.TensorSpec([None], tf.int32 if name == "case" else tf.float32) for name in RELEASED}
        if here and params.rand_augment is not None:
            self.wants |= {"operations": tf.TensorSpec([None, OPERATIONS], tf.int32),
                           "seeds": tf.TensorSpec([None, OPERATIONS, 2], tf.int32)}
            self._rand_augment = _rand_augment(params.rand_augment, params.pixels)
        if here and params.mixup is not None:
            self.wants |= {"kept": tf.TensorSpec([None], tf.float32)}
            self._mixup = keras.layers.MixUp(seed=0, dtype="float32")

    def given(self, draws: Draws, first: int) -> dict[str, np.ndarray]:
        """What it wants for a batch that begins with the record `first` of training and has these draws."""
        found = draws._asdict()
        if "kept" in self.wants and self._params.mixup is not None:
            found["kept"] = mixing(self._params.seed, first, first + len(draws.case), self._params.mixup)
        return {name: found[name].astype(spec.dtype.as_numpy_dtype) for name, spec in self.wants.items()}

    def __call__(self, images: Any, labels: Any, given: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
        """`images` are uint8, or float32 from -1 to 1; `labels` [images, classes], -1 where unknown."""
        whole = images.dtype == tf.uint8
        if not given:
            return ops.cast(images, "float32") / 127.5 - 1 if whole else images, labels
        images = ops.cast(images, "float32") / 255 if whole else (images + 1) / 2
        if "angle" in given:
            images = _recoloured(_rotated(images, given), given)
        if "operations" in given:
            images = self._rand_augment(images, given["operations"], given["seeds"])
        if "kept" in given:
            images, labels = self._mixed(images, labels, given["kept"])
        return images * 2 - 1, labels

    def _mixed(self, images: Any, labels: Any, kept: Any) -> tuple[Any, Any]:
        """Neighbours mix with each other, so that the batch is the same however many replicas share it."""
        partner = ops.arange(images.shape[0]) ^ 1
        mixing = {"mix_weight": kept, "permutation_order": partner}
        unknown = ops.logical_or(labels == UNKNOWN, ops.take(labels, partner, axis=0) == UNKNOWN)
        mixed = self._mixup.transform_labels(labels, mixing)
        return self._mixup.transform_images(images, mixing), ops.where(unknown, UNKNOWN, mixed)


@lru_cache
def _rand_augment(strength: float, pixels: int) -> Any:
    """RandAugment of images float32 [images, pixels, pixels, 3], each with `operations` and `seeds` of its own.

    Only the operations that are drawn are computed, other than in Keras' layer. Traced once, for all that call it.
    """
    layer = keras.layers.RandAugment(value_range=(0, 1), factor=strength, seed=0, dtype="float32")
    layer.build((None, pixels, pixels, 3))
    layers = [getattr(layer, name) for name in OPERATION_NAMES]

    def one(drawn: tuple[Any, Any, Any]) -> Any:
        image, operations, seeds = drawn

        def altered(index: Any, image: Any) -> Any:
            branches = [partial(_altered, layer, image, seeds[index]) for layer in layers]
            return ops.reshape(ops.switch(operations[index], branches), image.shape)

        return ops.fori_loop(0, OPERATIONS, altered, image[None])[0]

    return tf.function(lambda *drawn: ops.map(one, drawn), input_signature=[
        tf.TensorSpec([None, pixels, pixels, 3], tf.float32), tf.TensorSpec([None, OPERATIONS], tf.int32),
        tf.TensorSpec([None, OPERATIONS, 2], tf.int32)])


class _Seeds(keras.random.SeedGenerator):
    """Seeds that follow from one of them, int [2], in place of Keras' variable."""

    def __init__(self, seed: Any) -> None:
        self._seed, self._number = seed, 0

    def next(self, ordered: bool = True) -> Any:
        self._number += 1
        return self._seed + np.array([0, self._number], np.int32)


def _altered(layer: Any, images: Any, seed: Any) -> Any:
    drawn = layer.get_random_transformation(images, training=True, seed=_Seeds(seed))
    return ops.cast(layer.transform_images(images, drawn, training=True), "float32")


def _rotated(images: Any, given: Mapping[str, Any]) -> Any:
    """Those of case 0 turned about their centre, black where nothing is left; each pixel is the nearest one."""
    angle = ops.where(given["case"] == 0, given["angle"], 0.0)
    cos, sin, centre = ops.cos(angle), ops.sin(angle), (images.shape[1] - 1) / 2
    zero = ops.zeros_like(angle)
    turns = ops.stack([cos, -sin, centre * (1 - cos + sin), sin, cos, centre * (1 - sin - cos), zero, zero], axis=1)
    return ops.image.affine_transform(images, turns, interpolation="nearest", fill_mode="constant", fill_value=0.0)


def _recoloured(images: Any, given: Mapping[str, Any]) -> Any:
    """From 0 to 1 to 0 to 1: those of cases 0 and 1, in the two released orders."""
    case = given["case"][:, None, None, None]

    def factor(name: str, cases: Any, neutral: float) -> Any:
        return ops.where(cases, given[name][:, None, None, None], neutral)

    images = images + factor("brightness", case < 2, 0.0)
    images = _contrasted(images, factor("contrast", case == 1, 1.0))
    hue, saturation, value = ops.split(ops.image.rgb_to_hsv(images), 3, axis=-1)
    hue = ops.mod(hue + factor("hue", case < 2, 0.0), 1.0)
    saturation = ops.minimum(saturation * factor("saturation", case < 2, 1.0), 1.0)
    images = ops.image.hsv_to_rgb(ops.concatenate([hue, saturation, value], axis=-1))
    return ops.clip(_contrasted(images, factor("contrast", case == 0, 1.0)), 0.0, 1.0)


def _contrasted(images: Any, factor: Any) -> Any:
    """Around the mean of each channel."""
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    return (images - mean) * factor + mean
