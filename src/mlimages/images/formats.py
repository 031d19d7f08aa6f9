"""Detect the format of a file by its first bytes: those that are decoded, and others that servers send instead."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
SIGNATURES = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"),
              (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"), (b"BM", "BMP"),
              (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"\0\0\0\x0cjP  ", "JPEG 2000"),
              (b"\xff\x4f\xff\x51", "JPEG 2000"), (b"\0\0\1\0", "ICO"), (b"8BPS", "PSD"), (b"%PDF", "PDF"),
              (b"PK\3\4", "ZIP"), (b"\x1f\x8b", "gzip"))
# The brands of ISO media files, in bytes 8 to 11.
BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}
HEAD_BYTES = 512  # enough to recognize HTML and other texts
SHOWN_BYTES = 8


def detect_format(body: bytes) -> str:
    """One of FORMATS, the name of another format, or a text with the first bytes of an unknown one."""
    head = body[:HEAD_BYTES]
    if not head:
        return "nothing"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "a video")
    for signature, name in SIGNATURES:
        if head.startswith(signature):
            return name
    return _detect_text(head)


def _detect_text(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in text:
        return "SVG"
    if text.startswith((b"<!doctype html", b"<html")) or b"<head" in text or b"<body" in text:
        return "HTML"
    if text.startswith(b"<"):
        return "XML or HTML"
    if text.startswith((b"{", b"[")):
        return "JSON"
    if not head.strip(b"\0"):
        return "zero bytes"
    if text and all(32 <= byte < 127 or byte in b"\t\n\r" for byte in head):
        return "text"
    return f"an unknown format that begins with the bytes {head[:SHOWN_BYTES].hex(' ')}"
