"""From the bytes of any picture to an upright RGB or grey JPEG that TensorFlow decodes."""

import io
import math
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from mlimages.pictures import DECODER_ERRORS, FORMATS, smaller, upright_rgb

ORIENTATION = 0x0112  # the EXIF tag
# libjpeg can leave out these factors of a picture's pixels while it decodes.
RATIOS = (8, 4, 2, 1)


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
    on white. Raises Undecodable where the picture does not decode to its end.
    """
    try:
        with Image.open(io.BytesIO(body), formats=list(FORMATS)) as image:
            orientation = image.getexif().get(ORIENTATION, 1)
            # A file of several JPEGs (MPO) decodes to its first one.
            plain = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L") and orientation == 1
            width, height = image.size[::-1] if orientation > 4 else image.size
            scale = min(1.0, shorter_side / min(image.size)) if shorter_side else 1.0
            if plain and scale == 1:
                # libjpeg reads every coefficient also where it reconstructs an eighth of the pixels: as strict, faster.
                tf.io.decode_jpeg(body, channels=3, ratio=8)
                return Jpeg(body, width, height)
            pixels = _decoded(body, scale) if plain else _upright(image, scale)
    except Image.UnidentifiedImageError as error:
        raise Undecodable(Reason.NOT_IMAGE, str(error)) from None
    except Image.DecompressionBombError as error:
        raise Undecodable(Reason.TOO_MANY_PIXELS, str(error)) from None
    except DECODER_ERRORS as error:
        raise Undecodable(Reason.CORRUPT, f"Pillow: {error}") from None
    except tf.errors.InvalidArgumentError:
        raise Undecodable(Reason.CORRUPT, f"TensorFlow does not decode it; Pillow: {_of_pillow(body)}") from None
    return _encoded(pixels, max(1, round(width * scale)), max(1, round(height * scale)), quality)


def _of_pillow(body: bytes) -> str:
    """What Pillow says of a picture that TensorFlow refuses: TensorFlow gives no reason."""
    try:
        with Image.open(io.BytesIO(body), formats=list(FORMATS)) as image:
            image.load()
    except DECODER_ERRORS as error:
        return str(error)
    return "nothing"


def _decoded(body: bytes, scale: float) -> Any:
    """A JPEG's pixels, uint8 [height, width, 1 or 3]: at least `scale` of them in each direction."""
    return tf.io.decode_jpeg(body, ratio=next(ratio for ratio in RATIOS if ratio * scale <= 1))


def _upright(image: Image.Image, scale: float) -> Any:
    """The same of any picture, as uint8 [height, width, 3]."""
    image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    return np.asarray(upright_rgb(image))


def _encoded(pixels: Any, width: int, height: int, quality: int) -> Jpeg:
    """Pixels uint8 as a JPEG so large, made by TensorFlow, whose decoder takes what its encoder gives."""
    with tf.device("CPU"):
        if pixels.shape[:2] != (height, width):
            pixels = smaller(np.asarray(pixels), width, height)
        return Jpeg(tf.io.encode_jpeg(pixels, quality=quality).numpy(), width, height)
