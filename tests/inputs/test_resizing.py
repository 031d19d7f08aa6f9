"""Evaluation resizes as the release does. Training resizes on a grid with a known shift."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.cbook import get_sample_data
from PIL import Image

from mlimages.inputs.preprocess import decode, evaluation_image, training_image


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """uint8 [600, 512, 3]."""
    return np.array(Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)))


def as_jpeg(picture: np.ndarray) -> bytes:
    """A JPEG without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling="4:4:4")
    return buffer.getvalue()


def resized_as_released(image: Any, pixels: int) -> np.ndarray:
    """Resized by TensorFlow 1, which the released program uses; levels of 255."""
    return tf.compat.v1.image.resize_bilinear(image[None], [pixels, pixels], align_corners=False)[0].numpy()


@pytest.mark.parametrize("pixels", [64, 224, 299])
def test_evaluation_is_the_released_central_crop(photograph: np.ndarray, pixels: int) -> None:
    body = as_jpeg(photograph)
    image = tf.image.central_crop(tf.io.decode_jpeg(body, channels=3), 0.8)
    expected = resized_as_released(image, pixels) / 127.5 - 1
    ours = evaluation_image(body, pixels=pixels, preprocessing="central", central_fraction=0.8)
    assert np.abs(ours - expected).max() < 1e-5


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (500, 375), (300, 300), (90, 301)])
def test_evaluation_of_the_classification_scripts_is_theirs(photograph: np.ndarray, size: tuple[int, int]) -> None:
    """The released code: a shorter side of 256, and the central 224 pixels."""
    body = as_jpeg(cv2.resize(photograph, size))
    image = tf.io.decode_jpeg(body, channels=3).numpy()
    new_height = new_width = 256.0
    if size[1] <= size[0]:
        new_width = size[0] / size[1] * new_height
    else:
        new_height = size[1] / size[0] * new_width
    image = cv2.resize(image, (int(new_width), int(new_height)))
    top, left = int((new_height - 224.0) / 2), int((new_width - 224.0) / 2)
    expected = (image[top: top + 224, left: left + 224] / 255.0 - 0.5) * 2.0
    ours = evaluation_image(body, pixels=224, preprocessing="shorter_side", central_fraction=1.0)
    assert np.abs(ours - expected).max() < 1e-5


def whole(jpeg: bytes, pixels: int) -> np.ndarray:
    """A whole square picture, as training resizes it."""
    out = np.empty((pixels, pixels, 3), np.uint8)
    training_image(jpeg, out, area=(1.0, 1.0), crop=(0.0, 0.0), place=(0.0, 0.0), flip=False, angle=None)
    return out


@pytest.mark.parametrize("scale", [1, 3, 5])
def test_training_resizes_as_released_with_a_known_shift(photograph: np.ndarray, scale: int) -> None:
    """The shift is (scale - 1) / 2 pixels of the picture."""
    body = as_jpeg(cv2.resize(photograph, (scale * 64, scale * 64)))
    shift = (scale - 1) // 2
    shifted = np.roll(decode(body), (-shift, -shift), axis=(0, 1))
    np.testing.assert_array_equal(whole(body, 64), resized_as_released(shifted, 64))


def test_on_a_photograph_that_shift_is_a_few_levels(photograph: np.ndarray) -> None:
    """At the scale of most pictures, from 300 to 224 pixels, the shift is a sixth of a pixel."""
    body = as_jpeg(cv2.resize(photograph[:512], (300, 300), interpolation=cv2.INTER_AREA))
    apart = np.abs(whole(body, 224) - resized_as_released(decode(body), 224))
    assert apart.mean() < 2.5 and np.sqrt(np.square(apart).mean()) < 5
