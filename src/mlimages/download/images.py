"""What counts as an image: it decodes to its end. Optionally made smaller on the way."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from mlimages.download.guard import Failure
from mlimages.download.ledger import Reason
from mlimages.pictures import DECODER_ERRORS, FORMATS, smaller, upright_rgb


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
        with Image.open(io.BytesIO(body), formats=list(FORMATS)) as image:
            if image.width * image.height > max_pixels:
                raise Failure(Reason.TOO_MANY_PIXELS, 200)
            as_it_came = Picture(body, FORMATS[str(image.format)], image.width, image.height)
            scale = min(1.0, shorter_side / min(image.size)) if shorter_side else 1.0
            # libjpeg reads every coefficient of a JPEG also where it reconstructs fewer pixels: as true, and faster.
            image.draft(None, (1, 1) if scale == 1 else _scaled(image.size, 2 * scale))
            image.load()
            return as_it_came if scale == 1 else _smaller(image, _scaled((as_it_came.width, as_it_came.height), scale),
                                                          quality)
    except Image.UnidentifiedImageError:
        raise Failure(Reason.NOT_IMAGE, 200) from None
    except Image.DecompressionBombError:
        raise Failure(Reason.TOO_MANY_PIXELS, 200) from None
    except DECODER_ERRORS:
        raise Failure(Reason.CORRUPT, 200) from None


def _scaled(pixels: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(pixels[0] * scale)), max(1, round(pixels[1] * scale))


def _smaller(image: Image.Image, pixels: tuple[int, int], quality: int) -> Picture:
    """The image at so many pixels, as stored before its EXIF orientation is applied."""
    stored = image.size
    image = upright_rgb(image)
    image = Image.fromarray(smaller(np.asarray(image), *(pixels if image.size == stored else pixels[::-1])))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Picture(buffer.getvalue(), "jpg", image.width, image.height)
