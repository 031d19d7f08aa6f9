"""The preprocessing equals the released program's within stated tolerances."""

import dataclasses
import io
import math
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.cbook import get_sample_data
from PIL import Image

from mlimages.core.params import Train
from mlimages.inputs.augmentation import TensorAugmentation
from mlimages.inputs.colour_jitter import NEAR_LEVELS, color_jitter
from mlimages.inputs.preprocess import decode, training_image
from mlimages.inputs.random_draws import AugmentationParams, crop_box, draw_augmentation

PIXELS = 96
AREA = (0.7, 1.0)


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    """A picture with edges, gradients, noise and all colours, without chroma subsampling."""
    rng = np.random.default_rng(3)
    image = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    cv2.circle(image, (120, 90), 50, (250, 40, 30), -1)
    cv2.line(image, (0, 200), (319, 20), (10, 10, 20), 5)
    return as_jpeg(np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """A photograph, uint8 [600, 512, 3]."""
    return np.array(Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)))


def as_jpeg(picture: np.ndarray, subsampling: str = "4:4:4", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=subsampling, **options)
    return buffer.getvalue()


def drawn(number: int, **changed: Any) -> AugmentationParams:
    return AugmentationParams(*(column[0] for column in draw_augmentation(1, number, number + 1)))._replace(**changed)


def made(jpeg: bytes, draw: AugmentationParams, *, coloured: bool = True) -> np.ndarray:
    """The picture by this project, in levels of 255."""
    out = np.empty((PIXELS, PIXELS, 3), np.uint8)
    training_image(jpeg, out, area=AREA, crop=draw.crop.tolist(), place=draw.place.tolist(), flip=bool(draw.flip),
                   angle=float(draw.angle) if coloured and draw.case == 0 else None)
    return recoloured(out, draw) if coloured else out


def recoloured(picture: np.ndarray, draw: AugmentationParams) -> np.ndarray:
    """The picture after colour jitter, in a batch of its own."""
    batch = picture[None].copy()
    color_jitter(batch, AugmentationParams(*(np.array([one]) for one in draw)))
    return batch[0]


def released(jpeg: bytes, draw: AugmentationParams) -> np.ndarray:
    """The released sequence of operations, by TensorFlow 2, on the same crop."""
    whole = decode(jpeg)
    left, top, width, height = crop_box(whole.shape[1], whole.shape[0], AREA, draw.crop.tolist(), draw.place.tolist())
    image = tf.io.decode_jpeg(jpeg, channels=3)[top: top + height, left: left + width]
    image = tf.image.resize(image, (PIXELS, PIXELS), "bilinear") / 255
    return 255 * released_changes(tf.image.flip_left_right(image) if draw.flip else image, draw).numpy()


def released_changes(image: Any, draw: AugmentationParams) -> Any:
    """Rotation and colours of a picture with values from 0 to 1."""
    if draw.case == 0:
        cos, sin, centre = math.cos(draw.angle), math.sin(draw.angle), (PIXELS - 1) / 2
        transform = [cos, -sin, centre - cos * centre + sin * centre, sin, cos, centre - sin * centre - cos * centre]
        image = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None], transforms=[[*transform, 0.0, 0.0]], output_shape=[PIXELS, PIXELS], fill_value=0.0,
            interpolation="NEAREST", fill_mode="CONSTANT")[0]
    return released_colours(image, draw) if draw.case < 2 else image


def released_colours(image: Any, draw: AugmentationParams) -> Any:
    image = image + np.float32(draw.brightness)
    if draw.case == 1:
        image = tf.image.adjust_contrast(image, draw.contrast)
    image = tf.image.adjust_hue(tf.image.adjust_saturation(image, draw.saturation), draw.hue)
    if draw.case == 0:
        image = tf.image.adjust_contrast(image, draw.contrast)
    return tf.clip_by_value(image, 0.0, 1.0)


