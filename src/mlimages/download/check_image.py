"""Checks that a body is an image within the limits that decodes to its end, and optionally makes it smaller."""

import math
from typing import NamedTuple

import numpy as np

from mlimages.core.params import Download
from mlimages.download.http.address_guard import Failure
from mlimages.download.ledger import Reason
from mlimages.images.decode import ImageFile, Undecodable, apply_orientation, check_sides
from mlimages.images.jpeg import JPEGS, encode_jpeg, set_orientation

LEAST = {"min_bytes", "min_side"}  # the limits of which a greater one is stricter
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}


class Limits(NamedTuple):
    """The parameters of these names: which images are accepted. None sets no limit.

    They apply to an image as it came, before `shorter_side` makes it smaller.
    """

    max_bytes: int
    max_pixels: int
    min_bytes: int | None = None
    min_side: int | None = None
    max_aspect_ratio: float | None = None

    def refusal(self, size: int, width: int, height: int) -> tuple[Reason, str] | None:
        """Why an image of `size` bytes and these sides in pixels is refused: the reason and its detail."""
        sides = f"{width} x {height} pixels"
        if size > self.max_bytes:
            return Reason.TOO_LARGE, "as sent"
        if width * height > self.max_pixels:
            return Reason.TOO_MANY_PIXELS, sides
        if size < (self.min_bytes or 0):
            return Reason.TOO_FEW_BYTES, f"{size} bytes"
        if min(width, height) < (self.min_side or 0):
            return Reason.TOO_SMALL, sides
        if max(width, height) > (self.max_aspect_ratio or math.inf) * min(width, height):
            return Reason.ASPECT_RATIO, sides
        return None

    def stricter_than(self, other: "Limits") -> set[str]:
        """The names of the limits that refuse more images than those of `other`."""
        return {name for name, ours, theirs in zip(self._fields, self, other, strict=True)
                if ours is not None and (theirs is None or (ours > theirs if name in LEAST else ours < theirs))}


def limits_of(params: Download) -> Limits:
    return Limits(*(getattr(params, name) for name in Limits._fields))


class CheckedImage(NamedTuple):
    """A valid image. `extension` is jpg, png, gif or webp; width and height are the stored ones, in pixels."""

    body: bytes
    extension: str
    width: int
    height: int


def check_image(body: bytes, *, limits: Limits, shorter_side: int | None, quality: int,
                orientation: int = 1) -> CheckedImage:
    """Decode the whole image (the first frame of an animation) and return its bytes unchanged, with two exceptions.

    If the image has no EXIF orientation, or 1, it gets `orientation`: a JPEG keeps its pixels, others become JPEGs. If
    its shorter side exceeds `shorter_side`, it is resized to that, as an upright RGB JPEG in sRGB with `quality`.

    Raises Failure NOT_IMAGE, CORRUPT, or the reason of a limit, with what was found as its detail.
    """
    try:
        file = ImageFile(body)
        if refusal := limits.refusal(len(body), *file.size):
            raise Failure(refusal[0], 200, detail=refusal[1])
        return _checked(file, shorter_side, quality, orientation)
    except Undecodable as error:
        raise Failure(Reason(error.reason), 200, detail=error.detail) from None  # type: ignore[call-arg]


def _checked(file: ImageFile, shorter_side: int | None, quality: int, orientation: int) -> CheckedImage:
    width, height = file.size
    orientation = orientation if file.turn == 1 else 1
    if orientation != 1 and file.format in JPEGS:
        file, orientation = ImageFile(set_orientation(file.body, orientation)), 1
    if orientation == 1 and (shorter_side is None or min(width, height) <= shorter_side):
        check_sides(file.size)
        file.check()
        return CheckedImage(file.body, EXTENSIONS[file.format], width, height)
    pixels = apply_orientation(file.pixels(min(1.0, (shorter_side or width) / min(width, height))), orientation)
    height, width, channels = pixels.shape
    rgb = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels
    return CheckedImage(encode_jpeg(rgb, quality), "jpg", width, height)
