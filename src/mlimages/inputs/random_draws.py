"""The random parameters of augmentation. Those of the n-th record of a training depend only on the seed and n."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

ASPECT_RANGE = (0.75, 1.33)
MAX_ROTATION_RADIANS = math.pi / 4
MAX_BRIGHTNESS = 32 / 255
MAX_HUE = 0.2
FACTOR_RANGE = (0.5, 1.5)

BLOCK = 64  # records that share a random stream
CACHED_BLOCKS = 16
# The first number of a stream's seed says what the stream is for; sampler.py has 1 and 2.
AUGMENTATION, MIXUP = 3, 4
CASES = 3
# RandAugment: the operations of each image, and their names in Keras' layer.
OPERATIONS = 2
OPERATION_NAMES = ("random_shear", "random_translation", "random_rotation", "random_brightness",
                   "random_color_degeneration", "random_contrast", "random_sharpness", "random_posterization",
                   "solarization", "auto_contrast", "equalization")


class AugmentationParams(NamedTuple):
    """The random parameters of some records, one row for each: arrays [records, ...].

    `crop` and `place` are float64 [records, 2] from 0 to 1, and `flip` is bool. `case` is int64: case 0 is rotated,
    cases 0 and 1 get colour jitter in different orders, case 2 neither. `angle` is in radians, `brightness` is added to
    values from 0 to 1, `saturation` and `contrast` are factors, and `hue` is added in turns. `operations` are int64
    [records, OPERATIONS], indices of OPERATION_NAMES, and `seeds` int64 [records, OPERATIONS, 2] are theirs.
    """

    crop: np.ndarray
    place: np.ndarray
    flip: np.ndarray
    case: np.ndarray
    angle: np.ndarray
    brightness: np.ndarray
    saturation: np.ndarray
    hue: np.ndarray
    contrast: np.ndarray
    operations: np.ndarray
    seeds: np.ndarray


def draw_augmentation(seed: int, first: int, last: int) -> AugmentationParams:
    """The parameters of the records `first` to `last` - 1 of a training."""
    blocks = [_block(seed, number) for number in _blocks(first, last)]
    columns = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return AugmentationParams(*(column[first % BLOCK:][: last - first] for column in columns))


def mixup_weights(seed: int, first: int, last: int, alpha: float) -> np.ndarray:
    """Mixup's weights of the records `first` to `last` - 1 themselves, from Beta(alpha, alpha): float32 [records]."""
    blocks = [np.random.default_rng([MIXUP, seed, number]).beta(alpha, alpha, BLOCK) for number in _blocks(first, last)]
    return np.concatenate(blocks)[first % BLOCK:][: last - first].astype(np.float32)


def _blocks(first: int, last: int) -> range:
    return range(first // BLOCK, -(-last // BLOCK))


@lru_cache(CACHED_BLOCKS)
def _block(seed: int, number: int) -> AugmentationParams:
    rng = np.random.default_rng([AUGMENTATION, seed, number])
    return AugmentationParams(
        crop=rng.random((BLOCK, 2)), place=rng.random((BLOCK, 2)), flip=rng.random(BLOCK) < 0.5,
        case=rng.integers(0, CASES, BLOCK), angle=rng.uniform(-MAX_ROTATION_RADIANS, MAX_ROTATION_RADIANS, BLOCK),
        brightness=rng.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS, BLOCK), saturation=rng.uniform(*FACTOR_RANGE, BLOCK),
        hue=rng.uniform(-MAX_HUE, MAX_HUE, BLOCK), contrast=rng.uniform(*FACTOR_RANGE, BLOCK),
        operations=rng.integers(0, len(OPERATION_NAMES), (BLOCK, OPERATIONS)),
        seeds=rng.integers(0, 2**31, (BLOCK, OPERATIONS, 2)))


def crop_box(width: int, height: int, area: Sequence[float], crop: Sequence[float],
             place: Sequence[float]) -> tuple[int, int, int, int]:
    """A random crop of an image: left, top, width and height, in pixels.

    The crop covers between area[0] and area[1] of the image; if no such crop fits, it is the whole image. As in
    TensorFlow's sample_distorted_bounding_box, the aspect ratio is uniform among those of ASPECT_RANGE for which some
    height fits, and then the height is uniform among those that fit. `crop` and `place` are two draws from 0 to 1 each.
    """
    least_aspect = max(ASPECT_RANGE[0], area[0] * width / height)
    most_aspect = min(ASPECT_RANGE[1], width / (area[0] * height))
    if least_aspect > most_aspect:
        return 0, 0, width, height
    aspect = least_aspect + crop[0] * (most_aspect - least_aspect)
    least = math.sqrt(area[0] * width * height / aspect)
    most = min(math.sqrt(area[1] * width * height / aspect), width / aspect, height)
    rows = min(max(round(least + crop[1] * (most - least)), 1), height)
    columns = min(max(round(rows * aspect), 1), width)
    return int(place[0] * (width - columns + 1)), int(place[1] * (height - rows + 1)), columns, rows
