"""Preprocessing of JPEGs to squares on the host: the released program's arithmetic in OpenCV.

What differs from it: a rotated picture is resampled once, crop, resize, flip and rotation together, where the release
resamples twice, so it is a little sharper; and JPEGs are decoded with libjpeg's accurate DCT, not its fast one.
`tests/train/test_augment.py` says by how much.
"""

import math
from typing import Literal

import cv2
import numpy as np

from mlimages.train.draws import Draws, crop_box

cv2.setNumThreads(1)  # the readers are the parallelism

Preprocessing = Literal["central", "shorter_side"]


def decode(jpeg: bytes) -> np.ndarray:
    """uint8 [height, width, 3] RGB; ValueError where it is no JPEG that decodes."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("its image does not decode")
    return image


def training_image(jpeg: bytes, draw: Draws, *, pixels: int, crop_area: tuple[float, float],
                   rotate_and_recolour: bool) -> np.ndarray:
    """A random crop, flipped with probability 1/2, and in one of three cases rotated and in two recoloured.

    [pixels, pixels, 3], values from 0 to 255: uint8, or float32 where it is recoloured.
    """
    image = decode(jpeg)
    left, top, width, height = crop_box(image.shape[1], image.shape[0], crop_area, draw.crop, draw.place)
    crop = image[top: top + height, left: left + width]
    if rotate_and_recolour and draw.case == 0:
        image = _rotated(crop, draw, pixels)
    else:
        image = cv2.resize(crop, (pixels, pixels), interpolation=cv2.INTER_LINEAR)
        image = cv2.flip(image, 1) if draw.flip else image
    return recolour(image, draw) if rotate_and_recolour and draw.case < 2 else image


def evaluation_image(jpeg: bytes, *, pixels: int, preprocessing: Preprocessing, central_fraction: float) -> np.ndarray:
    """The middle of the picture.

    `central`: the part of `central_fraction` of each side, resized to the square, as the released program's.
    `shorter_side`: the picture resized to a shorter side of 8/7 of `pixels`, and of it the central square, as its
    classification scripts do with 256 and 224.
    """
    image = decode(jpeg)
    height, width = image.shape[:2]
    if preprocessing == "central":
        top, left = (int((side - side * central_fraction) / 2) for side in (height, width))
        crop = image[top: height - top, left: width - left].astype(np.float32)
        return scaled(cv2.resize(crop, (pixels, pixels), interpolation=cv2.INTER_LINEAR))
    scale = round(pixels * 8 / 7) / min(height, width)
    size = max(pixels, round(width * scale)), max(pixels, round(height * scale))
    resized = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    top, left = (size[1] - pixels) // 2, (size[0] - pixels) // 2
    return scaled(resized[top: top + pixels, left: left + pixels])


def scaled(image: np.ndarray) -> np.ndarray:
    """Values from 0 to 255 to values from -1 to 1."""
    return image * np.float32(1 / 127.5) - np.float32(1)


def recolour(image: np.ndarray, draw: Draws) -> np.ndarray:
    """From 0 to 255, as float32: brightness, saturation, hue and contrast, in one of the two released orders."""
    image = image + np.float32(255 * draw.brightness)
    image = _contrast(_colours(image, draw), draw) if draw.case == 0 else _colours(_contrast(image, draw), draw)
    return np.clip(image, 0, 255, out=image)


def _colours(image: np.ndarray, draw: Draws) -> np.ndarray:
    """Saturation and hue."""
    hsv = cv2.transform(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.array(
        [[1, 0, 0, 360 * (draw.hue % 1)], [0, draw.saturation, 0, 0], [0, 0, 1, 0]], np.float32))
    np.minimum(hsv[..., 1], 1, out=hsv[..., 1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _contrast(image: np.ndarray, draw: Draws) -> np.ndarray:
    """Around the mean of each channel."""
    mean = np.array(cv2.mean(image)[:3])
    return cv2.transform(image, np.column_stack([draw.contrast * np.eye(3), mean * (1 - draw.contrast)]))


def _rotated(crop: np.ndarray, draw: Draws, pixels: int) -> np.ndarray:
    """Resized, flipped, and turned about the centre, black where nothing is left."""
    cos, sin, centre = math.cos(draw.angle), math.sin(draw.angle), (pixels - 1) / 2
    turn = np.array([[cos, -sin, centre - cos * centre + sin * centre],
                     [sin, cos, centre - sin * centre - cos * centre], [0, 0, 1]])
    flip = np.array([[-1, 0, pixels - 1], [0, 1, 0], [0, 0, 1]]) if draw.flip else np.eye(3)
    x, y = crop.shape[1] / pixels, crop.shape[0] / pixels
    resize = np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
    return cv2.warpAffine(crop, (resize @ flip @ turn)[:2], (pixels, pixels),
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
