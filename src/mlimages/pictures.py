"""Pictures of any kind opened, made RGB, upright and smaller, and JPEGs decoded and encoded."""

import struct
import zlib

import cv2
import numpy as np
import simplejpeg
from PIL import Image

cv2.setNumThreads(1)  # whoever calls has threads of its own

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
JPEGS = ("JPEG", "MPO")  # as Pillow calls a file of several JPEGs, which decodes to its first one
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}  # what undoes each orientation
# The frames that every libjpeg decodes: baseline, extended and progressive, with Huffman codes.
FRAMES = (0xC0, 0xC1, 0xC2)
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # of the markers from C0 to CF
LONGEST_SIDE = 65_500  # pixels of a JPEG, as libjpeg has it
# Where libjpeg gives no more than one of so many pixels, it is faster.
RATIOS = (8, 4, 2, 1)
# By which pictures made smaller are most like those of a Lanczos filter: from how many times the wanted pixels of a
# side on the mean of areas is more so than a blur and bicubic, and that blur's standard deviation, in wanted pixels.
MANY, BLUR = 2.3, 0.33
# What Pillow's decoders raise on damaged files: they trust what the files say of themselves.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
                  ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)


def upright_rgb(image: Image.Image) -> Image.Image:
    """RGB, turned as its EXIF orientation says; what is transparent is laid on white, 16 bits become 8.

    The image that is given may itself be returned. Its EXIF block is read, never rewritten: most of what can be wrong
    in there does not concern the pixels.
    """
    image.load()
    if (turn := orientation(image)) in UPRIGHT:
        image = image.transpose(UPRIGHT[turn])
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 256, "L")
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8: from 5 on, width and height change places; 1 where the tag says nothing sound."""
    tag = image.getexif().get(ORIENTATION)
    return next((turn for turn in range(1, 9) if turn == tag), 1)


def smaller(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [rows, columns, channels] at no more pixels than it has, free of aliasing.

    A Gaussian blur of 3 x 3 pixels and bicubic, which is nearer to Lanczos than the mean of areas, in half of the time
    of that; the mean of areas where there are MANY times as many pixels as wanted, or more.
    """
    times = pixels.shape[1] / width
    if times < MANY:
        pixels = cv2.GaussianBlur(pixels, (3, 3), BLUR * times)
    filtered = cv2.INTER_CUBIC if times < MANY else cv2.INTER_AREA
    return cv2.resize(pixels, (width, height), interpolation=filtered).reshape(height, width, -1)


def flawless_jpeg(body: bytes, image: Image.Image, scale: float) -> np.ndarray | None:
    """What libjpeg makes of an RGB or grey JPEG, opened by Pillow as `image`, if it finds nothing to mend in it.

    uint8 [rows, columns, 3 or 1], as stored before its EXIF orientation is applied, with a `ratio_of(scale)` of the
    pixels of each side. Every coefficient is read whatever the scale, so all of the picture is known to be there.
    Faster than Pillow or TensorFlow, which both decode whatever this decodes. None where there is something to mend or
    the kind is a rare one: then they have to say whether it is sound.
    """
    if image.format not in JPEGS or image.mode not in ("RGB", "L") or _frame(body) not in FRAMES:
        return None
    ratio = ratio_of(scale)
    least = {"min_width": -(-image.width // ratio), "min_height": -(-image.height // ratio)} if ratio > 1 else {}
    try:
        return simplejpeg.decode_jpeg(body, colorspace="RGB" if image.mode == "RGB" else "GRAY", **least)
    except ValueError:
        return None


def draft(image: Image.Image, scale: float) -> None:
    """Let Pillow decode a JPEG, too, to a `ratio_of(scale)` of its pixels."""
    ratio = ratio_of(scale)
    image.draft(None, (max(1, image.width // ratio), max(1, image.height // ratio)))


def ratio_of(scale: float) -> int:
    """What part of the pixels of each side libjpeg is to give where `scale` of them are wanted: one of RATIOS.

    Twice as many as are wanted, or all, so that nothing is seen of what it leaves out.
    """
    return next((ratio for ratio in RATIOS if 2 * scale * ratio <= 1), 1)


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """uint8 [rows, columns, 3 or 1], of LONGEST_SIDE at most, as a JPEG, the colours of 2 x 2 pixels as one."""
    rgb = pixels.shape[2] == 3
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB" if rgb else "GRAY",
                                  "420" if rgb else "Gray", fastdct=False)


def _frame(body: bytes) -> int:
    """The marker that says how a JPEG is coded; 0 where none is found in a row of segments from the start."""
    at = 2
    while body[at: at + 1] == b"\xff" and len(body) > at + 3:
        if 0xC0 <= body[at + 1] <= 0xCF and body[at + 1] not in NO_FRAMES:
            return body[at + 1]
        at += 2 + int.from_bytes(body[at + 2: at + 4])
    return 0
