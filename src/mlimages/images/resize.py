"""Downscale pictures."""

import functools
from typing import Any

import numpy as np

RATIOS = (8, 4, 2, 1)  # by which libjpeg can divide the sides of a picture; it is then faster
# Chosen to be as near as possible to a Lanczos filter. From this ratio of old to new sides on, the mean of areas is
# nearer than blur and bicubic. BLUR is the blur's standard deviation in new pixels.
AREA_RATIO, BLUR = 2.3, 0.33


def downscale(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Downscale uint8 [rows, columns, channels] to [height, width, channels] without aliasing.

    Below AREA_RATIO it blurs 3 x 3 pixels and interpolates bicubically, in half of the time of the mean of areas.
    """
    cv2, ratio = _opencv(), pixels.shape[1] / width
    interpolation = cv2.INTER_AREA
    if ratio < AREA_RATIO:
        pixels = cv2.GaussianBlur(pixels, (3, 3), BLUR * ratio)
        interpolation = cv2.INTER_CUBIC
    return cv2.resize(pixels, (width, height), interpolation=interpolation).reshape(height, width, -1)


def decode_ratio(scale: float) -> int:
    """The ratio, one of RATIOS, at which libjpeg should decode a picture that is then scaled by `scale`.

    The decoded sides are at least twice as long as the wanted ones, or complete, so that the result looks the same.
    """
    return next((ratio for ratio in RATIOS if 2 * scale * ratio <= 1), 1)


@functools.cache
def _opencv() -> Any:
    """OpenCV with one thread, since the callers have their own. It is loaded with the first picture that needs it."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
