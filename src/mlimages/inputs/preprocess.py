"""Preprocessing of JPEGs to squares on the host: the released program's operations in libjpeg-turbo and OpenCV.

JPEGs decode to the same bits as in the release. Training resizes to uint8 on OpenCV's pixel grid, which is shifted
against the release's by (scale - 1) / 2 of the image's pixels. The colour jitter is in colour_jitter.py. Evaluation
differs from the release only by rounding. tests/inputs compares both with TensorFlow.
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


class _DecodeBuffer(threading.local):
    """Memory that a thread reuses: allocating it for every image costs a quarter of the time to decode."""

    pixels = np.empty(0, np.uint8)


_buffer = _DecodeBuffer()


def decode(jpeg: bytes, *, smooth_chroma: bool = True) -> np.ndarray:
    """An image as RGB, uint8 [height, width, 3]. It is valid until the same thread decodes another image.

    Most JPEGs store one colour for 2 x 2 pixels. `smooth_chroma` interpolates between them, as the release does;
    without it the four pixels share a colour, which saves a tenth of the time. Raises ValueError if the
    bytes do not decode.
    """
    try:
        # Not strict: convert accepts harmless faults, of which libjpeg only warns.
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg, strict=False)
        if _buffer.pixels.size < 3 * height * width:
            _buffer.pixels = np.empty(3 * height * width, np.uint8)
        return simplejpeg.decode_jpeg(jpeg, fastdct=True, fastupsample=not smooth_chroma, strict=False,
                                      buffer=_buffer.pixels)
    except (ValueError, KeyError):  # TurboJPEG's interface lacks unusual kinds of subsampling, which libjpeg decodes
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("its image does not decode")
    return image


def training_image(jpeg: bytes, out: np.ndarray, *, area: Sequence[float], crop: Sequence[float],
                   place: Sequence[float], flip: bool, angle: float | None) -> None:
    """Decode, crop, resize and, optionally, flip and rotate an image into `out`, uint8 [pixels, pixels, 3].

    `area`, `crop` and `place` are the arguments of `crop_box`; `angle` is in radians.
    """
    image = decode(jpeg, smooth_chroma=False)
    left, top, width, height = crop_box(image.shape[1], image.shape[0], area, crop, place)
    part = image[top: top + height, left: left + width]
    resized = cv2.resize(part, out.shape[:2], dst=None if flip or angle is not None else out,
                         interpolation=cv2.INTER_LINEAR)
    if flip:
        resized = cv2.flip(resized, 1, dst=out if angle is None else None)
    if angle is not None:
        _rotate(resized, angle, out)


def _rotate(image: np.ndarray, angle: float, out: np.ndarray) -> None:
    """Rotate about the centre, by the nearest pixel, and fill the corners with black, as the release does."""
    cos, sin, centre = math.cos(angle), math.sin(angle), (len(image) - 1) / 2
    turn = np.array([[cos, -sin, centre * (1 - cos + sin)], [sin, cos, centre * (1 - sin - cos)]])
    cv2.warpAffine(image, turn, image.shape[:2], dst=out, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)


def evaluation_image(jpeg: bytes, *, pixels: int, preprocessing: Preprocessing, central_fraction: float) -> np.ndarray:
    """`evaluation_crop` of a JPEG. Raises ValueError if it does not decode."""
    return evaluation_crop(decode(jpeg), pixels=pixels, preprocessing=preprocessing, central_fraction=central_fraction)


def evaluation_crop(image: np.ndarray, *, pixels: int, preprocessing: Preprocessing,
                    central_fraction: float) -> np.ndarray:
    """The central part of an image, uint8 [height, width, 3], as float32 [pixels, pixels, 3] from -1 to 1.

    `central`: the part of `central_fraction` of each side, resized to the square, as the released program does.
    `shorter_side`: the central square of the picture resized to a shorter side of 8/7 of `pixels`, in uint8. The
    release's classification scripts do that with 256 and 224.
    """
    if preprocessing == "central":
        height, width = image.shape[:2]
        top, left = (int((side - side * central_fraction) / 2) for side in (height, width))
        return to_unit_range(_resized_as_released(image[top: height - top, left: width - left], pixels))
    resized = resize_shorter_side(image, round(pixels * 8 / 7))
    top, left = ((side - pixels) // 2 for side in resized.shape[:2])
    return to_unit_range(resized[top: top + pixels, left: left + pixels])


def ten_crops(image: np.ndarray, *, pixels: int) -> np.ndarray:
    """Ten squares of a picture, uint8 [height, width, 3]: float32 [10, pixels, pixels, 3] from -1 to 1.

    The picture is resized to a shorter side of 8/7 of `pixels`. The squares are its centre and its four corners, then
    the same flipped left to right (Krizhevsky et al., NIPS 2012, section 4.1).
    """
    resized = resize_shorter_side(image, round(pixels * 8 / 7))
    down, right = (side - pixels for side in resized.shape[:2])
    corners = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
    crops = np.stack([resized[top: top + pixels, left: left + pixels] for top, left in corners])
    return to_unit_range(np.concatenate([crops, crops[:, :, ::-1]]))


def resize_shorter_side(image: np.ndarray, shorter_side: int) -> np.ndarray:
    """Resize a picture, uint8 [height, width, 3], bilinearly, so that its shorter side has `shorter_side` pixels."""
    height, width = (side * shorter_side // min(image.shape[:2]) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _resized_as_released(image: np.ndarray, pixels: int) -> np.ndarray:
    """Bilinear on the grid of TensorFlow 1: pixel i is sampled at i times the scale, not at the centre of its area."""
    with tf.device("CPU"):
        return tf.raw_ops.ResizeBilinear(images=image[None], size=[pixels, pixels]).numpy()[0]


def to_unit_range(images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Map values from 0 to 255 to float32 from -1 to 1, into `out` if it is given."""
    values = np.multiply(images, np.float32(1 / 127.5), out=out)
    values -= 1
    return values
