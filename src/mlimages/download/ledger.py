"""The ledger: exactly one row for each list line, with one of a fixed set of reasons."""

import csv
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from mlimages.core.publish import write_csv


class Reason(StrEnum):
    """The result of a URL. All but OK are failures. The texts are published in reasons.csv."""

    OK = "ok", "the image is in the shard"
    BAD_URL = "bad_url", "not http or https, a user or password in it, or a port not in download.ports"
    DNS = "dns", "the host name has no address"
    FORBIDDEN_ADDRESS = "forbidden_address", "the host, or a redirect's, has no public address"
    CONNECT = "connect", "no connection, or it broke before an answer came"
    TLS = "tls", "the host's certificate or its TLS did not hold"
    TIMEOUT = "timeout", "download.timeout_seconds, download.deadline_seconds, or below download.min_bytes_per_second"
    BAD_ANSWER = "bad_answer", "an answer that HTTP does not allow, or with too long headers"
    GONE = "gone", "an HTTP status that will stay: 400 or above, but none of http_error's; http_status says which"
    HTTP_ERROR = "http_error", "an HTTP status that may pass: 408, 425, 429, or 500 or above; http_status says which"
    REDIRECTS = "redirects", "more redirects than are followed, one without a target, or another status of 3xx"
    OPT_OUT = "opt_out", "X-Robots-Tag asks not to be used (download.respect_opt_out)"
    TRUNCATED = "truncated", "the answer ended too early, or its gzip or deflate is cut or damaged"
    TOO_LARGE = "too_large", "more bytes than download.max_bytes, as sent or as decoded"
    NOT_IMAGE = "not_image", "no JPEG, PNG, GIF or WebP, whatever its name or type says"
    PLACEHOLDER = "placeholder", "the host's picture for a photo that is gone"
    TOO_FEW_BYTES = "too_few_bytes", "an image of fewer bytes than download.min_bytes"
    TOO_SMALL = "too_small", "an image with a shorter side than download.min_side"
    ASPECT_RATIO = "aspect_ratio", "an image whose longer side is more than download.max_aspect_ratio times the other"
    TOO_MANY_PIXELS = "too_many_pixels", "more than download.max_pixels, than a JPEG has on a side, or too many scans"
    CORRUPT = "corrupt", "an image that does not decode to its end"
    CRASHED = "crashed", "the decoder crashed or hung on it, twice"
    NO_FILE = "no_file", "no file below download.files, or none that may be read"
    CHANGED = "changed", "the bytes are not those whose MD5 a mirror's table gives"

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "Reason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class LedgerRow(NamedTuple):
    """The result of one list line. Unknown numbers are 0, an unknown hash is "".

    `bytes`, `sha256`, `width` and `height` (pixels) describe the image in the shard. `http_status` is the status of the
    last response. `mirror` is the index of the last address in download.mirrors at that time. `detail` adds to the
    reason, such as "status 403" or "HTML, expected JPEG, PNG, GIF or WebP": printable ASCII, at most
    `errors.DETAIL_CHARACTERS` long, or "".
    """

    line: int
    url: str
    key: str
    reason: Reason
    http_status: int = 0
    bytes: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    mirror: int = 0
    detail: str = ""


def write_ledger(path: Path, rows: Iterable[LedgerRow]) -> None:
    write_csv(path, LedgerRow._fields, rows)


def read_ledger(path: Path) -> Iterator[LedgerRow]:
    """Read the rows of a ledger. `detail` is "" in an old ledger without this column."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield LedgerRow(int(row["line"]), row["url"], row["key"], Reason(row["reason"]),  # type: ignore[call-arg]
                      int(row["http_status"]), int(row["bytes"]), row["sha256"], int(row["width"]),
                      int(row["height"]), int(row["mirror"]), row.get("detail", ""))
