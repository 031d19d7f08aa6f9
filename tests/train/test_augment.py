"""The preprocessing is the released program's arithmetic, as far as is said here."""

import io
import math
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mlimages.train.augment import decode, evaluation_image, recolour, training_image
from mlimages.train.draws import Draws, crop_box, draws

PIXELS = 96


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    """A picture with edges, slopes, noise and all colours, as photographs have them."""
    rng = np.random.default_rng(3)
    image = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    cv2.circle(image, (120, 90), 50, (250, 40, 30), -1)
    cv2.line(image, (0, 200), (319, 20), (10, 10, 20), 5)
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def drawn(number: int, **changed: Any) -> Draws:
    return Draws(*(column[0] for column in draws(1, number, number + 1)))._replace(**changed)


def made(jpeg: bytes, draw: Draws, *, rotate_and_recolour: bool = True) -> np.ndarray:
    """Ours, from -1 to 1."""
    out = np.empty((PIXELS, PIXELS, 3), np.float32)
    training_image(jpeg, draw, out, crop_area=(0.7, 1.0), rotate_and_recolour=rotate_and_recolour)
    return out


def released(jpeg: bytes, draw: Draws) -> np.ndarray:
    """The released sequence of operations with TensorFlow's own, on the same crop."""
    whole = decode(jpeg)
    left, top, width, height = crop_box(whole.shape[1], whole.shape[0], (0.7, 1.0), draw.crop, draw.place)
    image = tf.io.decode_jpeg(jpeg, channels=3)[top: top + height, left: left + width]
    image = tf.image.resize(image, (PIXELS, PIXELS), "bilinear") / 255
    image = tf.image.flip_left_right(image) if draw.flip else image
    if draw.case == 0:
        cos, sin, centre = math.cos(draw.angle), math.sin(draw.angle), (PIXELS - 1) / 2
        transform = [cos, -sin, centre - cos * centre + sin * centre, sin, cos, centre - sin * centre - cos * centre]
        image = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None], transforms=[[*transform, 0.0, 0.0]], output_shape=[PIXELS, PIXELS], fill_value=0.0,
            interpolation="BILINEAR", fill_mode="CONSTANT")[0]
    return (released_colours(image, draw) * 2 - 1).numpy() if draw.case < 2 else (image * 2 - 1).numpy()


def released_colours(image: Any, draw: Draws) -> Any:
    image = image + np.float32(draw.brightness)
    if draw.case == 1:
        image = tf.image.adjust_contrast(image, draw.contrast)
    image = tf.image.adjust_hue(tf.image.adjust_saturation(image, draw.saturation), draw.hue)
    if draw.case == 0:
        image = tf.image.adjust_contrast(image, draw.contrast)
    return tf.clip_by_value(image, 0.0, 1.0)


