"""Pictures made smaller."""

import cv2
import numpy as np

cv2.setNumThreads(1)  # whoever calls has threads of its own

# Where libjpeg gives no more than one of so many pixels, it is faster.
RATIOS = (8, 4, 2, 1)
# By which pictures made smaller are most like those of a Lanczos filter: from how many times the wanted pixels of a
# side on the mean of areas is more so than a blur and bicubic, and that blur's standard deviation, in wanted pixels.
MANY, BLUR = 2.3, 0.33


def downscale(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [rows, columns, channels] at no more pixels than it has, free of aliasing.

    A Gaussian blur of 3 x 3 pixels and bicubic, which is nearer to Lanczos than the mean of areas, in half of the time
    of that; the mean of areas where there are MANY times as many pixels as wanted, or more.
    """
    times = pixels.shape[1] / width
    if times < MANY:
        pixels = cv2.GaussianBlur(pixels, (3, 3), BLUR * times)
    filtered = cv2.INTER_CUBIC if times < MANY else cv2.INTER_AREA
    return cv2.resize(pixels, (width, height), interpolation=filtered).reshape(height, width, -1)


def decode_ratio(scale: float) -> int:
    """What part of the pixels of each side libjpeg is to give where `scale` of them are wanted: one of RATIOS.

    Twice as many as are wanted, or all, so that nothing is seen of what it leaves out.
    """
    return next((ratio for ratio in RATIOS if 2 * scale * ratio <= 1), 1)
