"""Pictures with a colour profile are converted to sRGB when they are encoded again, and JPEGs on demand."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms
from tests.images.crafted import CMYK, PHOTO, PLAIN_CMYK, encoded, scene
from tests.images.profiles import SPACES, Space, grey_profile, in_srgb, profile

from mlimages.convert.encode_image import to_jpeg
from mlimages.download.check_image import Limits, check_image
from mlimages.images.decode import ImageFile

SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SOFT = Image.fromarray((np.asarray(scene()) // 2 + 64).astype(np.uint8))  # colours within sRGB's gamut


def converted(body: bytes, **options: bool) -> np.ndarray:
    return tf.io.decode_jpeg(to_jpeg(body, quality=100, **options).body, channels=3).numpy().astype(float)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_converted_pictures_are_in_srgb(space: Space, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    body = encoded(SOFT, kind, icc_profile=profile(space), **options)
    expected = in_srgb(np.asarray(SOFT), space)
    assert np.abs(expected - np.asarray(SOFT)).mean() > 3, "the profile matters"
    assert np.abs(ImageFile(body).pixels(1.0) - expected).mean() < 0.6
    assert np.abs(converted(body) - expected).mean() < 4  # a JPEG subsamples colour


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_jpeg_keeps_its_bytes_or_is_converted_with_to_srgb(space: Space) -> None:
    body = encoded(SOFT, icc_profile=profile(space), quality=100, subsampling=0)
    assert to_jpeg(body, quality=90).body == body
    in_its_own = tf.io.decode_jpeg(body).numpy()
    expected = in_srgb(in_its_own, space)
    assert np.abs(converted(body, to_srgb=True) - expected).mean() < 4 < np.abs(converted(body) - expected).mean() + 2


@pytest.mark.parametrize("body", [encoded(SOFT, icc_profile=SRGB_PROFILE), encoded(SOFT, icc_profile=b"garbage"),
                                  encoded(SOFT.convert("L"), icc_profile=SRGB_PROFILE), PHOTO],
                         ids=["sRGB", "garbage", "of another mode", "none"])
def test_a_profile_that_changes_nothing_needs_no_conversion(body: bytes) -> None:
    assert to_jpeg(body, quality=90, to_srgb=True).body == body


def test_pictures_that_download_downscales_are_in_srgb() -> None:
    space = SPACES["ProPhoto"]
    body = encoded(SOFT, icc_profile=profile(space), quality=100, subsampling=0)
    small = check_image(body, limits=Limits(2**31, 10**6), shorter_side=45, quality=100).body
    with Image.open(io.BytesIO(small)) as image:
        assert "icc_profile" not in image.info
    expected = in_srgb(np.asarray(SOFT.resize((60, 45), Image.Resampling.BOX)), space)
    assert np.abs(tf.io.decode_jpeg(small).numpy() - expected).mean() < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_grey_picture_with_a_grey_profile_stays_grey(kind: str) -> None:
    body = encoded(Image.new("L", (40, 20), 128), kind, icc_profile=grey_profile(1.0))
    jpeg = to_jpeg(body, quality=100, to_srgb=True)
    with Image.open(io.BytesIO(jpeg.body)) as image:
        assert image.mode == "L"
    assert np.abs(tf.io.decode_jpeg(jpeg.body).numpy().astype(int) - 188).max() <= 2  # half of the light


@pytest.mark.parametrize("adobe", [True, False])
def test_a_cmyk_jpeg_decodes_as_tensorflow_decodes_it(adobe: bool) -> None:
    body = CMYK if adobe else PLAIN_CMYK
    expected = tf.io.decode_jpeg(body, channels=3).numpy().astype(int)
    assert expected.std() > 20
    assert np.abs(ImageFile(body).pixels(1.0) - expected).mean() < 2
