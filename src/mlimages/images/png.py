"""Reduce a PNG to the chunks that its pixels need.

Pillow refuses a file for a damaged or huge ancillary chunk. Browsers and libpng ignore such chunks, and so does this
project.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from mlimages.images.colour import MAX_PROFILE_BYTES

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # the colour types that may have a tRNS chunk
END = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


class PngContent(NamedTuple):
    """A PNG reduced to the chunks that its pixels need, `body`, and the content of other chunks.

    `exif` and `profile` (ICC) are empty if they are missing or damaged. `bits` is the depth of a sample. `key` is the
    transparent colour of a grey or RGB picture: one or three samples, or empty.
    """

    body: bytes
    exif: bytes
    profile: bytes
    bits: int
    key: tuple[int, ...]


def read_png(body: bytes) -> PngContent:
    """Read the chunks of a PNG. The pixels are not checked."""
    kept: list[bytes] = [SIGNATURE]
    found: dict[bytes, bytes] = {}
    colour = bits = -1
    for kind, data, chunk in _chunks(body):
        first = kind not in found
        if kind == b"IDAT" or (kind in (b"IHDR", b"PLTE") and first):
            kept.append(chunk)
        elif kind == b"tRNS" and colour == PALETTE and first and _is_valid(chunk) and (
                b"IDAT" not in found and 3 * len(data) <= len(found.get(b"PLTE", b""))):
            kept.append(chunk)
        if kind == b"IHDR" and len(data) == 13:
            bits, colour = data[8:10]
        if first and (kind[0] < ord("a") or _is_valid(chunk)):
            found[kind] = data
    return PngContent(b"".join([*kept, END]), found.get(b"eXIf", b""), _profile(found.get(b"iCCP", b"")), bits,
                      _key(colour, bits, found.get(b"tRNS", b"")))


def fill_transparent(image: Image.Image, png: PngContent) -> Image.Image:
    """Make the transparent pixels of a decoded picture white. Returns L or RGB."""
    if image.mode == "RGB" and png.bits == 16:  # Pillow keeps the upper 8 bits only
        samples = _samples_of_16_bits(png)[: image.height, : image.width]
    else:
        samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    pixels = np.array(to_eight_bits(image).convert("RGB" if image.mode == "RGB" else "L"))
    transparent = samples == (np.array(png.key) if png.bits >= 8 else png.key[0] * 255 // (2**png.bits - 1))
    pixels[transparent.all(axis=2) if transparent.ndim == 3 else transparent] = 255
    return Image.fromarray(pixels)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Convert a grey picture of 16 bits to L. Other pictures stay unchanged."""
    return image.point(lambda value: value / 256, "L") if image.mode.startswith("I;16") else image


def _samples_of_16_bits(png: PngContent) -> np.ndarray:
    """Decode to uint16 [rows, columns, 3], in the order red, green, blue."""
    import cv2  # only here: few pictures need it

    pixels = cv2.imdecode(np.frombuffer(png.body, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise OSError("OpenCV does not decode its samples of 16 bits")
    return pixels[:, :, ::-1]


def _chunks(body: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the type, the data and all bytes of each chunk. The last one may be truncated."""
    at = len(SIGNATURE)
    while at + 8 <= len(body):
        size = int.from_bytes(body[at: at + 4])
        yield body[at + 4: at + 8], body[at + 8: at + 8 + size], body[at: at + 12 + size]
        at += 12 + size


def _is_valid(chunk: bytes) -> bool:
    """Whether a chunk is complete and has the right checksum."""
    return len(chunk) == 12 + int.from_bytes(chunk[:4]) and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _profile(data: bytes) -> bytes:
    """The profile of an iCCP chunk, which holds a name, two zero bytes and the compressed profile."""
    _, _, rest = data.partition(b"\0")
    try:
        decoder = zlib.decompressobj()
        profile = decoder.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if decoder.eof else b""


def _key(colour: int, bits: int, data: bytes) -> tuple[int, ...]:
    """The samples of a tRNS chunk. Of the 16 bits of each, the lower `bits` count."""
    if len(data) != {GREY: 2, RGB: 6}.get(colour):
        return ()
    return tuple(sample & (2**bits - 1) for sample in struct.unpack(f">{len(data) // 2}H", data))
