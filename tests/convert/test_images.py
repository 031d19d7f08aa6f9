"""Whatever comes in as a picture leaves as an upright RGB or grey JPEG that TensorFlow decodes, or is refused."""

import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mlimages.convert.images import ORIENTATION, Jpeg, Undecodable, to_jpeg

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
QUALITY = 95


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(jpeg: Jpeg) -> np.ndarray:
    """As training decodes it; its shape is what the record says."""
    pixels = tf.io.decode_jpeg(jpeg.body, channels=3).numpy()
    assert pixels.shape == (jpeg.height, jpeg.width, 3)
    assert Image.open(io.BytesIO(jpeg.body)).mode in ("RGB", "L")
    return pixels.astype(int)


def two_halves(left: Any, right: Any, mode: str = "RGB") -> Image.Image:
    """40 wide, 20 high."""
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


def test_a_palette_becomes_its_colours() -> None:
    body = encoded(two_halves(RED, BLUE).convert("P", palette=Image.Palette.ADAPTIVE), "PNG")
    assert Image.open(io.BytesIO(body)).mode == "P"
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), RED, BLUE)


def test_what_is_transparent_becomes_white() -> None:
    body = encoded(two_halves((0, 0, 255, 255), (0, 0, 0, 0), "RGBA"), "PNG")
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), BLUE, WHITE)


def test_half_transparent_is_half_white() -> None:
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


def test_a_webp_is_written_anew() -> None:
    assert_halves(decoded(to_jpeg(encoded(two_halves(RED, BLUE), "WEBP", lossless=True), quality=QUALITY)), RED, BLUE)


@pytest.mark.parametrize("orientation, kind", [(6, "JPEG"), (8, "JPEG"), (3, "JPEG"), (6, "PNG")])
def test_an_exif_rotation_is_carried_out(orientation: int, kind: str) -> None:
    upright = two_halves(RED, BLUE)
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    jpeg = to_jpeg(encoded(upright.transpose(turn), kind, exif=exif), quality=QUALITY)
    assert_halves(decoded(jpeg), RED, BLUE)
    assert Image.open(io.BytesIO(jpeg.body)).getexif().get(ORIENTATION, 1) == 1


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (40, 20), colour) for colour in (RED, BLUE, WHITE)]
    body = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert_halves(decoded(to_jpeg(body, quality=QUALITY)), RED, RED)


def test_the_quality_decides_the_size() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    body = encoded(noise, "PNG")
    assert len(to_jpeg(body, quality=30).body) < len(to_jpeg(body, quality=90).body)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_truncated_picture_is_undecodable_never_patched_up(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    body = encoded(noise, kind)
    decoded(to_jpeg(body, quality=QUALITY))
    with pytest.raises(Undecodable):
        to_jpeg(body[: len(body) // 2], quality=QUALITY)


@pytest.mark.parametrize("body", [b"", b"<!DOCTYPE html><html></html>", b"\xff\xd8\xff"])
def test_what_is_no_picture_is_undecodable(body: bytes) -> None:
    with pytest.raises(Undecodable):
        to_jpeg(body, quality=QUALITY)


def test_a_format_outside_the_four_is_undecodable() -> None:
    with pytest.raises(Undecodable):
        to_jpeg(encoded(two_halves(RED, BLUE), "TIFF"), quality=QUALITY)
