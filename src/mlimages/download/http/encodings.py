"""Undo Content-Encoding, which we do not ask for but some hosts apply. libcurl's decoder takes no gzip of two members,
and a cut one for a whole one."""

import zlib

from mlimages.download.http.address_guard import Failure
from mlimages.download.ledger import Reason

GZIP_MAGIC = b"\x1f\x8b"
GZIP, ZLIB, RAW = 31, 15, -15  # zlib's wbits
MAX_MEMBERS = 1000


def decoded(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its gzip or deflate, with or without zlib's header; any other body comes back as it is.

    Failure TRUNCATED where the compressed data is cut or damaged, TOO_LARGE where it holds more than `max_bytes`.
    """
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    if body[:2] != GZIP_MAGIC:
        has_header = body[:1] == b"x" and int.from_bytes(body[:2]) % 31 == 0
        return _inflated(body, ZLIB if has_header else RAW, max_bytes)[0]
    plain, rest = bytearray(), body
    for _ in range(MAX_MEMBERS):
        member, rest = _inflated(rest, GZIP, max_bytes - len(plain))
        plain += member
        if rest[:2] != GZIP_MAGIC:  # the end, or what stands behind it
            return bytes(plain)
    raise Failure(Reason.TRUNCATED, detail=f"more than {MAX_MEMBERS} members of gzip")


def _inflated(packed: bytes, wbits: int, max_bytes: int) -> tuple[bytes, bytes]:
    """The first compressed stream, and what follows it."""
    decoder = zlib.decompressobj(wbits)
    try:
        plain = decoder.decompress(packed, max_bytes + 1)
    except zlib.error:
        raise Failure(Reason.TRUNCATED, detail="its gzip or deflate is damaged") from None
    if len(plain) > max_bytes:
        raise Failure(Reason.TOO_LARGE, detail="as decoded")
    if not decoder.eof:
        raise Failure(Reason.TRUNCATED, detail="its gzip or deflate is cut")
    return plain, decoder.unused_data
