"""check_image accepts images that decode to their end, and resizes them upright."""

import io
import random
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from mlimages.download.check_image import CheckedImage, Limits, check_image
from mlimages.download.http.address_guard import Failure
from mlimages.download.ledger import Reason

ROTATED = 6  # EXIF: turn a quarter clockwise to see it upright


def check(body: bytes, max_pixels: int = 1_000_000, *, shorter_side: int | None = None, quality: int = 90,
          orientation: int = 1, **limits: Any) -> CheckedImage:
    return check_image(body, limits=Limits(2**31, max_pixels, **limits), shorter_side=shorter_side, quality=quality,
                       orientation=orientation)


def encoded(image: Image.Image, form: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def half_red(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """An image with a red left half and a blue right half."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    return image.convert(mode)


GREY = Image.linear_gradient("L")


@pytest.mark.parametrize(("form", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp")])
@pytest.mark.parametrize("shorter_side", [None, 20, 64])
def test_a_small_image_is_returned_unchanged(form: str, extension: str, shorter_side: int | None) -> None:
    body = encoded(GREY.resize((20, 30)), form)
    assert check(body, max_pixels=600, shorter_side=shorter_side) == (body, extension, 20, 30)


@pytest.mark.parametrize("shorter_side", [None, 20])
@pytest.mark.parametrize(("limit", "refusing", "accepting", "reason"), [
    ("min_bytes", 1, 0, Reason.TOO_FEW_BYTES), ("min_side", 41, 40, Reason.TOO_SMALL),
    ("max_aspect_ratio", 2.99, 3.0, Reason.ASPECT_RATIO)])
@pytest.mark.parametrize("size", [(40, 120), (120, 40)])
def test_an_image_beyond_a_limit_is_refused_by_its_size_before_it_is_made_smaller(
        size: tuple[int, int], limit: str, refusing: float, accepting: float, reason: Reason,
        shorter_side: int | None) -> None:
    body = encoded(GREY.resize(size), "PNG")
    more = len(body) if limit == "min_bytes" else 0
    accepts: dict[str, Any] = {limit: accepting + more}
    refuses: dict[str, Any] = {limit: refusing + more}
    assert check(body, shorter_side=shorter_side, **accepts).width
    with pytest.raises(Failure) as refused:
        check(body, shorter_side=shorter_side, **refuses)
    assert refused.value.reason is reason
    assert refused.value.detail == (f"{more} bytes" if more else f"{size[0]} x {size[1]} pixels")


@pytest.mark.parametrize(("body", "reason"), [
    (b"", Reason.NOT_IMAGE), (b"<!DOCTYPE html><html>Sign in</html>", Reason.NOT_IMAGE),
    (encoded(GREY, "BMP"), Reason.NOT_IMAGE), (encoded(GREY, "TIFF"), Reason.NOT_IMAGE),
    (encoded(GREY, "JPEG")[:700], Reason.CORRUPT), (encoded(GREY, "PNG")[:-40], Reason.CORRUPT),
    (huge_png(50_000, 50_000), Reason.TOO_MANY_PIXELS), (huge_png(1000, 1001), Reason.TOO_MANY_PIXELS),
    (huge_png(100, 100), Reason.CORRUPT)],
    ids=["empty", "page", "bmp", "tiff", "half jpeg", "cut png", "2500 megapixels", "1.001 megapixels", "no pixels"])
@pytest.mark.parametrize("shorter_side", [None, 32])
def test_incomplete_and_too_large_images_are_rejected(body: bytes, reason: Reason, shorter_side: int | None) -> None:
    with pytest.raises(Failure) as failure:
        check(body, shorter_side=shorter_side)
    assert failure.value.reason is reason


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_corrupt_wherever_it_ends(progressive: bool) -> None:
    noise = Image.effect_noise((160, 120), 60)
    whole = encoded(noise, "JPEG", progressive=progressive)
    for shorter_side in (None, 20):
        for share in (0.3, 0.6, 0.9, 0.99):
            with pytest.raises(Failure) as failure:
                check(whole[:int(share * len(whole))], shorter_side=shorter_side)
            assert failure.value.reason is Reason.CORRUPT


def test_damaged_images_raise_only_failures() -> None:
    rng = random.Random(0)  # noqa: S311 - it damages pictures
    reasons = set()
    for form in ("JPEG", "PNG", "GIF", "WEBP"):
        whole = encoded(GREY.resize((24, 24)), form)
        for _ in range(300):
            body = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                body[int(len(body) * rng.random() ** 2)] = rng.randrange(256)
            try:
                check(bytes(body), max_pixels=10_000, shorter_side=16)
            except Failure as failure:
                reasons.add(failure.reason)
    assert reasons == {Reason.NOT_IMAGE, Reason.CORRUPT, Reason.TOO_MANY_PIXELS}


@pytest.mark.parametrize(("form", "step"), [("GIF", "_seek"), ("WEBP", "_get_next")])
def test_only_the_first_of_thousands_of_frames_is_decoded(form: str, step: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """`step` is what Pillow's decoder of the format calls for each frame."""
    frames = [Image.new("L", (16, 16), 100 * shade % 256) for shade in range(10_000)]
    body = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(body)) as image:
        assert getattr(image, "n_frames", 1) == 10_000
        decoder = type(image)
    steps: list[tuple[int, ...]] = []
    real = getattr(decoder, step)

    def counted(image: Image.Image, *frame: int) -> Any:
        steps.append(frame)
        return real(image, *frame)

    monkeypatch.setattr(decoder, step, counted)
    assert check(body)[1:] == (form.lower(), 16, 16)
    assert check(body, shorter_side=8)[1:] == ("jpg", 8, 8)
    assert len(steps) == 2, "one for each check"


@pytest.mark.parametrize("shorter_side", [None, 32])
def test_the_first_image_of_a_multi_picture_file_counts(shorter_side: int | None) -> None:
    body = encoded(half_red(200, 100), "MPO", save_all=True, append_images=[half_red(20, 10)])
    picture = check(body, shorter_side=shorter_side)
    assert picture[1:] == ("jpg", *((64, 32) if shorter_side else (200, 100)))
    assert (picture.body == body) == (shorter_side is None)


@pytest.mark.parametrize(("form", "mode"), [
    ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "1"),
    ("WEBP", "RGBA"), ("GIF", "P")])
