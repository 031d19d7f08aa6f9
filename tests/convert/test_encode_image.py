"""A picture becomes an upright RGB or grey JPEG that TensorFlow decodes, or is refused."""

import io
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tests.faults import damage_image

from mlimages.convert.encode_image import Jpeg, to_jpeg
from mlimages.images.decode import ORIENTATION, Defect, Undecodable

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
QUALITY = 95


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(jpeg: Jpeg) -> np.ndarray:
    """Decode a JPEG as training does. Its shape must be that in the record."""
    pixels = tf.io.decode_jpeg(jpeg.body, channels=3).numpy()
    assert pixels.shape == (jpeg.height, jpeg.width, 3)
    assert Image.open(io.BytesIO(jpeg.body)).mode in ("RGB", "L")
    return pixels.astype(int)


def two_halves(left: Any, right: Any, mode: str = "RGB") -> Image.Image:
    """A picture of 40 x 20 pixels with two colours."""
    image = Image.new(mode, (40, 20), left)
    image.paste(right, (20, 0, 40, 20))
    return image


def assert_halves(pixels: np.ndarray, left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    assert pixels.shape == (20, 40, 3)
    np.testing.assert_allclose(pixels[10, 6], left, atol=12)
    np.testing.assert_allclose(pixels[10, 34], right, atol=12)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_upright_rgb_or_grey_jpeg_keeps_its_bytes(mode: str) -> None:
    body = encoded(two_halves(RED, BLUE).convert(mode), "JPEG", quality=60)
    assert to_jpeg(body, quality=QUALITY) == Jpeg(body, 40, 20)
    decoded(to_jpeg(body, quality=QUALITY))


def test_a_cmyk_jpeg_becomes_rgb_in_the_same_colours() -> None:
    body = encoded(two_halves((0, 255, 255, 0), (0, 0, 0, 0), "CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(body)).mode == "CMYK"
    jpeg = to_jpeg(body, quality=QUALITY)
    assert Image.open(io.BytesIO(jpeg.body)).mode == "RGB"
    assert_halves(decoded(jpeg), RED, WHITE)


def test_a_palette_picture_keeps_its_colours() -> None:
    body = encoded(two_halves(RED, BLUE).convert("P", palette=Image.Palette.ADAPTIVE), "PNG")
    assert Image.open(io.BytesIO(body)).mode == "P"
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), RED, BLUE)


def test_transparent_pixels_become_white() -> None:
    body = encoded(two_halves((0, 0, 255, 255), (0, 0, 0, 0), "RGBA"), "PNG")
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), BLUE, WHITE)


def test_half_transparent_pixels_are_blended_with_white() -> None:
    body = encoded(two_halves((0, 0, 0, 128), (0, 0, 0, 255), "RGBA"), "PNG")
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), (127, 127, 127), (0, 0, 0))


def test_a_transparent_palette_entry_becomes_white() -> None:
    image = two_halves(0, 1, "P")
    image.putpalette([*RED, *BLUE])
    assert_halves(decoded(to_jpeg(encoded(image, "PNG", transparency=0), quality=QUALITY)), WHITE, BLUE)


def test_16_bits_keep_their_brightness() -> None:
    values = np.full((20, 40), 0x4000, np.uint16)
    values[:, 20:] = 0xC000
    body = encoded(Image.fromarray(values), "PNG")
    assert Image.open(io.BytesIO(body)).mode.startswith("I;16")
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), (64, 64, 64), (192, 192, 192))


def test_a_grey_png_is_grey() -> None:
    body = encoded(two_halves(50, 200, "L"), "PNG")
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), (50, 50, 50), (200, 200, 200))


def test_a_webp_is_converted() -> None:
    assert_halves(decoded(to_jpeg(encoded(two_halves(RED, BLUE), "WEBP", lossless=True), quality=QUALITY)), RED, BLUE)


@pytest.mark.parametrize("orientation, kind", [(6, "JPEG"), (8, "JPEG"), (3, "JPEG"), (6, "PNG")])
def test_an_exif_rotation_is_applied(orientation: int, kind: str) -> None:
    upright = two_halves(RED, BLUE)
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    jpeg = to_jpeg(encoded(upright.transpose(turn), kind, exif=exif), quality=QUALITY)
    assert_halves(decoded(jpeg), RED, BLUE)
    assert Image.open(io.BytesIO(jpeg.body)).getexif().get(ORIENTATION, 1) == 1


def test_the_first_frame_of_an_animation_is_converted() -> None:
    frames = [Image.new("RGB", (40, 20), colour) for colour in (RED, BLUE, WHITE)]
    body = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), RED, RED)


