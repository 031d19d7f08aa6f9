"""What counts as an image: it decodes to its end. Optionally made smaller on the way."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from mlimages.download.guard import Failure
from mlimages.download.ledger import Reason
from mlimages.pictures import (
    DECODER_ERRORS,
    FORMATS,
    LONGEST_SIDE,
    draft,
    encode_jpeg,
    flawless_jpeg,
    orientation,
    smaller,
    upright_rgb,
)

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}


class Picture(NamedTuple):
    """An image to keep: `extension` is jpg, png, gif or webp; width and height in pixels, as stored."""

    body: bytes
    extension: str
    width: int
    height: int


def check_image(body: bytes, *, max_pixels: int, shorter_side: int | None, quality: int) -> Picture:
    """Decode the whole image (of an animation, the first frame) and return it as it came.

    With `shorter_side`, an image whose shorter side has more pixels comes back at that side as an upright RGB JPEG
    of that quality. Failure NOT_IMAGE, TOO_MANY_PIXELS or CORRUPT where the image is not sound.
    """
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise Failure(Reason.TOO_MANY_PIXELS, 200)
            as_it_came = Picture(body, EXTENSIONS[str(image.format)], image.width, image.height)
            if shorter_side is None or min(image.size) <= shorter_side:
                if flawless_jpeg(body, image, 0) is None:
                    draft(image, 0)
                    image.load()
                return as_it_came
            return _smaller(body, image, shorter_side / min(image.size), quality)
    except Image.UnidentifiedImageError:
        raise Failure(Reason.NOT_IMAGE, 200) from None
    except Image.DecompressionBombError:
        raise Failure(Reason.TOO_MANY_PIXELS, 200) from None
    except DECODER_ERRORS:
        raise Failure(Reason.CORRUPT, 200) from None


def _smaller(body: bytes, image: Image.Image, scale: float, quality: int) -> Picture:
    """The image at so much of its size, upright."""
    width, height = (max(1, round(side * scale)) for side in image.size)
    if orientation(image) > 4:
        width, height = height, width
    if max(width, height) > LONGEST_SIDE:
        raise Failure(Reason.TOO_MANY_PIXELS, 200)
    pixels = flawless_jpeg(body, image, scale) if orientation(image) == 1 and image.mode == "RGB" else None
    if pixels is None:
        draft(image, scale)
        pixels = np.asarray(upright_rgb(image))
    return Picture(encode_jpeg(smaller(pixels, width, height), quality), "jpg", width, height)
