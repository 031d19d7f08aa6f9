"""The colours of a batch on the host, with what `draws.py` draws, mostly as one matrix for each picture.

Of the released operations, brightness and contrast only scale and shift the colours; saturation and hue bend them. What
these two change on a grid of a picture's pixels is what a matrix is fitted to, which then does everything at once, in
a tenth of the time. Where no matrix comes near, the released arithmetic is done for every pixel.
`tests/train/test_augment.py` says how near that is.
"""

from typing import Any

import cv2
import numpy as np

from mlimages.inputs.random_draws import Draws

GRID = 16  # by 16 pixels of a picture
NEAR_LEVELS = 4.0  # of 255, root mean square on the grid, that a matrix may be from the released saturation and hue
# Of the mean square of values from 0 to 1: what keeps the matrix of a grey picture from stretching the noise in it.
RIDGE = 1e-5


def recolour(images: np.ndarray, drawn: Draws) -> None:
    """Recolour those of cases 0 and 1, in `images`, uint8 [images, pixels, pixels, 3].

    Brightness, saturation, hue and contrast are applied in this order in case 0, contrast before them in case 1.
    """
    some = np.flatnonzero(drawn.case < 2)
    if not len(some):
        return
    drawn = Draws(*(column[some] for column in drawn))
    first, last = (np.where(drawn.case == case, drawn.contrast, 1) for case in (1, 0))
    mean = np.array([cv2.mean(images[index])[:3] for index in some])
    before = _contrast(first, mean, 255 * drawn.brightness)
    matrices, levels = _fitted(_grids(images)[some], before, drawn)
    middle = matrices[..., :3] @ mean[..., None] + matrices[..., 3:]
    matrices = last[:, None, None] * matrices
    matrices[..., 3:] += (1 - last)[:, None, None] * middle
    for number, index in enumerate(some):
        if levels[number] <= NEAR_LEVELS:
            cv2.transform(images[index], matrices[number], dst=images[index])
        else:
            bent = cv2.transform(images[index].astype(np.float32), before[number])
            bent = _bent(bent, drawn.saturation[number], drawn.hue[number])
            bent = cv2.transform(bent, _contrast(last[number], np.array(cv2.mean(bent)[:3])))
            images[index] = cv2.convertScaleAbs(np.maximum(bent, 0, out=bent))  # rounds, and stops at 255


def _grids(images: np.ndarray) -> np.ndarray:
    """About GRID x GRID pixels of each: [images, GRID, GRID, 3]."""
    step = max(images.shape[1] // GRID, 1)
    return images[:, step // 2::step, step // 2::step]


def _contrast(factor: Any, mean: np.ndarray, brightness: Any = 0.0) -> np.ndarray:
    """Matrices [..., 3, 4] of contrast around means [..., 3], and then brightness."""
    factor, brightness = np.asarray(factor)[..., None], np.asarray(brightness)[..., None]
    added = (1 - factor) * mean + brightness
    return np.concatenate([factor[..., None] * np.eye(3), added[..., None]], axis=-1)


def _fitted(grids: np.ndarray, before: np.ndarray, drawn: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Matrices [images, 3, 4] for `before` and then saturation and hue, as near to them as can be on the grids.

    And how near each is: the root of the mean square distance, in levels of 255, [images].
    """
    values = grids.reshape(len(grids), -1, 3) / 255
    given = np.concatenate([values, np.ones_like(values[..., :1])], axis=-1)
    plain = given @ (before * [255, 255, 255, 1]).transpose(0, 2, 1)
    change = _bent(plain.astype(np.float32), drawn.saturation[:, None], drawn.hue[:, None]) - plain
    turned = given.transpose(0, 2, 1)
    solution = np.linalg.solve(turned @ given + RIDGE * given.shape[1] * np.eye(4), turned @ change)
    levels = np.sqrt(np.square(given @ solution - change).mean(axis=(1, 2)))
    return before + solution.transpose(0, 2, 1) / [255, 255, 255, 1], levels


def _bent(image: np.ndarray, saturation: Any, hue: Any) -> np.ndarray:
    """The released saturation and hue of float32 [height, width, 3], by the row, or the same for all."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] += 360 * (hue % 1)
    hsv[..., 1] *= saturation
    np.minimum(hsv[..., 1], 1, out=hsv[..., 1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
