"""Preprocessing: encoded JPEGs to float32 [pixels, pixels, 3] in [-1, 1], the released program's arithmetic.

Random draws are stateless: a picture's augmentation is a function of `seed`, an int64 pair, alone.
"""

import math
from typing import Any

import tensorflow as tf

ASPECT_RANGE = (0.75, 1.33)
MAX_ROTATION_RADIANS = math.pi / 4
MAX_BRIGHTNESS = 32 / 255
MAX_HUE = 0.2
FACTOR_RANGE = (0.5, 1.5)


def training_image(encoded: Any, seed: Any, *, pixels: int, crop_area: tuple[float, float],
                   rotate_and_recolour: bool) -> Any:
    """A random crop, flipped with probability 1/2, and in one of three cases rotated and in two recoloured."""
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(encoded), tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), seeds[0],
        min_object_covered=0.0, aspect_ratio_range=ASPECT_RANGE, area_range=crop_area, max_attempts=100,
        use_image_if_no_bounding_boxes=True)
    crop = tf.image.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], size[:2]], 0), channels=3)
    image = tf.image.resize(crop, (pixels, pixels), "bilinear") / 255
    image = tf.image.stateless_random_flip_left_right(image, seeds[1])
    if rotate_and_recolour:
        image = _rotate_and_recolour(image, seeds[2])
    return tf.ensure_shape(image * 2 - 1, (pixels, pixels, 3))


def evaluation_image(encoded: Any, *, pixels: int, central_fraction: float) -> Any:
    """The central part, `central_fraction` of each side, resized."""
    image = tf.image.central_crop(tf.io.decode_jpeg(encoded, channels=3), central_fraction)
    image = tf.image.resize(image, (pixels, pixels), "bilinear") / 255
    return tf.ensure_shape(image * 2 - 1, (pixels, pixels, 3))


def _rotate_and_recolour(image: Any, seed: Any) -> Any:
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 6))
    case = tf.random.stateless_uniform([], seeds[0], 0, 3, tf.int32)
    return tf.switch_case(case, [
        lambda: _recolour(_rotate(image, seeds[1]), seeds, saturation_first=True),
        lambda: _recolour(image, seeds, saturation_first=False),
        lambda: image,
    ])


def _recolour(image: Any, seeds: list[Any], saturation_first: bool) -> Any:
    """Brightness, saturation, hue and contrast in one of the two released orders, cut to [0, 1]."""
    image = tf.image.stateless_random_brightness(image, MAX_BRIGHTNESS, seeds[2])
    if saturation_first:
        image = tf.image.stateless_random_saturation(image, *FACTOR_RANGE, seeds[3])
        image = tf.image.stateless_random_hue(image, MAX_HUE, seeds[4])
        image = tf.image.stateless_random_contrast(image, *FACTOR_RANGE, seeds[5])
    else:
        image = tf.image.stateless_random_contrast(image, *FACTOR_RANGE, seeds[5])
        image = tf.image.stateless_random_saturation(image, *FACTOR_RANGE, seeds[3])
        image = tf.image.stateless_random_hue(image, MAX_HUE, seeds[4])
    return tf.clip_by_value(image, 0.0, 1.0)


def _rotate(image: Any, seed: Any) -> Any:
    """Turned about its centre by up to 45 degrees either way, black where nothing is left."""
    angle = tf.random.stateless_uniform([], seed, -MAX_ROTATION_RADIANS, MAX_ROTATION_RADIANS)
    cos, sin = tf.cos(angle), tf.sin(angle)
    centre = (tf.cast(tf.shape(image)[0], tf.float32) - 1) / 2
    offsets = centre - (cos * centre - sin * centre), centre - (sin * centre + cos * centre)
    transform = tf.stack([cos, -sin, offsets[0], sin, cos, offsets[1], 0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None], transforms=transform[None], output_shape=tf.shape(image)[:2], fill_value=0.0,
        interpolation="BILINEAR", fill_mode="CONSTANT")[0]
