"""Turn an image file of any format into an upright RGB or grey JPEG that TensorFlow decodes."""

from typing import NamedTuple

from mlimages.images.decode import ImageFile
from mlimages.images.jpeg import encode_jpeg


class Jpeg(NamedTuple):
    """The bytes of a JPEG file, and its width and height in pixels."""

    body: bytes
    width: int
    height: int


def to_jpeg(body: bytes, *, quality: int, shorter_side: int | None = None, to_srgb: bool = False) -> Jpeg:
    """Return the file unchanged if it is an upright RGB or grey JPEG, and otherwise its first frame as a JPEG in sRGB.

    An image whose shorter side exceeds `shorter_side` pixels is downscaled to it. With `to_srgb`, a JPEG of another
    colour profile is converted too. Transparent pixels get a white background. Raises Undecodable for an image that is
    damaged or truncated, or whose side is too long for a JPEG.
    """
    file = ImageFile(body)
    scale = min(1.0, shorter_side / min(file.size)) if shorter_side else 1.0
    if scale == 1 and file.is_upright_jpeg and (file.is_srgb or not to_srgb) and _is_decodable(file):
        return Jpeg(body, *file.size)
    pixels = file.pixels(scale)
    return Jpeg(encode_jpeg(pixels, quality), pixels.shape[1], pixels.shape[0])


def _is_decodable(file: ImageFile) -> bool:
    """Whether TensorFlow decodes the file. Raises Undecodable if no decoder does."""
    if file.is_flawless():
        return True
    file.check()
    import tensorflow as tf  # only here: the rest does not need it, and it takes seconds

    try:
        tf.io.decode_jpeg(file.body, ratio=8)
    except tf.errors.InvalidArgumentError:
        return False
    return True
