"""One request and what came of it: a worker's share of the download.

A worker holds the connections, reads and checks what they bring, and keeps good images in spools. When to ask whom
is the scheduler's.
"""

import hashlib
import http.client
import ssl
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from mlimages.download.connections import Connection, Connections, Network, Slot
from mlimages.download.guard import Failure, check_url
from mlimages.download.images import check_image
from mlimages.download.ledger import Reason
from mlimages.download.politeness import retry_after_seconds
from mlimages.download.spool import Spools, Stored
from mlimages.download.watchdog import Watch, Watchdog
from mlimages.params import Download

OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex"}
PLACEHOLDER_TARGETS = ("photo_unavailable", "image_unavailable")
REDIRECTS = (301, 302, 303, 307, 308)
SLOW_DOWN = (429, 503)
TOO_EARLY = (408, 425)
READ_BYTES = 262_144
SMALL_BYTES = 65_536  # a body that is read only to keep its connection
GRACE_SECONDS = 5.0  # before a body is called too slow


class Get(NamedTuple):
    """Ask for `url` over the connection `slot`, for so many seconds at most; keep a good image in the spool `spool`.

    `md5`: hex digits that the body's must equal, or "". `turn`: see lines.Address.
    """

    number: int
    url: str
    slot: Slot
    seconds: float
    spool: str
    md5: str = ""
    turn: int = 1


class Answer(NamedTuple):
    """What came of a Get: an image, a redirect's target, or neither and the reason why.

    `retry_after` is as in Failure; `seconds` is what the exchange took.
    """

    number: int
    reason: Reason
    http_status: int
    seconds: float
    retry_after: float | None = None
    redirect: str = ""
    stored: Stored | None = None


class Knock(NamedTuple):
    """Find out whether anybody is there: open a connection to the URL's host, ask for nothing."""

    url: str


class Knocked(NamedTuple):
    heard: bool


