"""From the bytes of any picture to an upright RGB or grey JPEG that TensorFlow decodes."""

from typing import NamedTuple

import tensorflow as tf

from mlimages.images.decode import ImageFile
from mlimages.images.jpeg import encode_jpeg


class Jpeg(NamedTuple):
    """A JPEG file, its width and height in pixels."""

    body: bytes
    width: int
    height: int


def to_jpeg(body: bytes, *, quality: int, shorter_side: int | None = None, to_srgb: bool = False) -> Jpeg:
    """The bytes as they are where they are an upright RGB or grey JPEG, else their first frame encoded again, in sRGB.

    A picture whose shorter side has more than `shorter_side` pixels is made that small. With `to_srgb`, a JPEG with
    another colour profile is encoded again, too. Transparent pictures are laid on white. Raises Undecodable where the
    picture does not decode to its end, or has a side too long for a JPEG.
    """
    file = ImageFile(body)
    small = shorter_side is None or min(file.size) <= shorter_side
    if small and file.is_upright_jpeg and not (to_srgb and not file.is_srgb) and _stays(file):
        return Jpeg(body, *file.size)
    pixels = file.pixels(1.0 if small or shorter_side is None else shorter_side / min(file.size))
    return Jpeg(encode_jpeg(pixels, quality), pixels.shape[1], pixels.shape[0])


def _stays(file: ImageFile) -> bool:
    """Whether TensorFlow will decode the bytes; Undecodable where nothing does."""
    if file.is_flawless():
        return True
    file.check()
    try:
        tf.io.decode_jpeg(file.body, ratio=8)
    except tf.errors.InvalidArgumentError:
        return False
    return True
