"""The stages convert and download accept a damaged picture or refuse it with a reason. They never fail."""

import io
import random
import struct
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from mlimages.convert.encode_image import to_jpeg
from mlimages.download.check_image import Limits, check_image
from mlimages.download.http.address_guard import Failure
from mlimages.images.decode import ORIENTATION, Defect, ImageFile, Undecodable
from mlimages.images.jpeg import LONGEST_SIDE

LIMITS = Limits(2**31, 10**6)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int = 6) -> Image.Exif:
    """An EXIF block with values of several types and two nested blocks."""
    block = Image.Exif()
    block[ORIENTATION], block[0x010E], block[0x011A] = orientation, "a description", 72.0
    block[0x8769] = {0x9003: "2020:01:01 00:00:00", 0x829A: 0.1}
    block[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return block


def several(image: Image.Image) -> dict[str, Any]:
    return {"save_all": True, "append_images": [image.rotate(90)]}


PICTURES = {
    "JPEG": [encoded(NOISE, "JPEG", exif=exif()), encoded(NOISE, "JPEG", exif=exif(), progressive=True),
             encoded(NOISE.convert("CMYK"), "JPEG"), encoded(NOISE, "MPO", **several(NOISE))],
    "PNG": [encoded(NOISE, "PNG", exif=exif()), encoded(NOISE.convert("P"), "PNG"),
            encoded(NOISE.convert("RGBA"), "PNG"), encoded(NOISE.convert("L"), "PNG", transparency=3),
            encoded(NOISE, "PNG", **several(NOISE))],
    "GIF": [encoded(NOISE, "GIF", **several(NOISE)), encoded(NOISE.convert("P"), "GIF", transparency=2)],
    "WEBP": [encoded(NOISE, "WEBP", exif=exif()), encoded(NOISE.convert("RGBA"), "WEBP", lossless=True),
             encoded(NOISE, "WEBP", **several(NOISE))],
}


def tampered(body: bytes, rng: random.Random) -> bytes:
    """Change a few bytes, most of them in the header."""
    content = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(2, min(len(content), 400) if rng.randrange(5) else len(content))
        content[at] = rng.choice((rng.randrange(256), content[at] ^ 1 << rng.randrange(8)))
    return with_right_checksums(content) if content[1:4] == b"PNG" and rng.randrange(5) else bytes(content)


def with_right_checksums(png: bytes | bytearray) -> bytes:
    """Correct the checksums of a PNG's chunks, so that Pillow reads on."""
    chunks, at = [bytes(png[:8])], 8
    while at + 8 <= len(png):
        size = int.from_bytes(png[at: at + 4])
        named = bytes(png[at + 4: at + 8 + size])
        chunks.append(struct.pack(">I", max(0, len(named) - 4)) + named + struct.pack(">I", zlib.crc32(named)))
        at += 12 + size
    return b"".join(chunks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shorter_side", [None, 16])
@pytest.mark.parametrize("kind", PICTURES)
def test_a_damaged_picture_is_accepted_or_refused_with_a_reason(kind: str, shorter_side: int | None) -> None:
    rng = random.Random(kind)  # noqa: S311 - it damages pictures
    kept: Counter[str] = Counter()
    for _ in range(400):
        body = tampered(rng.choice(PICTURES[kind]), rng)
        try:
            assert tf.io.decode_jpeg(to_jpeg(body, quality=90, shorter_side=shorter_side).body).shape
            kept["convert"] += 1
        except Undecodable as error:
            assert error.detail not in ("", "Pillow: ")
        try:
            assert check_image(body, limits=LIMITS, shorter_side=shorter_side, quality=90).body
            kept["download"] += 1
        except Failure:
            pass
    assert all(0 < kept[stage] < 400 for stage in ("convert", "download"))


def float_for_a_description(orientation: int) -> bytes:
    """An EXIF block that Pillow can read, but not write."""
    entries = (struct.pack("<HHIf", 0x010E, 11, 1, 1.0) + struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)


def test_a_picture_with_an_unusual_exif_block_is_rotated() -> None:
    body = encoded(NOISE, "JPEG", exif=float_for_a_description(6))
    jpeg = to_jpeg(body, quality=90)
    assert (jpeg.width, jpeg.height) == (24, 32)
    small = check_image(body, limits=LIMITS, shorter_side=12, quality=90)
    assert (small.width, small.height) == (12, 16)


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_orientation_is_applied(orientation: int, mode: str) -> None:
    body = encoded(NOISE.convert(mode), "PNG", exif=exif(orientation))
    with Image.open(io.BytesIO(body)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    pixels = ImageFile(body).pixels(1)
    np.testing.assert_array_equal(np.broadcast_to(pixels, expected.shape), expected)


@pytest.mark.parametrize("size", [(LONGEST_SIDE + 1, 4), (4, 70_000)])
def test_a_side_too_long_for_a_jpeg_is_refused(size: tuple[int, int]) -> None:
    body = encoded(Image.new("RGB", size), "PNG")
    with pytest.raises(Undecodable, match=f"{size[0]} x {size[1]} pixels, and a JPEG has {LONGEST_SIDE}") as caught:
        to_jpeg(body, quality=90)
    assert caught.value.reason is Defect.TOO_MANY_PIXELS
    assert max(to_jpeg(body, quality=90, shorter_side=2)[1:]) == max(size) // 2
    with pytest.raises(Failure) as failure:
        check_image(body, limits=LIMITS, shorter_side=None, quality=90)
    assert failure.value.reason == "too_many_pixels"
    assert max(check_image(body, limits=LIMITS, shorter_side=2, quality=90)[2:]) == max(size) // 2


def test_a_side_too_long_for_a_jpeg_after_downscaling_is_refused() -> None:
    with pytest.raises(Failure) as caught:
        check_image(encoded(Image.new("1", (80_000, 10)), "PNG"), limits=LIMITS, shorter_side=9, quality=90)
    assert caught.value.reason == "too_many_pixels"
