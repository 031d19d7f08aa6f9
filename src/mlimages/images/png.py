"""The parts of a PNG that concern its pixels, without those that a strict decoder stumbles over.

Only the chunks that the pixels need go to Pillow. What a damaged or huge ancillary chunk holds is ignored, as browsers
and libpng do.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from mlimages.images.colour import MAX_PROFILE_BYTES

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # the colour types that a tRNS chunk may belong to
END = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


class PngContent(NamedTuple):
    """A PNG as `body` with nothing but what its pixels need, and what the other chunks say of them.

    `exif` and `profile` (ICC) are empty where there is none that is sound. `key` is the sample, of `bits` bits, or the
    three samples that are transparent in a grey or RGB picture; empty where none is.
    """

    body: bytes
    exif: bytes
    profile: bytes
    bits: int
    key: tuple[int, ...]


def read_png(body: bytes) -> PngContent:
    """The essentials of a PNG; whether its pixels are sound is for the decoder to say."""
    kept: list[bytes] = [SIGNATURE]
    found: dict[bytes, bytes] = {}
    colour = bits = -1
    for kind, data, chunk in _chunks(body):
        first = kind not in found
        if kind == b"IDAT" or (kind in (b"IHDR", b"PLTE") and first):
            kept.append(chunk)
        elif kind == b"tRNS" and colour == PALETTE and first and _is_sound(chunk) and (
                b"IDAT" not in found and 3 * len(data) <= len(found.get(b"PLTE", b""))):
            kept.append(chunk)
        if kind == b"IHDR" and len(data) == 13:
            bits, colour = data[8:10]
        if first and (kind[0] < ord("a") or _is_sound(chunk)):
            found[kind] = data
    return PngContent(b"".join([*kept, END]), found.get(b"eXIf", b""), _profile(found.get(b"iCCP", b"")), bits,
                      _key(colour, bits, found.get(b"tRNS", b"")))


def fill_transparent(image: Image.Image, png: PngContent) -> Image.Image:
    """The loaded picture, L or RGB, with 255 where its samples are those of `png.key`."""
    if image.mode == "RGB" and png.bits == 16:  # of which Pillow keeps the upper halves
        samples = _samples_of_16_bits(png)[: image.height, : image.width]
    else:
        samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    pixels = np.array(to_eight_bits(image).convert("RGB" if image.mode == "RGB" else "L"))
    transparent = samples == (np.array(png.key) if png.bits >= 8 else png.key[0] * 255 // (2**png.bits - 1))
    pixels[transparent.all(axis=2) if transparent.ndim == 3 else transparent] = 255
    return Image.fromarray(pixels)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits as L; every other one as it is."""
    return image.point(lambda value: value / 256, "L") if image.mode.startswith("I;16") else image


def _samples_of_16_bits(png: PngContent) -> np.ndarray:
    """uint16 [rows, columns, 3], red first."""
    pixels = cv2.imdecode(np.frombuffer(png.body, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise OSError("OpenCV does not decode its samples of 16 bits")
    return pixels[:, :, ::-1]


def _chunks(body: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, data and the whole bytes of each chunk, of the last one as many as there are."""
    at = len(SIGNATURE)
    while at + 8 <= len(body):
        size = int.from_bytes(body[at: at + 4])
        yield body[at + 4: at + 8], body[at + 8: at + 8 + size], body[at: at + 12 + size]
        at += 12 + size


def _is_sound(chunk: bytes) -> bool:
    """Whether a chunk is whole and has the checksum that it says."""
    return len(chunk) == 12 + int.from_bytes(chunk[:4]) and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _profile(data: bytes) -> bytes:
    """The colour profile of an iCCP chunk: its name, a zero, the method 0, and the compressed profile."""
    _, _, rest = data.partition(b"\0")
    try:
        decoder = zlib.decompressobj()
        profile = decoder.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if decoder.eof else b""


def _key(colour: int, bits: int, data: bytes) -> tuple[int, ...]:
    """The samples of a tRNS chunk: of each 16 bits, as many as the picture's samples have count."""
    if len(data) != {GREY: 2, RGB: 6}.get(colour):
        return ()
    return tuple(sample & (2**bits - 1) for sample in struct.unpack(f">{len(data) // 2}H", data))
