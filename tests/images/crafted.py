"""Valid, damaged and unusual pictures of 120 x 90 pixels, with the verdict that download and convert must give."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 120, 90
ORIENTATION = 0x0112
OK, CORRUPT, NOT_IMAGE, TOO_MANY = "ok", "corrupt", "not_image", "too_many_pixels"


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(mode: str = "RGB") -> Image.Image:
    """A picture with gradients in all colours."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / WIDTH
    waves = [127 + 120 * np.sin(5 * x * (band + 1)) * np.cos(7 * y) for band in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8)).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*extra: bytes, bits: int = 8, colour: int = 2, rows: bytes | None = None, after: bytes = b"") -> bytes:
    """A PNG with extra chunks before and after its pixels. By default it is an RGB gradient."""
    rows = rows if rows is not None else (b"\0" + bytes(range(0, 240, 2)) * 3) * HEIGHT
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + after
            + chunk(b"IEND", b""))


def with_bad_checksum(whole: bytes) -> bytes:
    return whole[:-1] + bytes([whole[-1] ^ 1])


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(body: bytes, *segments: bytes) -> bytes:
    """Insert segments at the start of a JPEG."""
    return body[:2] + b"".join(segments) + body[2:]


def without_segment(body: bytes, marker: int) -> bytes:
    """Remove the first segment with a marker from a JPEG."""
    at = body.index(bytes([0xFF, marker]))
    return body[:at] + body[at + 2 + int.from_bytes(body[at + 2: at + 4]):]


def exif(turn: int) -> bytes:
    block = Image.Exif()
    block[ORIENTATION] = turn
    return block.tobytes()


