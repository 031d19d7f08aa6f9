"""Pillow pictures of any kind made RGB and upright."""

import struct
import zlib

from PIL import Image, ImageOps

FORMATS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}
# What Pillow's decoders raise on damaged files.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def upright_rgb(image: Image.Image) -> Image.Image:
    """RGB, turned as its EXIF orientation says; what is transparent is laid on white, 16 bits become 8."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256, "L")
    return image.convert("RGB")