def test_a_resized_image_is_an_upright_rgb_jpeg(form: str, mode: str) -> None:
    picture = check(encoded(half_red(200, 100, mode), form), shorter_side=32)
    with Image.open(io.BytesIO(picture.body)) as image:
        assert (picture.extension, image.format, image.mode) == ("jpg", "JPEG", "RGB")
        assert image.size == (picture.width, picture.height) == (64, 32)
        left, right = image.getpixel((8, 16)), image.getpixel((56, 16))
    grey = mode in ("L", "LA", "1")
    assert isinstance(left, tuple) and isinstance(right, tuple)
    assert left != right if grey else (left[0] > 200 > right[0] and right[2] > 200 > left[2])


def test_a_resized_sixteen_bit_image_keeps_its_shades() -> None:
    image = Image.new("I;16", (100, 100), 40_000)
    with Image.open(io.BytesIO(check(encoded(image, "PNG"), shorter_side=32).body)) as small:
        assert small.getpixel((10, 10)) == (156, 156, 156)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_resized_image_with_exif_rotation_is_upright(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    body = encoded(half_red(200, 100), form, exif=exif)
    assert check(body).body == body
    picture = check(body, shorter_side=32)
    assert (picture.width, picture.height) == (32, 64)
    with Image.open(io.BytesIO(picture.body)) as image:
        top = image.getpixel((16, 8))
    assert isinstance(top, tuple) and top[0] > 200


def test_the_quality_parameter_is_used() -> None:
    body = encoded(Image.effect_noise((200, 200), 60), "JPEG", quality=95)
    sizes = [len(check(body, shorter_side=64, quality=quality).body) for quality in (20, 60, 95)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] / 2