def levels(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The absolute differences of two pictures."""
    return np.abs(one - other.astype(np.float32))


def test_a_picture_that_is_not_recoloured_is_the_released_programs_to_a_level(jpeg: bytes) -> None:
    for number in range(20):
        draw = drawn(number, case=2)
        assert levels(made(jpeg, draw), released(jpeg, draw)).max() < 1


def test_colours_stored_once_for_four_pixels_are_the_released_programs_to_a_level(photograph: np.ndarray) -> None:
    """On average over a photograph's pixels; at edges of saturated colours the difference is larger."""
    body = as_jpeg(photograph, "4:2:0")
    for number in range(10):
        draw = drawn(number, case=2)
        apart = levels(made(body, draw), released(body, draw))
        assert apart.mean() < 1 and np.sqrt(np.square(apart).mean()) < 2


def test_a_rotated_picture_is_the_released_programs(jpeg: bytes) -> None:
    """To a level, except for one in a hundred pixels, whose source lies midway between two pixels."""
    for number in range(20):
        draw = drawn(number, case=0, brightness=0.0, saturation=1.0, hue=0.0, contrast=1.0)
        apart = levels(made(jpeg, draw), released(jpeg, draw)).max(axis=-1)
        assert (apart < 1).mean() > 0.99


@pytest.mark.parametrize("case", [0, 1])
def test_a_photographs_colours_are_the_released_programs_within_a_few_levels(photograph: np.ndarray, case: int) -> None:
    """With one matrix. Contrast can multiply its error by 1.5. Tests the worst draw, and the average over draws."""
    means = []
    for number in range(40):
        draw = drawn(number, case=case, angle=0.0)
        picture = cv2.resize(photograph[number * 7:][:300], (PIXELS, PIXELS))
        expected = 255 * released_colours(tf.constant(picture / 255, tf.float32), draw).numpy()
        apart = levels(recoloured(picture, draw), expected)
        assert np.sqrt(np.square(apart).mean()) < 1.5 * NEAR_LEVELS
        means.append(apart.mean())
    assert np.mean(means) < 1


@pytest.mark.parametrize("case", [0, 1])
def test_colours_that_no_matrix_reaches_are_the_released_programs(case: int) -> None:
    """To half a level, except for pixels that become darker than black in all colours."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for number in range(30):
        draw = drawn(number, case=case, angle=0.0, saturation=1.5, hue=0.15 + 0.001 * number)
        expected = 255 * released_colours(tf.constant(picture / 255, tf.float32), draw).numpy()
        apart = levels(recoloured(picture, draw), expected)
        assert np.quantile(apart, 0.99) < 0.51 and apart.max() < 12


def test_what_the_device_does_is_the_released_arithmetic(photograph: np.ndarray, small_train: Train) -> None:
    """To a hundredth of a level, except for pixels whose source a rotation puts between two pixels."""
    pictures = np.stack([cv2.resize(photograph[place:][:300], (PIXELS, PIXELS)) for place in range(0, 288, 12)])
    params = dataclasses.replace(small_train, pixels=PIXELS, rotate_and_color_jitter=True, augment_on="device")
    device, some = TensorAugmentation(params, device=True), draw_augmentation(1, 0, len(pictures))
    found, _ = device(tf.constant(pictures), tf.zeros((len(pictures), 4)), device.random_values(some, 0))
    assert {0, 1, 2} == {*some.case}
    for number, picture in enumerate(pictures):
        expected = 255 * released_changes(tf.constant(picture / 255, tf.float32), drawn(number)).numpy()
        assert (levels((found[number].numpy() + 1) * 127.5, expected).max(axis=-1) < 0.01).mean() > 0.99, number


def test_a_pictures_colours_do_not_depend_on_those_beside_it(photograph: np.ndarray) -> None:
    pictures = np.stack([cv2.resize(photograph[place:][:300], (PIXELS, PIXELS)) for place in range(0, 240, 20)])
    batch = pictures.copy()
    color_jitter(batch, draw_augmentation(1, 0, len(batch)))
    for number, picture in enumerate(pictures):
        np.testing.assert_array_equal(recoloured(picture, drawn(number)), batch[number])
    assert {0, 1, 2} == {*draw_augmentation(1, 0, len(batch)).case}


def test_without_rotation_and_colours_nothing_but_crop_and_flip_is_left(jpeg: bytes) -> None:
    for number in range(8):
        draw = drawn(number, case=0)
        ours = made(jpeg, draw, coloured=False)
        assert levels(ours, released(jpeg, draw._replace(case=np.array(2)))).max() < 1


def test_crops_have_the_areas_and_shapes_of_the_released_programs_sampler() -> None:
    """The means and standard deviations of crops equal those of sample_distorted_bounding_box, for three shapes."""
    all_draws = draw_augmentation(0, 0, 3000)
    for width, height in ((500, 375), (375, 500), (640, 360)):
        ours = np.array([crop_box(width, height, AREA, crop, place)
                         for crop, place in zip(all_draws.crop.tolist(), all_draws.place.tolist(), strict=True)])
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
    some = draw_augmentation(2, 0, 200)
    for area in ((0.05, 1.0), (0.7, 1.0), (1.0, 1.0)):
        for crop, place in zip(some.crop.tolist(), some.place.tolist(), strict=True):
            left, top, columns, rows = crop_box(width, height, area, crop, place)
            assert 0 <= left and 0 < columns and left + columns <= width
            assert 0 <= top and 0 < rows and top + rows <= height


def test_draws_belong_to_a_record_whatever_is_drawn_beside_it() -> None:
    whole = draw_augmentation(4, 0, 300)
    for first, last in ((0, 1), (63, 65), (100, 300)):
        for one, other in zip(draw_augmentation(4, first, last), whole, strict=True):
            np.testing.assert_array_equal(one, other[first:last])
    assert (draw_augmentation(5, 0, 64).angle != whole.angle[:64]).all()


@pytest.mark.parametrize("kind", [
    {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"subsampling": "4:2:0"}, {"mode": "L"},
    {"subsampling": "4:2:0", "progressive": True}], ids=lambda kind: " ".join(map(str, kind.values())))
@pytest.mark.parametrize("size", [(512, 600), (333, 251), (17, 1)])
def test_jpegs_decode_as_tensorflow_decodes_them(photograph: np.ndarray, size: tuple[int, int],
                                                 kind: dict[str, Any]) -> None:
    """The bits are equal."""
    mode = kind.get("mode", "RGB")
    body = as_jpeg(np.array(Image.fromarray(photograph).resize(size).convert(mode)),
                   **{name: value for name, value in kind.items() if name != "mode"})
    np.testing.assert_array_equal(decode(body), tf.io.decode_jpeg(body, channels=3))


def test_a_jpeg_with_more_colours_than_brightness_decodes() -> None:
    """TurboJPEG's interface does not support such files."""
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
