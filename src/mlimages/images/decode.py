"""Check and decode image files. The stages download and convert accept the same files.

Damaged EXIF blocks, colour profiles and texts are ignored. A file is refused for one of these reasons:

- `not_image`: it is not a JPEG, PNG, GIF or WebP. The detail names its format.
- `corrupt`: it does not decode to its end. A JPEG without an end marker counts as truncated, even if other bytes follow
  its data: how much is missing is unknown.
- `too_many_pixels`: it is larger than Pillow allows, a side is too long for a JPEG, or it has more scans than encoders
  write.
"""

import io
import struct
import zlib
from enum import StrEnum

import numpy as np
from PIL import Image

from mlimages.core.errors import one_line
from mlimages.images.colour import cmyk_to_rgb, is_srgb, to_srgb
from mlimages.images.formats import FORMATS, detect_format
from mlimages.images.jpeg import (
    FRAMES,
    JPEGS,
    LONGEST_SIDE,
    MAX_SCANNED_PIXELS,
    ORIENTATION,
    count_scans,
    decode_flawless,
    draft,
    has_end_marker,
    read_header,
    strip_metadata,
)
from mlimages.images.png import PngContent, fill_transparent, read_png, to_eight_bits
from mlimages.images.resize import downscale

# The errors of Pillow's decoders for damaged files. They trust the sizes and offsets in a file.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
                  ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)


class Defect(StrEnum):
    """The reason to refuse a file."""

    NOT_IMAGE = "not_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    CORRUPT = "corrupt"


class Undecodable(ValueError):
    """A file is refused. `detail` says what was found, as `one_line`."""

    def __init__(self, reason: Defect, detail: str) -> None:
        self.reason, self.detail = reason, one_line(detail)
        super().__init__(f"{reason}: {self.detail}")


class ImageFile:
    """An image file whose header was read. `format`, `mode` and `size` (width, height) are Pillow's.

    `turn` is the EXIF orientation, from 1 to 8. Orientations from 5 on exchange width and height.
    """

    def __init__(self, body: bytes) -> None:
        """Read the header. Raises Undecodable if it is damaged, or announces too many pixels or scans."""
        self.body = body
        self._png = read_png(body) if detect_format(body) == "PNG" else None
        self._image = _open(body, self._png)
        self._unread: Image.Image | None = self._image
        self._flawed = False
        self.format, self.mode, self.size = str(self._image.format), self._image.mode, self._image.size
        self.turn = read_orientation(self._image)
        self._head = read_header(body)
        if self.format in JPEGS:
            scans = count_scans(body, self._head)
            if scans * self.size[0] * self.size[1] > MAX_SCANNED_PIXELS:
                raise Undecodable(Defect.TOO_MANY_PIXELS, f"{_by(self.size)} pixels in {scans} scans")

    @property
    def profile(self) -> bytes:
        """The ICC profile, or no bytes."""
        return self._image.info.get("icc_profile") or b""

    @property
    def is_upright_jpeg(self) -> bool:
        """Whether it is an RGB or grey JPEG without a rotation."""
        return self.format in JPEGS and self.mode in ("RGB", "L") and self.turn == 1

    @property
    def is_srgb(self) -> bool:
        """Whether an RGB or grey picture is in sRGB."""
        return is_srgb(self.profile, self.mode)

    def is_flawless(self) -> bool:
        """Whether libjpeg decodes it to its end without a warning."""
        return self._decode_flawless(0) is not None

    def check(self) -> None:
        """Decode it at the lowest scale. Raises Undecodable if `pixels` raises it at any scale."""
        if not self.is_flawless():
            image = self._load(0)
            self._flatten(image.crop((0, 0, 1, 1)))

    def pixels(self, scale: float) -> np.ndarray:
        """Decode it upright, in sRGB, on a white background, with each side scaled by `scale`.

        Returns uint8 [rows, columns, 3], or [rows, columns, 1] for a grey picture. Raises Undecodable if it does not
        decode to its end, or if a side of the result is too long for a JPEG.
        """
        width, height = (max(1, round(side * scale)) for side in self.size)
        check_sides((width, height))
        pixels = self._decode_flawless(scale)
        if pixels is None:
            image = self._flatten(self._load(scale))
            pixels = np.asarray(image).reshape(image.height, image.width, -1)
        if pixels.shape[:2] != (height, width):
            pixels = downscale(pixels, width, height)
        if self.mode != "CMYK":
            pixels = to_srgb(pixels, self.profile)
        return apply_orientation(pixels, self.turn)

    def _decode_flawless(self, scale: float) -> np.ndarray | None:
        """Call `decode_flawless`, unless it has failed before."""
        pixels = None if self._flawed else decode_flawless(self.body, self._image, scale)
        self._flawed = pixels is None
        return pixels

    def _load(self, scale: float) -> Image.Image:
        """Decode it with Pillow, to its end."""
        image, self._unread = self._unread or _open(self.body, self._png), None
        try:
            if self._head.frame in FRAMES:
                draft(image, scale)
            image.load()
        except DECODER_ERRORS as error:
            raise _corrupt(error) from None
        if self.format in JPEGS and not has_end_marker(self.body):
            raise Undecodable(Defect.CORRUPT, "it has no end marker: the file was cut off")
        return image

    def _flatten(self, image: Image.Image) -> Image.Image:
        """Convert a decoded picture to RGB or L, with 8 bits, on a white background."""
        try:
            if self._png and self._png.key:
                return fill_transparent(image, self._png)
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
            if image.mode == "CMYK":
                # Pillow inverts all CMYK pictures, as those of Adobe's programs need.
                inverted = image if "adobe" in image.info else image.point(lambda value: 255 - value)
                return cmyk_to_rgb(inverted, self.profile)
            image = to_eight_bits(image)
            return image if image.mode in ("RGB", "L") else image.convert("L" if image.mode == "1" else "RGB")
        except DECODER_ERRORS as error:
            raise _corrupt(error) from None


