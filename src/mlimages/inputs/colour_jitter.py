"""The colour jitter of a batch on the host, mostly as one 3 x 4 matrix for each image.

The released operations are brightness, contrast, saturation and hue. Brightness and contrast are linear in the colours;
saturation and hue are not. A matrix is fitted to the change that saturation and hue make on a grid of the image's
pixels. It then does all four operations at once, in a tenth of the time. If no matrix is exact enough, the released
arithmetic runs for every pixel. tests/inputs/test_preprocess.py compares the result with the released program's.
"""

from typing import Any

import cv2
import numpy as np

from mlimages.inputs.random_draws import AugmentationParams

GRID = 16  # by 16 pixels of an image
# The largest root mean square error of a matrix on the grid, in levels of 255.
NEAR_LEVELS = 4.0
# Ridge regression, relative to the mean square of values from 0 to 1: it keeps the matrix of a grey image from
# amplifying its noise.
RIDGE = 1e-5


def color_jitter(images: np.ndarray, drawn: AugmentationParams) -> None:
    """Jitter the colours of the images of cases 0 and 1, in place; `images` are uint8 [images, pixels, pixels, 3].

    Case 0 applies brightness, saturation, hue and contrast in this order; case 1 applies contrast before them.
    """
    chosen = np.flatnonzero(drawn.case < 2)
    if not len(chosen):
        return
    drawn = AugmentationParams(*(column[chosen] for column in drawn))
    first, last = (np.where(drawn.case == case, drawn.contrast, 1) for case in (1, 0))
    mean = np.array([cv2.mean(images[index])[:3] for index in chosen])
    before = _contrast(first, mean, 255 * drawn.brightness)
    matrices, errors = _fit(_grids(images)[chosen], before, drawn)
    middle = matrices[..., :3] @ mean[..., None] + matrices[..., 3:]
    matrices = last[:, None, None] * matrices
    matrices[..., 3:] += (1 - last)[:, None, None] * middle
    for number, index in enumerate(chosen):
        if errors[number] <= NEAR_LEVELS:
            cv2.transform(images[index], matrices[number], dst=images[index])
        else:
            exact = cv2.transform(images[index].astype(np.float32), before[number])
            exact = _saturation_and_hue(exact, drawn.saturation[number], drawn.hue[number])
            exact = cv2.transform(exact, _contrast(last[number], np.array(cv2.mean(exact)[:3])))
            images[index] = cv2.convertScaleAbs(np.maximum(exact, 0, out=exact))  # rounds, and stops at 255


def _grids(images: np.ndarray) -> np.ndarray:
    """About GRID x GRID pixels of each image: [images, GRID, GRID, 3]."""
    step = max(images.shape[1] // GRID, 1)
    return images[:, step // 2::step, step // 2::step]


def _contrast(factor: Any, mean: np.ndarray, brightness: Any = 0.0) -> np.ndarray:
    """Matrices [..., 3, 4] of contrast around the means [..., 3], and then brightness."""
    factor, brightness = np.asarray(factor)[..., None], np.asarray(brightness)[..., None]
    added = (1 - factor) * mean + brightness
    return np.concatenate([factor[..., None] * np.eye(3), added[..., None]], axis=-1)


def _fit(grids: np.ndarray, before: np.ndarray, drawn: AugmentationParams) -> tuple[np.ndarray, np.ndarray]:
    """Fit matrices to `before` followed by saturation and hue, on the grids.

    Returns the matrices [images, 3, 4], and the root mean square error of each in levels of 255, [images].
    """
    values = grids.reshape(len(grids), -1, 3) / 255
    inputs = np.concatenate([values, np.ones_like(values[..., :1])], axis=-1)
    linear = inputs @ (before * [255, 255, 255, 1]).transpose(0, 2, 1)
    change = _saturation_and_hue(linear.astype(np.float32), drawn.saturation[:, None], drawn.hue[:, None]) - linear
    transposed = inputs.transpose(0, 2, 1)
    solution = np.linalg.solve(transposed @ inputs + RIDGE * inputs.shape[1] * np.eye(4), transposed @ change)
    errors = np.sqrt(np.square(inputs @ solution - change).mean(axis=(1, 2)))
    return before + solution.transpose(0, 2, 1) / [255, 255, 255, 1], errors


def _saturation_and_hue(image: np.ndarray, saturation: Any, hue: Any) -> np.ndarray:
    """The released saturation and hue for float32 [height, width, 3], with a value for each row, or one for all."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] += 360 * (hue % 1)
    hsv[..., 1] *= saturation
    np.minimum(hsv[..., 1], 1, out=hsv[..., 1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
