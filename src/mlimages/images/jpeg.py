"""JPEGs decoded fast where nothing is wrong with them, and encoded; what their markers say."""

import re
import struct
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from mlimages.images.resize import decode_ratio

JPEGS = ("JPEG", "MPO")  # as Pillow calls a file of several JPEGs, which decodes to its first one
# The frames that every libjpeg decodes: baseline, extended and progressive, with Huffman codes.
FRAMES = (0xC0, 0xC1, 0xC2)
ONE_SCAN_FRAMES = (0xC0, 0xC1)  # which have one scan where that holds all components
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # of the markers from C0 to CF
START, END, SCAN = 0xD8, 0xD9, 0xDA
# A marker between coded data, where 0 after 255 means that byte, and D0 to D7 begin an interval of it.
SEGMENT = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
APP0, APP1, ADOBE, APP15, COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
ORIENTATION = 0x0112  # the EXIF tag
EXIF, JFIF_BYTES = b"Exif\0\0", 14
FIRST_WITH_LENGTH = 0xC0  # of the markers; those below stand alone
LONGEST_SIDE = 65_500  # pixels of a JPEG, as libjpeg has it
# Pixels times scans that are decoded at most, which takes some 6 s. Encoders write about ten scans, so that this is a
# progressive picture of 100 megapixels; in 200 kB there is room for five times as much work.
MAX_SCANNED_PIXELS = 10**9


class JpegHeader(NamedTuple):
    """How a JPEG is coded: the marker of its frame, 0 where there is none, and whether it has several scans."""

    frame: int
    several_scans: bool


def read_header(body: bytes) -> JpegHeader:
    """What the segments say up to the first scan, in a row from the start."""
    frame = components = 0
    at = 2
    while body[at: at + 1] == b"\xff" and len(body) > at + 9:
        marker = body[at + 1]
        if marker == SCAN:
            return JpegHeader(frame, frame not in ONE_SCAN_FRAMES or body[at + 4] < components)
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES and not frame:
            frame, components = marker, body[at + 9]
        at += 2 + int.from_bytes(body[at + 2: at + 4])
    return JpegHeader(frame, True)


def count_scans(body: bytes, head: JpegHeader) -> int:
    """How many scans a JPEG has, or a few more where it holds other JPEGs, such as thumbnails.

    Coded pixels never look like a marker. The count takes a tenth of the time of decoding: where one scan is known to
    hold all, it is left out.
    """
    return body.count(bytes([0xFF, SCAN])) if head.several_scans else 1


def has_end_marker(body: bytes) -> bool:
    """Whether libjpeg comes to an end marker before the end of the bytes: where it does not, the file was cut off."""
    at = 2
    while found := SEGMENT.search(body, at):
        marker, at = found[1][0], found.end()
        if marker == END:
            return True
        if marker >= FIRST_WITH_LENGTH and marker != START:
            at += int.from_bytes(body[at: at + 2])
    return False


def strip_metadata(body: bytes) -> tuple[bytes, bytes]:
    """A JPEG without what applications put into it before its first scan, and its EXIF block, empty where it has none.

    What says how colours are coded stays: the marker of Adobe, and that of JFIF where it is whole.
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
    """A JPEG with an EXIF block before all others that says how to turn it, and else as it was."""
    block = EXIF + b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, turn, 0, 0)
    at = 4 + int.from_bytes(body[4:6]) if body[3] == APP0 else 2  # JFIF's comes first
    return body[:at] + bytes([0xFF, APP1]) + struct.pack(">H", len(block) + 2) + block + body[at:]


def decode_flawless(body: bytes, image: Image.Image, scale: float) -> np.ndarray | None:
    """What libjpeg makes of an RGB or grey JPEG, opened by Pillow as `image`, if it finds nothing to mend in it.

    uint8 [rows, columns, 3 or 1], as stored before its EXIF orientation is applied, with a `decode_ratio(scale)` of the
    pixels of each side. Every coefficient is read whatever the scale, so all of the picture is known to be there.
    Faster than Pillow or TensorFlow, which both decode whatever this decodes. None where there is something to mend or
    the kind is a rare one: then they have to say whether it is sound.
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
    """Let Pillow decode a JPEG, too, to a `decode_ratio(scale)` of its pixels."""
    ratio = decode_ratio(scale)
    image.draft(None, (max(1, image.width // ratio), max(1, image.height // ratio)))


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """uint8 [rows, columns, 3 or 1], of LONGEST_SIDE at most, as a JPEG, the colours of 2 x 2 pixels as one."""
    rgb = pixels.shape[2] == 3
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB" if rgb else "GRAY",
                                  "420" if rgb else "Gray", fastdct=False)