def check_sides(size: tuple[int, int]) -> None:
    """Raise Undecodable if a side, in pixels, is too long for a JPEG."""
    if max(size) > LONGEST_SIDE:
        raise Undecodable(Defect.TOO_MANY_PIXELS, f"{_by(size)} pixels, and a JPEG has {LONGEST_SIDE} at most a side")


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, from 1 to 8; 1 if EXIF has no valid one. XMP is ignored, as in browsers."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        tag = exif.get(ORIENTATION)
    except DECODER_ERRORS:
        return 1
    return next((turn for turn in range(1, 9) if turn == tag), 1)


def apply_orientation(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Turn the pixels [rows, columns, channels] of a picture with an EXIF orientation upright."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _open(body: bytes, png: PngContent | None) -> Image.Image:
    """Read the header. Of a PNG only the chunks that the pixels need, of a damaged JPEG no metadata."""
    if png:
        image = _open_with_pillow(png.body)
        image.info.update(exif=png.exif, icc_profile=png.profile)
        return image
    try:
        return _open_with_pillow(body)
    except Undecodable:
        if detect_format(body) != "JPEG":
            raise
    bare, exif = strip_metadata(body)
    image = _open_with_pillow(bare)
    image.info["exif"] = exif
    return image


def _open_with_pillow(body: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(body), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Undecodable(Defect.TOO_MANY_PIXELS, str(error)) from None
    except Image.UnidentifiedImageError:
        if (kind := detect_format(body)) in FORMATS:
            raise Undecodable(Defect.CORRUPT, f"a {kind} with a damaged head") from None
        raise Undecodable(Defect.NOT_IMAGE, f"{kind}, expected JPEG, PNG, GIF or WebP") from None
    except DECODER_ERRORS as error:
        raise _corrupt(error) from None


def _corrupt(error: Exception) -> Undecodable:
    """The error for a damaged file, with Pillow's message. The error's type is added if it may be Python's message."""
    kind = [] if isinstance(error, (OSError, SyntaxError)) and str(error) else [type(error).__name__]
    return Undecodable(Defect.CORRUPT, ": ".join(["Pillow", *kind, *filter(None, [str(error)])]))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
