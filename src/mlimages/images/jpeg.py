"""Decode undamaged JPEGs fast, encode JPEGs, and read their markers."""

import re
import struct
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from mlimages.images.resize import decode_ratio

JPEGS = ("JPEG", "MPO")  # Pillow's formats; MPO is a file of several JPEGs, of which the first is decoded
# The frames that every libjpeg decodes: baseline, extended and progressive, with Huffman codes.
FRAMES = (0xC0, 0xC1, 0xC2)
SEQUENTIAL_FRAMES = (0xC0, 0xC1)  # they have one scan if that scan holds all components
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # markers from C0 to CF that begin no frame
START, END, SCAN = 0xD8, 0xD9, 0xDA
# A marker. In coded data, FF 00 means the byte FF, and D0 to D7 are restart markers.
SEGMENT = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
APP0, APP1, ADOBE, APP15, COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
ORIENTATION = 0x0112  # the EXIF tag
EXIF, JFIF_BYTES = b"Exif\0\0", 14
FIRST_WITH_LENGTH = 0xC0  # markers below have no length and no data
LONGEST_SIDE = 65_500  # pixels, libjpeg's limit
# The highest number of pixels times scans, which takes about 6 s. Encoders write about ten scans, so it allows
# progressive pictures of 100 megapixels. Without it, a file of 200 kB could take five times as long.
MAX_SCANNED_PIXELS = 10**9


class JpegHeader(NamedTuple):
    """The marker of a JPEG's frame, 0 without one, and whether the frame may have several scans."""

    frame: int
    several_scans: bool


def read_header(body: bytes) -> JpegHeader:
    """Read the segments before the first scan."""
    frame = components = 0
    at = 2
    while body[at: at + 1] == b"\xff" and len(body) > at + 9:
        marker = body[at + 1]
        if marker == SCAN:
            return JpegHeader(frame, frame not in SEQUENTIAL_FRAMES or body[at + 4] < components)
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES and not frame:
            frame, components = marker, body[at + 9]
        at += 2 + int.from_bytes(body[at + 2: at + 4])
    return JpegHeader(frame, True)


def count_scans(body: bytes, head: JpegHeader) -> int:
    """The number of scans, or a few more if the file holds other JPEGs, such as thumbnails.

    Coded data hold no markers, so the markers are counted in all bytes. This takes a tenth of the time of decoding, and
    is skipped if the header announces a single scan.
    """
    return body.count(bytes([0xFF, SCAN])) if head.several_scans else 1


def has_end_marker(body: bytes) -> bool:
    """Whether libjpeg finds an end marker. A file without one is truncated."""
    at = 2
    while found := SEGMENT.search(body, at):
        marker, at = found[1][0], found.end()
        if marker == END:
            return True
        if marker >= FIRST_WITH_LENGTH and marker != START:
            at += int.from_bytes(body[at: at + 2])
    return False


def strip_metadata(body: bytes) -> tuple[bytes, bytes]:
    """Remove application data and comments before the first scan. Returns the JPEG and its EXIF block, or no bytes.

    Adobe's segment and a complete JFIF segment stay, as they define the coding of colours.
    """
    kept, exif, at = [body[:2]], b"", 2
    while body[at: at + 1] == b"\xff" and len(body) > at + 3 and body[at + 1] != SCAN:
        marker, end = body[at + 1], at + 2 + int.from_bytes(body[at + 2: at + 4])
        data = body[at + 4: end]
        if marker == APP1 and not exif and data.startswith(EXIF):
            exif = data
        if not (APP0 <= marker <= APP15 or marker == COMMENT) or marker == ADOBE or (
                marker == APP0 and len(data) >= JFIF_BYTES):
            kept.append(body[at:end])
        at = end
    return b"".join([*kept, body[at:]]), exif


def set_orientation(body: bytes, turn: int) -> bytes:
    """Insert an EXIF block with an orientation before all others."""
    block = EXIF + b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, turn, 0, 0)
    at = 4 + int.from_bytes(body[4:6]) if body[3] == APP0 else 2  # a JFIF segment must be the first
    return body[:at] + bytes([0xFF, APP1]) + struct.pack(">H", len(block) + 2) + block + body[at:]


def decode_flawless(body: bytes, image: Image.Image, scale: float) -> np.ndarray | None:
    """Decode an RGB or grey JPEG with libjpeg-turbo, which is faster than Pillow and TensorFlow.

    `image` is the same file, opened by Pillow. Returns uint8 [rows, columns, 3 or 1] before its EXIF orientation is
    applied, with each side divided by `decode_ratio(scale)`. Every coefficient is read at any scale, so that truncated
    files never pass. Pillow and TensorFlow decode whatever this function decodes.

    Returns None if libjpeg warns, and for rare kinds of JPEG. Pillow must then decide.
    """
    if image.format not in JPEGS or image.mode not in ("RGB", "L") or read_header(body).frame not in FRAMES:
        return None
    ratio = decode_ratio(scale)
    least = {"min_width": -(-image.width // ratio), "min_height": -(-image.height // ratio)} if ratio > 1 else {}
    try:
        return simplejpeg.decode_jpeg(body, colorspace="RGB" if image.mode == "RGB" else "GRAY", **least)
    except ValueError:
        return None


def draft(image: Image.Image, scale: float) -> None:
    """Let Pillow divide the sides of a JPEG by `decode_ratio(scale)` when it decodes it."""
    ratio = decode_ratio(scale)
    image.draft(None, (max(1, image.width // ratio), max(1, image.height // ratio)))


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode uint8 [rows, columns, 3 or 1], with sides of at most LONGEST_SIDE, as a JPEG with 4:2:0 subsampling."""
    rgb = pixels.shape[2] == 3
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB" if rgb else "GRAY",
                                  "420" if rgb else "Gray", fastdct=False)
