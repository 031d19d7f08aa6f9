"""Undamaged JPEGs are decoded fast, and downscaled nearly as by a Lanczos filter."""

import io
import random
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from PIL import Image
from tests.faults import damage_image

from mlimages.images.decode import DECODER_ERRORS, ORIENTATION, read_orientation
from mlimages.images.formats import FORMATS
from mlimages.images.jpeg import decode_flawless
from mlimages.images.resize import downscale

FRAMES = range(0xC0, 0xD0)


def texture(side: int, mode: str = "RGB") -> Image.Image:
    """Noise at several scales, stronger at coarse ones, as in photographs."""
    rng = np.random.default_rng(0)
    octaves = [cv2.resize(rng.standard_normal((size, size, 3)), (side, side), interpolation=cv2.INTER_CUBIC) / size**0.5
               for size in (4, 8, 16, 32, 64, 128, side)]
    noise = np.sum(octaves, axis=0)
    return Image.fromarray(np.clip(127 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)).convert(mode)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def fast(body: bytes, scale: float = 0) -> np.ndarray | None:
    """Decode with `decode_flawless`. Returns None also if Pillow cannot open the file."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            return decode_flawless(body, image, scale)
    except DECODER_ERRORS:
        return None


def decodes_elsewhere(body: bytes) -> bool:
    """Whether both Pillow and TensorFlow decode it completely."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            image.load()
        return bool(tf.io.decode_jpeg(body).shape)
    except (*DECODER_ERRORS, tf.errors.InvalidArgumentError):
        return False


def damaged_or_of_another_kind(body: bytes, rng: random.Random) -> bytes:
    """Damage a JPEG or, in one of five cases, change the kind of its frame."""
    if rng.randrange(5):
        return damage_image(body, rng)
    frame = next(at for at in range(len(body)) if body[at: at + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return body[:frame + 1] + bytes([rng.choice(FRAMES)]) + body[frame + 2:]


KINDS: list[dict[str, Any]] = [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}]
BODIES = [jpeg(texture(96, mode), **options) for options in KINDS for mode in ("RGB", "L")]


@pytest.mark.parametrize("scale", [0, 0.2, 1])
def test_other_decoders_accept_whatever_the_fast_one_accepts(scale: float) -> None:
    rng = random.Random(scale)  # noqa: S311 - it damages pictures
    bodies = [damaged_or_of_another_kind(rng.choice(BODIES), rng) for _ in range(300)]
    accepted = [body for body in bodies if fast(body, scale) is not None]
    assert all(decodes_elsewhere(body) for body in accepted)
    assert 30 < len(accepted) < 200


@pytest.mark.parametrize("body", BODIES)
def test_a_jpeg_decodes_to_the_same_pixels_as_with_pillow(body: bytes) -> None:
    pixels = fast(body, 1)
    assert pixels is not None
    with Image.open(io.BytesIO(body)) as image:
        np.testing.assert_array_equal(pixels.squeeze(), np.asarray(image))


# 8 x 8 grey pixels with lossless coding: every one is as predicted, which is coded by two zero bits.
LOSSLESS = (b"\xff\xd8\xff\xc3\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00\xff\xc4\x00\x1f\x00\x00\x01\x05"
            + b"\x01" * 6 + bytes(7) + bytes(range(12))
            + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + bytes(16) + b"\xff\xd9")


def test_the_fast_decoder_refuses_kinds_that_others_do_not_decode() -> None:
    assert (simplejpeg.decode_jpeg(LOSSLESS, colorspace="GRAY") == 128).all()
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_jpeg(LOSSLESS)
    assert fast(LOSSLESS) is None


@pytest.mark.parametrize(("scale", "side"), [(0, 12), (0.05, 12), (0.1, 24), (0.2, 48), (0.25, 48), (0.3, 96), (1, 96)])
def test_at_least_twice_the_wanted_pixels_or_all_are_decoded(scale: float, side: int) -> None:
    pixels = fast(BODIES[0], scale)
    assert pixels is not None and pixels.shape == (side, side, 3)


@pytest.mark.parametrize("share, closer", [(0.9, 2.0), (0.683, 1.0), (0.55, 1.0), (0.45, 1.1), (0.3, 0.999)])
def test_downscaling_is_nearer_to_lanczos_than_the_mean_of_areas(
        share: float, closer: float) -> None:
    pixels, side = cv2.GaussianBlur(np.asarray(texture(400)), (3, 3), 0.4), round(share * 400)  # as by a lens
    best = np.stack([np.asarray(Image.fromarray(channel.astype(np.float32)).resize(
        (side, side), Image.Resampling.LANCZOS)) for channel in np.moveaxis(pixels, 2, 0)], axis=2)
    ours, areas = downscale(pixels, side, side), cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    assert closer * np.square(ours - best).mean() < np.square(areas - best).mean()


@pytest.mark.parametrize(("tag", "expected"), [
    (b"\x03\x00\x01\x00\x00\x00\x06\x00", 6), (b"\x03\x00\x01\x00\x00\x00\x08\x00", 8),
    (b"\x03\x00\x01\x00\x00\x00\x09\x00", 1), (b"\x02\x00\x02\x00\x00\x00\x36\x00", 1)],
    ids=["6", "8", "9", "text"])
def test_the_orientation_is_one_of_eight_for_any_tag(tag: bytes, expected: int) -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + ORIENTATION.to_bytes(2, "little") + tag + bytes(6)
    with Image.open(io.BytesIO(jpeg(texture(16), exif=exif))) as image:
        assert read_orientation(image) == expected
