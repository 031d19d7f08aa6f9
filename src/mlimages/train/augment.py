"""Preprocessing of JPEGs to squares on the host: the released program's operations in libjpeg-turbo and OpenCV.

What differs from it in training: the picture is resized to whole levels of 255, and a rotated one is resampled once,
crop, resize, flip and rotation together, where the release resamples twice. `tests/train/test_augment.py` says by how
much. JPEGs are decoded to the release's bits, and for evaluation nothing differs but rounding.
"""

import math
import threading
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg

from mlimages.train.draws import Draws, crop_box

cv2.setNumThreads(1)  # the readers are the parallelism

Preprocessing = Literal["central", "shorter_side"]


class _Scratch(threading.local):
    """Memory that a thread keeps: asking the system for it anew costs a quarter of the time to decode."""

    pixels = np.empty(0, np.uint8)


_scratch = _Scratch()


def decode(jpeg: bytes) -> np.ndarray:
    """uint8 [height, width, 3] RGB, until this thread decodes another one; ValueError where it does not decode."""
    try:
        # Not strict: what convert has found to decode may have harmless faults, which libjpeg only warns of.
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg, strict=False)
        if _scratch.pixels.size < 3 * height * width:
            _scratch.pixels = np.empty(3 * height * width, np.uint8)
        return simplejpeg.decode_jpeg(jpeg, fastdct=True, strict=False, buffer=_scratch.pixels)
    except (ValueError, KeyError):  # of what libjpeg can, TurboJPEG's interface cannot unusual kinds of subsampling
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("its image does not decode")
    return image


def training_image(jpeg: bytes, draw: Draws, out: np.ndarray, *, crop_area: tuple[float, float],
                   rotate_and_recolour: bool) -> None:
    """A random crop, flipped with probability 1/2, and in one of three cases rotated and in two recoloured.

    `out` [pixels, pixels, 3] takes it, as uint8, or as float32 from -1 to 1.
    """
    image = decode(jpeg)
    left, top, width, height = crop_box(image.shape[1], image.shape[0], crop_area, draw.crop, draw.place)
    crop = image[top: top + height, left: left + width]
    if rotate_and_recolour and draw.case == 0:
        image = _rotated(crop, draw, len(out))
    else:
        image = cv2.resize(crop, out.shape[:2], interpolation=cv2.INTER_LINEAR)
        image = cv2.flip(image, 1) if draw.flip else image
    if rotate_and_recolour and draw.case < 2:
        recolour(image, draw, out)
    else:
        _store(image, out)


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


def recolour(image: np.ndarray, draw: Draws, out: np.ndarray) -> None:
    """Brightness, saturation, hue and contrast, in one of the two released orders, from `image` to `out`."""
    brightness = 255 * float(draw.brightness)
    if draw.case == 1:
        first = _contrast(draw, cv2.mean(image), brightness)
        image = _colours(cv2.transform(image.astype(np.float32), first), draw)
    else:
        image = _colours(cv2.transform(image.astype(np.float32), _scaling(1, [brightness] * 3)), draw)
        image = cv2.transform(image, _contrast(draw, cv2.mean(image)))
    _store(image, out)


def _colours(image: np.ndarray, draw: Draws) -> np.ndarray:
    """Saturation and hue."""
    hsv = cv2.transform(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.array(
        [[1, 0, 0, 360 * (draw.hue % 1)], [0, draw.saturation, 0, 0], [0, 0, 1, 0]], np.float32))
    np.minimum(hsv[..., 1], 1, out=hsv[..., 1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _contrast(draw: Draws, mean: Any, brightness: float = 0.0) -> np.ndarray:
    """Around the mean of each channel, of what is made brighter first."""
    factor = float(draw.contrast)
    return _scaling(factor, [(1 - factor) * channel + brightness for channel in mean[:3]])


def _scaling(factor: float, added: list[float]) -> np.ndarray:
    """For cv2.transform: all channels by the same factor, and what is added to each."""
    red, green, blue = added
    return np.array([[factor, 0, 0, red], [0, factor, 0, green], [0, 0, factor, blue]], np.float32)


def _store(image: np.ndarray, out: np.ndarray) -> None:
    """Values from 0 to 255, clipped to that, as `out` has them."""
    if out.dtype == np.float32:
        np.clip(scaled(image), -1, 1, out=out)
    elif image.dtype == np.float32:
        cv2.convertScaleAbs(np.maximum(image, 0, out=image), dst=out)  # rounds, and stops at 255
    else:
        out[...] = image


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
