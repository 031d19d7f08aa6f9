"""Decode Content-Encoding, which some hosts apply although we do not accept it.

libcurl's decoder rejects gzip data with several members, and accepts truncated data.
"""

import zlib

from mlimages.download.http.address_guard import Failure
from mlimages.download.ledger import Reason

GZIP_MAGIC = b"\x1f\x8b"
GZIP, ZLIB, RAW = 31, 15, -15  # zlib's wbits
MAX_MEMBERS = 1000


def decoded(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decode gzip or deflate, with or without a zlib header. A body in another encoding is returned unchanged.

    Raises Failure TRUNCATED if the compressed data is cut or damaged, TOO_LARGE if it decodes to more than `max_bytes`.
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
        if rest[:2] != GZIP_MAGIC:  # the end, or trailing bytes
            return bytes(plain)
    raise Failure(Reason.TRUNCATED, detail=f"more than {MAX_MEMBERS} members of gzip")


def _inflated(packed: bytes, wbits: int, max_bytes: int) -> tuple[bytes, bytes]:
    """Decode the first compressed stream; return it and the bytes after it."""
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
