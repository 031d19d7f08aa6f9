"""One verdict on a picture, for download and convert: what it is, whether it decodes to its end, and its pixels.

What does not concern the pixels never costs a picture: damaged EXIF, colour profiles and texts are ignored. These do:

- `not_image`: no JPEG, PNG, GIF or WebP. The detail names what it is.
- `corrupt`: the decoder does not come to the picture's end. A JPEG without its end marker was cut off, also where zeros
  or other bytes stand in its place: how much is missing cannot be known.
- `too_many_pixels`: more than Pillow opens, more than a JPEG has on a side, or more scans of them than any encoder
  writes.
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

# What Pillow's decoders raise on damaged files: they trust what the files say of themselves.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
                  ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)


class Defect(StrEnum):
    """Why a file is not taken for a picture."""

    NOT_IMAGE = "not_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    CORRUPT = "corrupt"


class Undecodable(ValueError):
    """A file that is not taken for a picture: the reason, and what was found, as `one_line`."""

    def __init__(self, reason: Defect, detail: str) -> None:
        self.reason, self.detail = reason, one_line(detail)
        super().__init__(f"{reason}: {self.detail}")


class ImageFile:
    """A picture of which the head was read. `format`, `mode` and `size` (width, height) are as Pillow says them.

    `turn` is its EXIF orientation, 1 to 8: from 5 on, width and height change places.
    """

    def __init__(self, body: bytes) -> None:
        """Raises Undecodable where the head is no sound one, or announces more work than is done for one picture."""
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
        """The ICC profile of its colours; empty where it has none."""
        return self._image.info.get("icc_profile") or b""

    @property
    def is_upright_jpeg(self) -> bool:
        """Whether it is an RGB or grey JPEG that lies as it is stored."""
        return self._is_common_jpeg and self.turn == 1

    @property
    def is_srgb(self) -> bool:
        """Whether no colour profile has to be applied to an RGB or grey picture."""
        return is_srgb(self.profile, self.mode)

    @property
    def _is_common_jpeg(self) -> bool:
        return self.format in JPEGS and self.mode in ("RGB", "L")

    def is_flawless(self) -> bool:
        """Whether libjpeg decodes it to its end and finds nothing to mend."""
        return self._decoded_fast(0) is not None

    def check(self) -> None:
        """Decode it to its end, as fast as can be. Undecodable where `pixels` would raise it, whatever the scale."""
        if not self.is_flawless():
            image = self._load(0)
            self._flat(image.crop((0, 0, 1, 1)))

    def pixels(self, scale: float) -> np.ndarray:
        """All of it, upright, in sRGB, laid on white where it is transparent; each side made `scale` times as long.

        uint8 [rows, columns, 3], or [rows, columns, 1] of a grey picture. Raises Undecodable where it does not decode
        to its end, or where the result has a side too long for a JPEG.
        """
        width, height = (max(1, round(side * scale)) for side in self.size)
        check_sides((width, height))
        pixels = self._decoded_fast(scale)
        if pixels is None:
            image = self._flat(self._load(scale))
            pixels = np.asarray(image).reshape(image.height, image.width, -1)
        if pixels.shape[:2] != (height, width):
            pixels = downscale(pixels, width, height)
        if self.mode != "CMYK":
            pixels = to_srgb(pixels, self.profile)
        return apply_orientation(pixels, self.turn)

    def _decoded_fast(self, scale: float) -> np.ndarray | None:
        """See `decode_flawless`."""
        if self._flawed or not self._is_common_jpeg:
            return None
        pixels = decode_flawless(self.body, self._image, scale)
        self._flawed = pixels is None
        return pixels

    def _load(self, scale: float) -> Image.Image:
        """The picture as Pillow decodes it, to its end."""
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

    def _flat(self, image: Image.Image) -> Image.Image:
        """RGB, or L of a grey picture: 16 bits become 8, what is transparent is laid on white."""
        try:
            if self._png and self._png.key:
                return fill_transparent(image, self._png)
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
            if image.mode == "CMYK":
                # Pillow takes the values for inverted, as Adobe's programs write them.
                inverted = image if "adobe" in image.info else image.point(lambda value: 255 - value)
                return cmyk_to_rgb(inverted, self.profile)
            image = to_eight_bits(image)
            return image if image.mode in ("RGB", "L") else image.convert("L" if image.mode == "1" else "RGB")
        except DECODER_ERRORS as error:
            raise _corrupt(error) from None


def check_sides(size: tuple[int, int]) -> None:
    """Undecodable where a side is too long for a JPEG."""
    if max(size) > LONGEST_SIDE:
        raise Undecodable(Defect.TOO_MANY_PIXELS, f"{_by(size)} pixels, and a JPEG has {LONGEST_SIDE} at most a side")


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where EXIF says nothing sound. What XMP says does not count, as in browsers."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        tag = exif.get(ORIENTATION)
    except DECODER_ERRORS:
        return 1
    return next((turn for turn in range(1, 9) if turn == tag), 1)


def apply_orientation(pixels: np.ndarray, turn: int) -> np.ndarray:
    """[rows, columns, channels] as stored with an orientation, upright."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _open(body: bytes, png: PngContent | None) -> Image.Image:
    """The picture with its head read, a PNG by its essentials."""
    if png:
        image = _opened_by_pillow(png.body)
        image.info.update(exif=png.exif, icc_profile=png.profile)
        return image
    try:
        return _opened_by_pillow(body)
    except Undecodable:
        if detect_format(body) != "JPEG":
            raise
    bare, exif = strip_metadata(body)
    image = _opened_by_pillow(bare)
    image.info["exif"] = exif
    return image


def _opened_by_pillow(body: bytes) -> Image.Image:
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
    """Pillow's own words, and the kind of error where they may be those of Python."""
    kind = [] if isinstance(error, (OSError, SyntaxError)) and str(error) else [type(error).__name__]
    return Undecodable(Defect.CORRUPT, ": ".join(["Pillow", *kind, *filter(None, [str(error)])]))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