def test_a_higher_quality_gives_a_larger_file() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    body = encoded(noise, "PNG")
    assert len(to_jpeg(body, quality=30).body) < len(to_jpeg(body, quality=90).body)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_truncated_picture_is_undecodable(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    body = encoded(noise, kind)
    decoded(to_jpeg(body, quality=QUALITY))
    with pytest.raises(Undecodable):
        to_jpeg(body[: len(body) // 2], quality=QUALITY)


@pytest.mark.parametrize("body", [b"", b"<!DOCTYPE html><html></html>", b"\xff\xd8\xff"])
def test_a_file_that_is_not_a_picture_is_undecodable(body: bytes) -> None:
    with pytest.raises(Undecodable):
        to_jpeg(body, quality=QUALITY)


def test_a_format_outside_the_four_is_undecodable() -> None:
    with pytest.raises(Undecodable):
        to_jpeg(encoded(two_halves(RED, BLUE), "TIFF"), quality=QUALITY)


def test_a_file_of_several_jpegs_keeps_its_bytes() -> None:
    body = encoded(two_halves(RED, BLUE), "MPO", save_all=True, append_images=[two_halves(WHITE, RED)])
    jpeg = to_jpeg(body, quality=QUALITY)
    assert jpeg == Jpeg(body, 40, 20)
    np.testing.assert_allclose(tf.io.decode_jpeg(jpeg.body)[10, 6], RED, atol=12)


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture with gradients."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [127 + 120 * np.sin(5 * x * (band + 1)) * np.cos(7 * y) for band in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(("size", "shorter_side", "expected"), [
    ((300, 200), 100, (150, 100)), ((200, 300), 100, (100, 150)), ((301, 200), 64, (96, 64)),
    ((1600, 900), 64, (114, 64)), ((200, 200), 199, (199, 199)), ((2000, 20), 16, (1600, 16))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_larger_picture_is_downscaled_to_the_shorter_side(size: tuple[int, int], shorter_side: int,
                                                            expected: tuple[int, int], kind: str) -> None:
    image = scene(*size)
    jpeg = to_jpeg(encoded(image, kind), quality=QUALITY, shorter_side=shorter_side)
    assert (jpeg.width, jpeg.height) == expected
    wanted = np.asarray(image.resize(expected, Image.Resampling.BOX)).astype(int)
    assert np.abs(decoded(jpeg) - wanted).mean() < 4


@pytest.mark.parametrize("shorter_side", [200, 201, 4000])
def test_a_picture_that_is_not_larger_keeps_its_bytes(shorter_side: int) -> None:
    body = encoded(scene(300, 200), "JPEG")
    assert to_jpeg(body, quality=QUALITY, shorter_side=shorter_side) == Jpeg(body, 300, 200)


def test_a_downscaled_grey_picture_stays_grey() -> None:
    jpeg = to_jpeg(encoded(scene(300, 200, "L"), "JPEG"), quality=QUALITY, shorter_side=100)
    assert Image.open(io.BytesIO(jpeg.body)).mode == "L"
    assert (jpeg.width, jpeg.height) == (150, 100)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_downscaled_rotated_picture_is_upright(orientation: int) -> None:
    upright = two_halves(RED, BLUE).resize((400, 200))
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    jpeg = to_jpeg(encoded(upright.transpose(turn), "JPEG", exif=exif), quality=QUALITY, shorter_side=20)
    assert_halves(decoded(jpeg), RED, BLUE)


def test_downscaling_keeps_the_brightness() -> None:
    jpeg = to_jpeg(encoded(Image.new("RGB", (300, 200), (101, 102, 103)), "PNG"), quality=100, shorter_side=77)
    assert np.abs(decoded(jpeg) - [101, 102, 103]).max() <= 1


@pytest.mark.parametrize("side", [300, 420, 1500])
def test_a_pattern_finer_than_the_pixels_becomes_its_mean(side: int) -> None:
    chequers = (np.indices((side, side)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = decoded(to_jpeg(encoded(Image.fromarray(chequers), "PNG"), quality=QUALITY, shorter_side=100))
    assert np.abs(pixels - 127).max() < 40


def test_the_fast_check_refuses_exactly_what_a_full_decode_refuses() -> None:
    """The fast check decodes every coefficient, but an eighth of the pixels of each side."""
    rng = random.Random(0)  # noqa: S311 - it damages pictures
    options: list[dict[str, Any]] = [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}]
    bodies = [encoded(scene(120, 90, mode), "JPEG", **some) for some in options for mode in ("RGB", "L")]
    verdicts: Counter[bool] = Counter()
    for _ in range(600):
        body = damage_image(rng.choice(bodies), rng)
        try:
            full = tf.io.decode_jpeg(body, channels=3) is not None
        except tf.errors.InvalidArgumentError:
            full = False
        try:
            quick = to_jpeg(body, quality=QUALITY).body != b""
        except Undecodable:
            quick = False
        assert quick == full
        verdicts[full] += 1
    assert min(verdicts.values()) > 100


@pytest.mark.parametrize(("body", "reason"), [
    (b"<!DOCTYPE html>", Defect.NOT_IMAGE), (b"", Defect.NOT_IMAGE),
    (encoded(scene(64, 64), "JPEG")[:-500], Defect.CORRUPT), (encoded(scene(64, 64), "PNG")[:-500], Defect.CORRUPT)])
def test_the_reason_distinguishes_other_files_from_damaged_pictures(body: bytes, reason: Defect) -> None:
    with pytest.raises(Undecodable) as caught:
        to_jpeg(body, quality=QUALITY)
    assert caught.value.reason is reason


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    body = bytearray(encoded(scene(64, 64), "JPEG"))
    at = body.index(b"\xff\xc0") + 5
    body[at: at + 4] = (60_000).to_bytes(2) * 2
    with pytest.raises(Undecodable) as caught:
        to_jpeg(bytes(body), quality=QUALITY)
    assert caught.value.reason is Defect.TOO_MANY_PIXELS
