"""The random draws of augmentation: those of the n-th record of training are a function of the seed and n alone."""

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
KEPT_BLOCKS = 16
DRAWS, MIXES = 3, 4  # what the streams are for; the first number of their seeds, see order.py
CASES = 3
# Of RandAugment: as many for each image, by the names that Keras' layer gives them.
OPERATIONS = 2
OPERATION_NAMES = ("random_shear", "random_translation", "random_rotation", "random_brightness",
                   "random_color_degeneration", "random_contrast", "random_sharpness", "random_posterization",
                   "solarization", "auto_contrast", "equalization")


class Draws(NamedTuple):
    """Of [records]: what each is drawn. The first record's is `Draws(*(one[0] for one in draws))`.

    `crop` and `place` float64 [records, 2], from 0 to 1; `flip` bool; `case` int64: 0 is rotated, 0 and 1 are
    recoloured, in different orders; `angle` in radians; `brightness` added, of values from 0 to 1;
    `saturation` and `contrast` factors; `hue` added, in turns; `operations` int64 [records, OPERATIONS], by their
    places in OPERATION_NAMES, and `seeds` int64 [records, OPERATIONS, 2], of what these draw themselves.
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


def draws(seed: int, first: int, last: int) -> Draws:
    """What the records `first` to `last` - 1 of training draw."""
    blocks = [_block(seed, number) for number in _blocks(first, last)]
    return Draws(*(np.concatenate(column)[first % BLOCK:][: last - first] for column in zip(*blocks, strict=True)))


def mixing(seed: int, first: int, last: int, alpha: float) -> np.ndarray:
    """What the records `first` to `last` - 1 keep of themselves where mixup mixes them: Beta(alpha, alpha), float32."""
    blocks = [np.random.default_rng([MIXES, seed, number]).beta(alpha, alpha, BLOCK) for number in _blocks(first, last)]
    return np.concatenate(blocks)[first % BLOCK:][: last - first].astype(np.float32)


def _blocks(first: int, last: int) -> range:
    return range(first // BLOCK, -(-last // BLOCK))


@lru_cache(KEPT_BLOCKS)
def _block(seed: int, number: int) -> Draws:
    rng = np.random.default_rng([DRAWS, seed, number])
    return Draws(crop=rng.random((BLOCK, 2)), place=rng.random((BLOCK, 2)), flip=rng.random(BLOCK) < 0.5,
                 case=rng.integers(0, CASES, BLOCK),
                 angle=rng.uniform(-MAX_ROTATION_RADIANS, MAX_ROTATION_RADIANS, BLOCK),
                 brightness=rng.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS, BLOCK),
                 saturation=rng.uniform(*FACTOR_RANGE, BLOCK), hue=rng.uniform(-MAX_HUE, MAX_HUE, BLOCK),
                 contrast=rng.uniform(*FACTOR_RANGE, BLOCK),
                 operations=rng.integers(0, len(OPERATION_NAMES), (BLOCK, OPERATIONS)),
                 seeds=rng.integers(0, 2**31, (BLOCK, OPERATIONS, 2)))


def crop_box(width: int, height: int, area: Sequence[float], crop: Sequence[float],
             place: Sequence[float]) -> tuple[int, int, int, int]:
    """Left, top, width and height, in pixels, of a crop of a share `area` of the picture; the whole where none fits.

    As TensorFlow's sample_distorted_bounding_box: the aspect ratio is uniform in ASPECT_RANGE, drawn anew as long as
    no height fits, and so uniform among those that some height fits; then the height is uniform among those that give
    such an area and fit.
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
