"""Checks that a body is an image that decodes to its end, and optionally makes it smaller."""

from typing import NamedTuple

import numpy as np

from mlimages.download.http.address_guard import Failure
from mlimages.download.ledger import Reason
from mlimages.images.decode import Defect, ImageFile, Undecodable, apply_orientation, check_sides
from mlimages.images.jpeg import JPEGS, encode_jpeg, set_orientation

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}


class CheckedImage(NamedTuple):
    """A valid image. `extension` is jpg, png, gif or webp; width and height are the stored ones, in pixels."""

    body: bytes
    extension: str
    width: int
    height: int


def check_image(body: bytes, *, max_pixels: int, shorter_side: int | None, quality: int,
                orientation: int = 1) -> CheckedImage:
    """Decode the whole image (the first frame of an animation) and return its bytes unchanged, with two exceptions.

    If the image has no EXIF orientation, or 1, it gets `orientation`: a JPEG keeps its pixels, others become JPEGs. If
    its shorter side exceeds `shorter_side`, it is resized to that, as an upright RGB JPEG in sRGB with `quality`.

    Raises Failure NOT_IMAGE, TOO_MANY_PIXELS or CORRUPT, with what was found as its detail.
    """
    try:
        return _checked(ImageFile(body), max_pixels, shorter_side, quality, orientation)
    except Undecodable as error:
        raise Failure(Reason(error.reason), 200, detail=error.detail) from None  # type: ignore[call-arg]


def _checked(file: ImageFile, max_pixels: int, shorter_side: int | None, quality: int,
             orientation: int) -> CheckedImage:
    width, height = file.size
    if width * height > max_pixels:
        raise Undecodable(Defect.TOO_MANY_PIXELS, f"{width} x {height} pixels")
    orientation = orientation if file.turn == 1 else 1
    if orientation != 1 and file.format in JPEGS:
        file, orientation = ImageFile(set_orientation(file.body, orientation)), 1
    if orientation == 1 and (shorter_side is None or min(width, height) <= shorter_side):
        check_sides(file.size)
        file.check()
        return CheckedImage(file.body, EXTENSIONS[file.format], width, height)
    pixels = apply_orientation(file.pixels(min(1.0, (shorter_side or width) / min(width, height))), orientation)
    height, width, channels = pixels.shape
    return CheckedImage(encode_jpeg(np.repeat(pixels, 3 // channels, axis=2), quality), "jpg", width, height)