class Exchange:
    """Asks from many threads at once, over one keep-alive connection for each slot."""

    def __init__(self, params: Download, network: Network, spools: Path) -> None:
        self._params, self._spools = params, Spools(spools)
        self._connections = Connections(params.timeout_seconds, network)
        self._watchdog = Watchdog()
        contact = f"; {params.contact}" if params.contact else ""
        self._headers = {"User-Agent": f"mlimages/0.1 (image list downloader for research{contact})",
                         "Accept": "image/*", "Accept-Encoding": "identity"}

    def get(self, task: Get) -> Answer:
        """Never raises for what the network does; UserError where the disk does not take the image."""
        begun = time.monotonic()
        try:
            with self._watchdog.until(task.seconds) as watch:
                body = _told_as_failure(watch, lambda: self._read(task, watch))
            if isinstance(body, str):
                return Answer(task.number, Reason.REDIRECTS, 302, time.monotonic() - begun, redirect=body)
            return Answer(task.number, Reason.OK, 200, time.monotonic() - begun, stored=self._keep(task, body))
        except Failure as failure:
            return Answer(task.number, failure.reason, failure.http_status, time.monotonic() - begun,
                          failure.retry_after)

    def knock(self, task: Knock) -> Knocked:
        """Whether the host takes a connection."""
        try:
            with self._watchdog.until(self._params.timeout_seconds) as watch:
                self._connections.open(urlsplit(task.url), watch).close()
        except (Failure, OSError):
            return Knocked(False)
        return Knocked(True)

    def _keep(self, task: Get, body: bytes) -> Stored:
        if task.md5 and hashlib.md5(body, usedforsecurity=False).hexdigest() != task.md5:
            raise Failure(Reason.CHANGED, 200)
        digest = hashlib.sha256(body).hexdigest()
        if digest in self._params.placeholders:
            raise Failure(Reason.PLACEHOLDER, 200)
        picture = check_image(body, max_pixels=self._params.max_pixels, shorter_side=self._params.shorter_side,
                              quality=self._params.quality, turn=task.turn)
        if picture.body is not body:
            digest = hashlib.sha256(picture.body).hexdigest()
            if digest in self._params.placeholders:  # by the hash that stands in the ledger
                raise Failure(Reason.PLACEHOLDER, 200)
        return self._spools.keep(task.spool, picture, digest)

    def _read(self, task: Get, watch: Watch) -> bytes | str:
        """The body behind the URL, or where a redirect leads."""
        parts = check_url(task.url, self._params.ports)
        connection, reused = self._connections.take(task.slot, parts, watch)
        try:
            response = self._ask(connection, parts)
        except ConnectionError:
            connection.close()
            if not reused:
                raise
            connection = self._connections.open(parts, watch)  # the host had closed the idle one
            response = self._ask(connection, parts)
        try:
            watch.http_status = response.status
            return self._answer(task.url, response)
        finally:
            self._connections.give_back(task.slot, parts, connection, response)

    def _answer(self, url: str, response: http.client.HTTPResponse) -> bytes | str:
        status = response.status
        if status != 200 and response.length is not None and response.length <= SMALL_BYTES:
            response.read()
        if status in REDIRECTS:
            return _target(url, response)
        if status != 200:
            wait = retry_after_seconds(response.getheader("Retry-After")) if status in SLOW_DOWN else None
            raise Failure(_reason_of(status), status, retry_after=wait)
        tags = (response.getheader("X-Robots-Tag") or "").lower().replace(":", ",").split(",")
        if self._params.respect_opt_out and OPT_OUTS.intersection(tag.strip() for tag in tags):
            raise Failure(Reason.OPT_OUT, 200)
        return self._decoded(response, self._body(response))

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        announced, body, begun = response.length, bytearray(), time.monotonic()
        while announced is None or len(body) < announced:
            chunk = response.read1(READ_BYTES)
            if not chunk:
                break
            body += chunk
            if len(body) > self._params.max_bytes:
                raise Failure(Reason.TOO_LARGE, 200)
            seconds = time.monotonic() - begun
            if (seconds > GRACE_SECONDS and len(body) < seconds * self._params.min_bytes_per_second
                    and len(body) != announced):
                raise Failure(Reason.TIMEOUT, 200)
        if len(body) < (announced if announced is not None else 1):  # nothing at all: the headers were cut
            raise Failure(Reason.TRUNCATED, 200)
        response.close()
        return bytes(body)

    def _decoded(self, response: http.client.HTTPResponse, body: bytes) -> bytes:
        """The body without its gzip or deflate, which we did not ask for but some hosts apply."""
        if (response.getheader("Content-Encoding") or "identity").lower() not in ("gzip", "x-gzip", "deflate"):
            return body
        decoder = zlib.decompressobj(wbits=47)  # either of the two, by its header
        try:
            plain = decoder.decompress(body, self._params.max_bytes + 1)
        except zlib.error:
            raise Failure(Reason.TRUNCATED, 200) from None
        if len(plain) > self._params.max_bytes:
            raise Failure(Reason.TOO_LARGE, 200)
        if not decoder.eof:
            raise Failure(Reason.TRUNCATED, 200)
        return plain

    def _ask(self, connection: Connection, parts: SplitResult) -> http.client.HTTPResponse:
        target = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*[]") + (
            "?" + quote(parts.query, safe="/%:=&~+!$,;'@()*[]?") if parts.query else "")
        connection.request("GET", self._connections.prefix(parts) + target, headers=self._headers)
        return connection.getresponse()


def _told_as_failure(watch: Watch, read: Callable[[], bytes | str]) -> bytes | str:
    """What `read` returns; every fault of the network as a Failure."""
    try:
        body = read()
    except Failure as failure:
        if not watch.overdue:
            raise
        raise Failure(Reason.TIMEOUT, failure.http_status) from None
    except http.client.InvalidURL:
        raise Failure(Reason.BAD_URL) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        status = watch.http_status
        if watch.overdue or isinstance(error, TimeoutError):
            raise Failure(Reason.TIMEOUT, status) from None
        if isinstance(error, ssl.SSLError):
            raise Failure(Reason.TLS) from None
        raise Failure(Reason.TRUNCATED if status else Reason.CONNECT, status) from None
    if watch.overdue:  # a body without an announced length that was cut looks like a whole one
        raise Failure(Reason.TIMEOUT, watch.http_status)
    return body


def _reason_of(status: int) -> Reason:
    """What an HTTP status means that is neither 200 nor a redirect that we follow."""
    if status < 400:
        return Reason.REDIRECTS
    return Reason.HTTP_ERROR if status >= 500 or status in SLOW_DOWN + TOO_EARLY else Reason.GONE


def _target(url: str, response: http.client.HTTPResponse) -> str:
    """Where a redirect leads; Failure where that is nowhere, or to a picture that stands for a missing one."""
    try:
        target = urljoin(url, response.headers["Location"].strip())
        path = urlsplit(target).path
    except (ValueError, AttributeError):
        raise Failure(Reason.REDIRECTS, response.status) from None
    if any(mark in path for mark in PLACEHOLDER_TARGETS):
        raise Failure(Reason.PLACEHOLDER, response.status)
    return target
