"""What counts as an image: it decodes to its end. Optionally made smaller on the way."""

from typing import NamedTuple

import numpy as np

from mlimages.download.http.address_guard import Failure
from mlimages.download.ledger import Reason
from mlimages.images.decode import Defect, ImageFile, Undecodable, apply_orientation, check_sides
from mlimages.images.jpeg import JPEGS, encode_jpeg, set_orientation

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}


class Picture(NamedTuple):
    """An image to keep: `extension` is jpg, png, gif or webp; width and height in pixels, as stored."""

    body: bytes
    extension: str
    width: int
    height: int


def check_image(body: bytes, *, max_pixels: int, shorter_side: int | None, quality: int, turn: int = 1) -> Picture:
    """Decode the whole image (of an animation, the first frame) and return it as it came.

    An image without an EXIF orientation, or with 1, gets `turn` for one: a JPEG keeps its pixels, others become JPEGs.

    With `shorter_side`, an image whose shorter side has more pixels comes back at that side as an upright RGB JPEG
    of that quality, in sRGB. Failure NOT_IMAGE, TOO_MANY_PIXELS or CORRUPT where the image is not sound; its detail
    says what was found.
    """
    try:
        return _checked(ImageFile(body), max_pixels, shorter_side, quality, turn)
    except Undecodable as error:
        raise Failure(Reason(error.reason), 200, detail=error.detail) from None  # type: ignore[call-arg]


def _checked(file: ImageFile, max_pixels: int, shorter_side: int | None, quality: int, turn: int) -> Picture:
    width, height = file.size
    if width * height > max_pixels:
        raise Undecodable(Defect.TOO_MANY_PIXELS, f"{width} x {height} pixels")
    turn = turn if file.turn == 1 else 1
    if turn != 1 and file.format in JPEGS:
        file, turn = ImageFile(set_orientation(file.body, turn)), 1
    if turn == 1 and (shorter_side is None or min(width, height) <= shorter_side):
        check_sides(file.size)
        file.check()
        return Picture(file.body, EXTENSIONS[file.format], width, height)
    pixels = apply_orientation(file.pixels(min(1.0, (shorter_side or width) / min(width, height))), turn)
    height, width, channels = pixels.shape
    return Picture(encode_jpeg(np.repeat(pixels, 3 // channels, axis=2), quality), "jpg", width, height)
