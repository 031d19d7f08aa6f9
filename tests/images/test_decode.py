"""A picture's pixels are right whatever else is wrong in its file, and a refusal names what was found."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tests.images.crafted import (
    HEIGHT,
    LEVELS16,
    PHOTO,
    VERDICTS,
    WIDTH,
    bomb,
    chunk,
    encoded,
    exif,
    png,
    scene,
    segment,
    with_segments,
    xmp,
)

from mlimages.convert.encode_image import to_jpeg
from mlimages.images.decode import Defect, ImageFile, Undecodable
from mlimages.images.formats import detect_format

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, on what does not concern the pixels
ODD_CHUNKS = [name for name in VERDICTS if name.startswith("PNG, ") and "turned" not in name and "tRNS" not in name]


def pixels(body: bytes) -> np.ndarray:
    return ImageFile(body).pixels(1.0).astype(int)


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_no_ancillary_chunk_changes_a_pixel(name: str) -> None:
    np.testing.assert_array_equal(pixels(VERDICTS[name][0]), tf.io.decode_png(png(), channels=3))


def test_no_application_segment_changes_a_pixel() -> None:
    expected = pixels(PHOTO)
    for name, (body, _) in VERDICTS.items():
        if name.startswith("JPEG, ") and "turned" not in name and "Adobe" not in name:
            np.testing.assert_array_equal(pixels(body), expected, name)


@pytest.mark.parametrize(("bits", "colour", "key", "row"), [
    (1, 0, b"\0\1", b"\x5a" * 15), (2, 0, b"\0\2", b"\x1b" * 30), (4, 0, b"\0\7", b"\x67" * 60),
    (8, 0, b"\0\x2a", bytes(range(120))), (8, 2, b"\0\2\0\4\0\6", b"\2\4\6\3\4\6" * 60),
    (4, 0, b"\0\x17", b"\x67" * 60),
    (16, 2, b"\1\2\3\4\5\6", b"\1\2\3\4\5\6" * 60 + b"\1\3\3\4\5\6" * 60)])
def test_a_transparent_level_becomes_white(bits: int, colour: int, key: bytes, row: bytes) -> None:
    body = png(chunk(b"tRNS", key), bits=bits, colour=colour, rows=(b"\0" + row) * HEIGHT)
    rgba = tf.io.decode_png(body, channels=4).numpy()
    transparent = rgba[..., 3] == 0
    assert 0 < transparent.mean() < 1
    found = np.broadcast_to(pixels(body), (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(found, np.where(transparent[..., None], 255, rgba[..., :3]))


def test_16_bits_with_a_transparent_level_keep_their_shades() -> None:
    body = png(chunk(b"tRNS", b"\0\7"), bits=16, colour=0, rows=(b"\0" + LEVELS16) * HEIGHT)
    assert abs(pixels(body).mean() - 127) < 1
    body = png(chunk(b"tRNS", LEVELS16[20:22]), bits=16, colour=0, rows=(b"\0" + LEVELS16) * HEIGHT)
    assert (pixels(body)[:, 10] == 255).all() and (pixels(body)[:, 9] < 20).all()


@pytest.mark.parametrize("body", [with_segments(PHOTO, segment(0xE1, xmp(6))),
                                  png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6)[29:])),
                                  encoded(scene(), "WEBP", xmp=xmp(6)[29:])], ids=["JPEG", "PNG", "WebP"])
def test_an_orientation_in_xmp_alone_is_ignored(body: bytes) -> None:
    assert (to_jpeg(body, quality=90).width, to_jpeg(body, quality=90).height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_exif_overrides_that_in_xmp(kind: str) -> None:
    body = encoded(scene(), kind, exif=exif(6))
    assert to_jpeg(body, quality=90).width == HEIGHT


@pytest.mark.parametrize(("scans", "side"), [(100, 7000), (2000, 1400)])
def test_a_picture_with_too_many_scans_is_refused_before_it_is_decoded(scans: int, side: int) -> None:
    with pytest.raises(Undecodable, match=f"{side} x {side} pixels in {scans}") as caught:
        ImageFile(bomb(side, scans - 6))
    assert caught.value.reason is Defect.TOO_MANY_PIXELS


def test_many_scans_of_few_pixels_are_decoded() -> None:
    assert pixels(bomb(64, 200)).shape == (64, 64, 1)


@pytest.mark.parametrize(("body", "kind"), [
    (encoded(scene(), "AVIF"), "AVIF"), (encoded(scene(), "TIFF"), "TIFF"), (encoded(scene(), "BMP"), "BMP"),
    (b"\n <!DOCTYPE html><html>", "HTML"), (b"<?xml version='1.0'?>\n<svg/>", "SVG"), (b'{"error": 1}', "JSON"),
    (b"", "nothing"), (bytes(2000), "zero bytes"), (b"not found\r\n", "text"), (b"%PDF-1.4", "PDF"),
    (b"\0\0\0\x18ftypmp42", "a video"), (b"\1\2\3\xff", "an unknown format that begins with the bytes 01 02 03 ff")])
def test_the_format_of_a_file_that_is_not_a_picture_is_detected(body: bytes, kind: str) -> None:
    with pytest.raises(Undecodable) as caught:
        ImageFile(body)
    assert (caught.value.reason, caught.value.detail) == (
        Defect.NOT_IMAGE, f"{kind}, expected JPEG, PNG, GIF or WebP")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_formats_are_detected_by_their_first_bytes(kind: str) -> None:
    assert detect_format(encoded(scene(), kind)) == kind


@pytest.mark.parametrize("body", [PHOTO[:-2], PHOTO[:-2] + bytes(64)], ids=["cut", "zeros"])
def test_the_detail_for_a_truncated_jpeg_says_so(body: bytes) -> None:
    with pytest.raises(Undecodable, match=r"truncated|no end marker: the file was cut off"):
        to_jpeg(body, quality=90)


def test_a_kind_of_jpeg_that_tensorflow_does_not_decode_is_converted() -> None:
    """8 x 8 grey pixels with lossless coding: every one is as predicted, which is coded by two zero bits."""
    lossless = (b"\xff\xd8" + segment(0xC3, b"\x08\x00\x08\x00\x08\x01\x01\x11\x00")
                + segment(0xC4, b"\x00\x00\x01\x05" + b"\x01" * 6 + bytes(7) + bytes(range(12)))
                + segment(0xDA, b"\x01\x01\x00\x01\x00\x00") + bytes(16) + b"\xff\xd9")
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_jpeg(lossless)
    with Image.open(io.BytesIO(lossless)) as image:
        expected = np.asarray(image)
    jpeg = to_jpeg(lossless, quality=100)
    assert (tf.io.decode_jpeg(jpeg.body).numpy()[..., 0] == expected).all()
