"""From the bytes of any picture to an upright RGB or grey JPEG that TensorFlow decodes."""

import io
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from mlimages.pictures import (
    DECODER_ERRORS,
    FORMATS,
    JPEGS,
    LONGEST_SIDE,
    draft,
    encode_jpeg,
    flawless_jpeg,
    orientation,
    ratio_of,
    smaller,
    upright_rgb,
)


class Jpeg(NamedTuple):
    """A JPEG file, its width and height in pixels."""

    body: bytes
    width: int
    height: int


class Reason(StrEnum):
    """Why an image does not become a record."""

    NOT_IMAGE = "not_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    CORRUPT = "corrupt"


class Undecodable(ValueError):
    """An image that cannot become a record: its reason, and what the decoder says."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def to_jpeg(body: bytes, *, quality: int, shorter_side: int | None = None) -> Jpeg:
    """The bytes as they are where they are an upright RGB or grey JPEG, else their first frame written anew.

    A picture whose shorter side has more than `shorter_side` pixels is made that small. Transparent pictures are laid
    on white. Raises Undecodable where the picture does not decode to its end, or has a side too long for a JPEG.
    """
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            turn = orientation(image)
            plain = image.format in JPEGS and image.mode in ("RGB", "L") and turn == 1
            width, height = image.size[::-1] if turn > 4 else image.size
            if plain and (shorter_side is None or min(image.size) <= shorter_side):
                _decoded(body, image, 0)
                return Jpeg(body, width, height)
            scale = min(1.0, shorter_side / min(image.size)) if shorter_side else 1.0
            pixels = _decoded(body, image, scale) if plain else _upright(image, scale)
    except Image.UnidentifiedImageError as error:
        raise Undecodable(Reason.NOT_IMAGE, str(error)) from None
    except Image.DecompressionBombError as error:
        raise Undecodable(Reason.TOO_MANY_PIXELS, str(error)) from None
    except DECODER_ERRORS as error:
        raise Undecodable(Reason.CORRUPT, f"Pillow: {error!r}") from None
    except tf.errors.InvalidArgumentError:
        raise Undecodable(Reason.CORRUPT, f"TensorFlow does not decode it; Pillow: {_of_pillow(body)}") from None
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    if max(width, height) > LONGEST_SIDE:
        raise Undecodable(Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels, and a JPEG has {LONGEST_SIDE} at most")
    if pixels.shape[:2] != (height, width):
        pixels = smaller(pixels, width, height)
    return Jpeg(encode_jpeg(pixels, quality), width, height)


def _of_pillow(body: bytes) -> str:
    """What Pillow says of a picture that TensorFlow refuses: TensorFlow gives no reason."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            image.load()
    except DECODER_ERRORS as error:
        return repr(error)
    return "nothing"


def _decoded(body: bytes, image: Image.Image, scale: float) -> np.ndarray:
    """A JPEG's pixels, uint8 [height, width, 1 or 3], a `ratio_of(scale)` of each side.

    TensorFlow has the last word on what it will have to decode: InvalidArgumentError where it does not.
    """
    pixels = flawless_jpeg(body, image, scale)
    return tf.io.decode_jpeg(body, ratio=ratio_of(scale)).numpy() if pixels is None else pixels


def _upright(image: Image.Image, scale: float) -> np.ndarray:
    """The same of any picture, as uint8 [height, width, 3]."""
    draft(image, scale)
    return np.asarray(upright_rgb(image))