def xmp(turn: int) -> bytes:
    return (b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF "
            b"xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description "
            b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>' % turn)


def bomb(side: int, scans: int) -> bytes:
    """A grey progressive JPEG with `side` pixels a side and many short scans that change nothing."""
    small = encoded(Image.new("L", (8, 8), 128), "JPEG", progressive=True)
    frame = small.index(b"\xff\xc2") + 5
    body = small[:frame] + struct.pack(">HH", side, side) + small[frame + 4:-2]
    runs = -(-((side + 7) // 8) ** 2 // 16_384)
    table = segment(0xC4, b"\x10" + bytes([1]) + bytes(15) + b"\xe0")  # 15 zero bits skip 16,384 blocks
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + bytes(-(-15 * runs // 8))
    return body + table + scan * scans + b"\xff\xd9"


LEVELS16 = np.linspace(0, 65535, WIDTH).astype(">u2").tobytes()
PHOTO = encoded(scene(), quality=90)
PROGRESSIVE = encoded(scene(), progressive=True)
CMYK = encoded(scene("CMYK"), quality=95)
# Pillow writes 255 for no ink, as Adobe's marker announces. Without the marker, 255 means full ink.
PLAIN_CMYK = without_segment(encoded(scene("CMYK").point(lambda value: 255 - value), quality=95), 0xEE)
EXIF_GARBAGE = (b"", b"Exif\0\0garbage!", b"\0\0\x11\0\0\x01\4\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff",
                b"II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0")


def _sound() -> Iterator[tuple[str, bytes]]:
    """Pictures with complete pixels, and with damaged metadata of all kinds."""
    for kind in ("JPEG", "PNG", "GIF", "WEBP"):
        for mode in ("RGB", "L"):
            yield f"{kind} {mode}", encoded(scene(mode), kind)
    for mode in ("P", "LA", "RGBA", "1", "I;16"):
        image = Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)) if mode == "I;16" else scene(
            "L" if mode == "LA" else "RGB").convert(mode)
        yield f"PNG {mode}", encoded(image, "PNG")
    yield "progressive", PROGRESSIVE
    yield "with restarts", encoded(scene(), restart_marker_blocks=3)
    yield "something behind it", PHOTO + b"something"
    yield "CMYK", CMYK
    yield "CMYK without Adobe's marker", PLAIN_CMYK
    yield "MPO", encoded(scene(), "MPO", save_all=True, append_images=[scene()])
    yield "APNG", encoded(scene(), "PNG", save_all=True, append_images=[scene().rotate(90)])
    for name, content in (("broken Exif", b"Exif\0\0garbage"), ("empty", b""), ("ICC of no parts", b"ICC_PROFILE\0\1"),
                          ("broken MPF", b"MPF\0II*\0\xff\xff\xff\xff"),
                          ("MPF of nothing", b"MPF\0II*\0\x08\0\0\0\0\0"),
                          ("JFIF", b"JFIF\0"),
                          ("Photoshop", b"Photoshop 3.0\x008BIM\x04\x04\xff\xff\xff\xff"),
                          ("ICC", b"ICC_PROFILE\0\1\1garbage"), ("XMP", xmp(6)), ("Adobe", b"Adobe")):
        for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xFE) + (0xEE,) * (name == "empty"):
            yield f"JPEG, {name} in {marker:X}", with_segments(PHOTO, segment(marker, content))
    for number, garbage in enumerate(EXIF_GARBAGE):
        yield f"JPEG, Exif {number}", with_segments(PHOTO, segment(0xE1, b"Exif\0\0" + garbage))
        yield f"PNG, eXIf {number}", png(chunk(b"eXIf", garbage))
        if garbage:
            yield f"WebP, EXIF {number}", encoded(scene(), "WEBP", exif=garbage)
    garbage = b"garbage" * 20
    yield "JPEG, ICC garbage", encoded(scene(), quality=90, icc_profile=garbage)
    yield "PNG, ICC garbage", png(chunk(b"iCCP", b"p\0\0" + zlib.compress(garbage)))
    yield "WebP, ICC garbage", encoded(scene(), "WEBP", icc_profile=garbage)
    yield "WebP, XMP garbage", encoded(scene(), "WEBP", xmp=b"\xff" * 100)
    yield "WebP, two frames", encoded(scene(), "WEBP", save_all=True, append_images=[scene().rotate(90)])
    yield "WebP, lossless and transparent", encoded(scene().convert("RGBA"), "WEBP", lossless=True, icc_profile=b"bad")
    yield "GIF with a comment", encoded(scene(), "GIF", comment=b"x" * 100_000)
    yield "GIF without a trailer", encoded(scene(), "GIF")[:-1]
    yield "GIF, transparent", encoded(scene("P"), "GIF", transparency=3)
    yield "PNG, turned behind the pixels", png(after=chunk(b"eXIf", exif(6)))
    for turn in range(10):
        yield f"JPEG, turned {turn}", encoded(scene(), exif=exif(turn))
        yield f"PNG, turned {turn}", encoded(scene(), "PNG", exif=exif(turn))
    for chunk_kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"bKGD", b"tIME",
                       b"tRNS", b"sBIT", b"hIST", b"sPLT", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"cICP", b"vpAg"):
        for data in (b"", b"\0", b"a\0b", b"p\0\0" + zlib.compress(bytes(2**21)), b"p\0\0garbage", bytes(13)):
            yield f"PNG, {chunk_kind.decode()} {data[:9]!r} ({len(data)})", png(chunk(chunk_kind, data))
        yield f"PNG, {chunk_kind.decode()} with a bad checksum", png(with_bad_checksum(chunk(chunk_kind, b"a\0b")))
    yield "PNG, iTXt of 2 MiB", png(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2**21))))
    yield "PNG, bad text behind the pixels", png(after=with_bad_checksum(chunk(b"tEXt", b"a\0b")))
    yield "PNG without an end", png()[:-12]
    yield "16 bits, transparent", png(chunk(b"tRNS", b"\0\7"), bits=16, colour=0, rows=(b"\0" + LEVELS16) * HEIGHT)
    yield "16 bits RGB, transparent", png(chunk(b"tRNS", b"\1\2\3\4\5\6"), bits=16,
                                          rows=(b"\0" + b"\1\2\3\4\5\6" * 60 + b"\1\3\3\4\5\6" * 60) * HEIGHT)
    for bits in (1, 2, 4, 8):
        yield f"{bits} bits, transparent", png(chunk(b"tRNS", b"\0\1"), bits=bits, colour=0,
                                               rows=(b"\0" + b"\x1b" * (WIDTH * bits // 8)) * HEIGHT)
    yield "palette, transparent", png(chunk(b"PLTE", bytes(range(48))), chunk(b"tRNS", bytes(300)), bits=4, colour=3,
                                      rows=(b"\0" + b"\x01" * 60) * HEIGHT)
    yield "50 scans", bomb(64, 50)


def _damaged() -> Iterator[tuple[str, bytes, str]]:
    for name, whole in (("baseline", PHOTO), ("progressive", PROGRESSIVE), ("CMYK", CMYK),
                        ("turned", encoded(scene(), exif=exif(6)))):
        yield f"{name} without an end marker", whole[:-2], CORRUPT
        yield f"{name} with half an end marker", whole[:-1], CORRUPT
        for more in (2, 64, 5000):
            yield f"{name} with {more} zeros for an end marker", whole[:-2] + bytes(more), CORRUPT
        yield f"{name}, half of it", whole[: len(whole) // 2], CORRUPT
        yield f"{name}, half of it zeros", whole[: len(whole) // 2] + bytes(len(whole) // 2), CORRUPT
    yield "head of a JPEG", b"\xff\xd8\xff", CORRUPT
    yield "half a PNG", png()[:100], CORRUPT
    yield "PNG with a bad head", with_bad_checksum(png()[:33]) + png()[33:], CORRUPT
    yield "half a WebP", encoded(scene(), "WEBP")[:200], CORRUPT
    yield "half a GIF", encoded(scene(), "GIF")[:900], CORRUPT
    yield "too many scans", bomb(7000, 100), TOO_MANY
    yield "too long for a JPEG", encoded(Image.new("L", (70_000, 20)), "PNG"), TOO_MANY
    for kind in ("BMP", "TIFF", "ICO", "AVIF"):
        yield kind, encoded(scene(), kind), NOT_IMAGE
    yield "a page", b"<!DOCTYPE html><html>Sign in</html>", NOT_IMAGE
    yield "nothing", b"", NOT_IMAGE


VERDICTS = {**{name: (body, OK) for name, body in _sound()},
            **{name: (body, verdict) for name, body, verdict in _damaged()}}
