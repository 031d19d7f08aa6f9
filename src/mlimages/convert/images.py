"""From the bytes of any picture to an upright RGB or grey JPEG that TensorFlow decodes."""

import io
import struct
import zlib
from typing import NamedTuple

import tensorflow as tf
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the EXIF tag
# What Pillow's decoders raise on damaged files.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class Jpeg(NamedTuple):
    """A JPEG file, its width and height in pixels."""

    body: bytes
    width: int
    height: int


class Undecodable(ValueError):
    """Why a picture cannot become a record."""


def to_jpeg(body: bytes, quality: int) -> Jpeg:
    """The bytes as they are where they are an upright RGB or grey JPEG, else their first frame written anew.

    Transparent pictures are laid on white. Raises Undecodable where Pillow or TensorFlow cannot decode the picture.
    """
    try:
        with Image.open(io.BytesIO(body), formats=["JPEG", "PNG", "GIF", "WEBP"]) as image:
            image.load()
            if image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1:
                jpeg = Jpeg(body, image.width, image.height)
            else:
                jpeg = _rewritten(image, quality)
    except DECODER_ERRORS as error:
        raise Undecodable(f"Pillow: {error}") from None
    try:
        tf.io.decode_jpeg(jpeg.body, channels=3)
    except tf.errors.InvalidArgumentError as error:
        raise Undecodable(f"TensorFlow: {error.message[:200]}") from None
    return jpeg


def _rewritten(image: Image.Image, quality: int) -> Jpeg:
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    elif image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256, "L")
    image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Jpeg(buffer.getvalue(), image.width, image.height)