def levels(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far apart two pictures from -1 to 1 are, in levels of 255."""
    return np.abs(one - other) * 127.5


@pytest.mark.parametrize("case", [0, 1, 2])
def test_a_training_image_is_the_released_programs_within_a_few_levels(jpeg: bytes, case: int) -> None:
    """Resized to whole levels, which colours may stretch; a rotated picture is resampled once instead of twice."""
    for number in range(20):
        draw = drawn(number, case=case)
        apart = levels(made(jpeg, draw), released(jpeg, draw))
        if case == 0:
            assert apart.mean() < 8
        else:
            assert apart.mean() < 1 and apart.max() < (4 if case == 1 else 1)


@pytest.mark.parametrize("case", [0, 1])
def test_the_colours_are_the_released_programs(case: int) -> None:
    rng = np.random.default_rng(0)
    picture = rng.uniform(0, 255, (64, 64, 3)).astype(np.float32)
    for number in range(30):
        draw = drawn(number, case=case)
        expected = released_colours(tf.constant(picture / 255), draw).numpy() * 2 - 1
        ours = np.empty_like(picture)
        recolour(picture, draw, ours)
        apart = levels(ours, expected)
        assert np.quantile(apart, 0.999) < 0.1 and apart.max() < 8  # the rest: pixels darker than black in all colours


def test_without_rotation_and_colours_nothing_but_crop_and_flip_is_left(jpeg: bytes) -> None:
    for number in range(8):
        draw = drawn(number, case=0)
        ours = made(jpeg, draw, rotate_and_recolour=False)
        assert levels(ours, released(jpeg, draw._replace(case=np.array(2)))).max() < 1


def test_crops_have_the_areas_and_shapes_of_the_released_programs_sampler() -> None:
    """Means and spreads of width and height beside those of sample_distorted_bounding_box, for three shapes."""
    all_draws = draws(0, 0, 3000)
    for width, height in ((500, 375), (375, 500), (640, 360)):
        ours = np.array([crop_box(width, height, (0.7, 1.0), crop, place)
                         for crop, place in zip(all_draws.crop, all_draws.place, strict=True)])
        theirs = []
        for number in range(3000):
            begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
                [height, width, 3], [[[0.0, 0.0, 1.0, 1.0]]], [7, number], min_object_covered=0.0,
                aspect_ratio_range=(0.75, 1.33), area_range=(0.7, 1.0), max_attempts=100,
                use_image_if_no_bounding_boxes=True)
            theirs.append([begin[1], begin[0], size[1], size[0]])
        expected = np.array(theirs, np.float64)
        error = expected.std(axis=0) / np.sqrt(3000) + 0.5
        assert (np.abs(ours.mean(axis=0) - expected.mean(axis=0)) < 6 * error).all()
        np.testing.assert_allclose(ours.std(axis=0), expected.std(axis=0), rtol=0.1, atol=0.5)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 500), (500, 1), (33, 7), (4000, 300)])
def test_a_crop_lies_within_the_picture_whatever_its_shape(width: int, height: int) -> None:
    some = draws(2, 0, 200)
    for area in ((0.05, 1.0), (0.7, 1.0), (1.0, 1.0)):
        for crop, place in zip(some.crop, some.place, strict=True):
            left, top, columns, rows = crop_box(width, height, area, crop, place)
            assert 0 <= left and 0 < columns and left + columns <= width
            assert 0 <= top and 0 < rows and top + rows <= height


def test_draws_belong_to_a_record_whatever_is_drawn_beside_it() -> None:
    whole = draws(4, 0, 300)
    for first, last in ((0, 1), (63, 65), (100, 300)):
        for one, other in zip(draws(4, first, last), whole, strict=True):
            np.testing.assert_array_equal(one, other[first:last])
    assert (draws(5, 0, 64).angle != whole.angle[:64]).all()


def test_evaluation_is_the_released_central_crop(jpeg: bytes) -> None:
    image = tf.image.central_crop(tf.io.decode_jpeg(jpeg, channels=3), 0.8)
    expected = tf.image.resize(image, (PIXELS, PIXELS), "bilinear").numpy() / 127.5 - 1
    ours = evaluation_image(jpeg, pixels=PIXELS, preprocessing="central", central_fraction=0.8)
    assert levels(ours, expected).max() < 0.1


def test_evaluation_of_the_classification_scripts_takes_256_and_224(jpeg: bytes) -> None:
    image = tf.image.resize(tf.io.decode_jpeg(jpeg, channels=3), (256, 341), "bilinear")
    expected = image[16:240, 58:282].numpy() / 127.5 - 1
    ours = evaluation_image(jpeg, pixels=224, preprocessing="shorter_side", central_fraction=1.0)
    assert levels(ours, expected).max() < 0.1


def test_jpegs_decode_as_tensorflow_decodes_them(jpeg: bytes) -> None:
    """To the bit; and also where chroma has more pixels than luma, which TurboJPEG's interface does not know."""
    np.testing.assert_array_equal(decode(jpeg), tf.io.decode_jpeg(jpeg, channels=3))
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(buffer, "JPEG", subsampling="4:2:0")
    frame = buffer.getvalue().index(b"\xff\xc0")
    factors = [frame + place for place in (11, 14)]  # of luma and the first chroma: exchanged
    odd = bytearray(buffer.getvalue())
    odd[factors[0]], odd[factors[1]] = odd[factors[1]], odd[factors[0]]
    assert tf.io.decode_jpeg(bytes(odd)).shape == decode(bytes(odd)).shape == (16, 16, 3)


def test_a_picture_larger_or_smaller_than_the_one_before_is_decoded_alike(jpeg: bytes) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((999, 777)).save(buffer, "JPEG")
    before = decode(jpeg).copy()
    assert decode(buffer.getvalue()).shape == (777, 999, 3)
    np.testing.assert_array_equal(decode(jpeg), before)


def test_a_grey_jpeg_becomes_rgb_and_what_is_none_is_refused() -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "JPEG")
    image = decode(buffer.getvalue())
    assert image.shape == (256, 256, 3) and (image[..., 0] == image[..., 2]).all()
    with pytest.raises(ValueError, match="does not decode"):
        decode(b"\xff\xd8 no picture")
