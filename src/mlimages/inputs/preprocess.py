"""Preprocessing of JPEGs to squares on the host: the released program's operations in libjpeg-turbo and OpenCV.

JPEGs are decoded to the release's bits. In training the picture is resized to whole levels of 255, on OpenCV's grid: it
lies (scale - 1) / 2 of the picture's pixels aside of the release's. See recolour.py for what follows. For evaluation
nothing differs but rounding. `test_augment.py` and `test_resizing.py` in tests/train hold it beside TensorFlow.
"""

import math
import threading
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import simplejpeg
import tensorflow as tf

from mlimages.inputs.random_draws import crop_box

cv2.setNumThreads(1)  # the readers are the parallelism

Preprocessing = Literal["central", "shorter_side"]


class _Scratch(threading.local):
    """Memory that a thread keeps: asking the system for it anew costs a quarter of the time to decode."""

    pixels = np.empty(0, np.uint8)


_scratch = _Scratch()


def decode(jpeg: bytes, *, smooth_colours: bool = True) -> np.ndarray:
    """uint8 [height, width, 3] RGB, until this thread decodes another one; ValueError where it does not decode.

    Most JPEGs store one colour for 2 x 2 pixels. `smooth_colours` interpolates between these, as the release does;
    without it the four pixels have the same, in a tenth less of the time.
    """
    try:
        # Not strict: what convert has found to decode may have harmless faults, which libjpeg only warns of.
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg, strict=False)
        if _scratch.pixels.size < 3 * height * width:
            _scratch.pixels = np.empty(3 * height * width, np.uint8)
        return simplejpeg.decode_jpeg(jpeg, fastdct=True, fastupsample=not smooth_colours, strict=False,
                                      buffer=_scratch.pixels)
    except (ValueError, KeyError):  # of what libjpeg can, TurboJPEG's interface cannot unusual kinds of subsampling
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("its image does not decode")
    return image


def training_image(jpeg: bytes, out: np.ndarray, *, area: Sequence[float], crop: Sequence[float],
                   place: Sequence[float], flip: bool, angle: float | None) -> None:
    """A crop of such an area, by the draws `crop` and `place`, resized, flipped and rotated or not: to `out`, uint8.

    `out` is [pixels, pixels, 3], `angle` in radians.
    """
    image = decode(jpeg, smooth_colours=False)
    left, top, width, height = crop_box(image.shape[1], image.shape[0], area, crop, place)
    part = image[top: top + height, left: left + width]
    resized = cv2.resize(part, out.shape[:2], dst=None if flip or angle is not None else out,
                         interpolation=cv2.INTER_LINEAR)
    if flip:
        resized = cv2.flip(resized, 1, dst=out if angle is None else None)
    if angle is not None:
        _rotate(resized, angle, out)


def _rotate(image: np.ndarray, angle: float, out: np.ndarray) -> None:
    """Turned about its centre, black where nothing is left; each pixel is the nearest one, as released."""
    cos, sin, centre = math.cos(angle), math.sin(angle), (len(image) - 1) / 2
    turn = np.array([[cos, -sin, centre * (1 - cos + sin)], [sin, cos, centre * (1 - sin - cos)]])
    cv2.warpAffine(image, turn, image.shape[:2], dst=out, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)


def evaluation_image(jpeg: bytes, *, pixels: int, preprocessing: Preprocessing, central_fraction: float) -> np.ndarray:
    """`evaluation_crop` of a JPEG; ValueError where it does not decode."""
    return evaluation_crop(decode(jpeg), pixels=pixels, preprocessing=preprocessing, central_fraction=central_fraction)


def evaluation_crop(image: np.ndarray, *, pixels: int, preprocessing: Preprocessing,
                    central_fraction: float) -> np.ndarray:
    """The middle of a picture, uint8 [height, width, 3], as float32 [pixels, pixels, 3] from -1 to 1.

    `central`: the part of `central_fraction` of each side, resized to the square, as the released program does.
    `shorter_side`: the picture resized to a shorter side of 8/7 of `pixels`, and of it the central square, as its
    classification scripts do with 256 and 224, in whole levels.
    """
    if preprocessing == "central":
        height, width = image.shape[:2]
        top, left = (int((side - side * central_fraction) / 2) for side in (height, width))
        return scaled(_resized_as_released(image[top: height - top, left: width - left], pixels))
    resized = resize_shorter_side(image, round(pixels * 8 / 7))
    top, left = ((side - pixels) // 2 for side in resized.shape[:2])
    return scaled(resized[top: top + pixels, left: left + pixels])


def ten_crops(image: np.ndarray, *, pixels: int) -> np.ndarray:
    """Ten squares of a picture, uint8 [height, width, 3]: float32 [10, pixels, pixels, 3] from -1 to 1.

    The picture is resized to a shorter side of 8/7 of `pixels`. The squares are its centre and its four corners, then
    the same flipped left to right (Krizhevsky et al., NIPS 2012, section 4.1).
    """
    resized = resize_shorter_side(image, round(pixels * 8 / 7))
    down, right = (side - pixels for side in resized.shape[:2])
    corners = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
    crops = np.stack([resized[top: top + pixels, left: left + pixels] for top, left in corners])
    return scaled(np.concatenate([crops, crops[:, :, ::-1]]))


def resize_shorter_side(image: np.ndarray, shorter_side: int) -> np.ndarray:
    """A picture, uint8 [height, width, 3], resized bilinearly so that its shorter side has so many pixels."""
    height, width = (side * shorter_side // min(image.shape[:2]) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _resized_as_released(image: np.ndarray, pixels: int) -> np.ndarray:
    """Bilinear on the grid of TensorFlow 1: pixel i is taken at i times the scale, not from the middle of its part."""
    with tf.device("CPU"):
        return tf.raw_ops.ResizeBilinear(images=image[None], size=[pixels, pixels]).numpy()[0]


def scaled(images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Values from 0 to 255 to float32 from -1 to 1, in `out` if it is given."""
    values = np.multiply(images, np.float32(1 / 127.5), out=out)
    values -= 1
    return values
