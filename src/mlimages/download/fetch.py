"""Fetch one URL, safely and politely, and tell the truth about what came of it."""

import io
import random
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from PIL import Image

from mlimages.download.guard import Failure, check_url, guarded_session
from mlimages.download.ledger import Reason
from mlimages.download.politeness import Hosts, retry_after_seconds
from mlimages.params import Download

FORMATS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}
RETRIED_REASONS = {Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.TRUNCATED}
RETRIED_STATUSES = {429, 500, 502, 503, 504}
SLOW_DOWN_STATUSES = {429, 503}
OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex"}
PLACEHOLDER_TARGETS = ("photo_unavailable", "image_unavailable")
MAX_REDIRECTS = 5
BACKOFF_SECONDS = 0.25
READ_BYTES = 65_536


class Fetched(NamedTuple):
    """An image as it came: `extension` is jpg, png, gif or webp; width and height in pixels, as stored."""

    body: bytes
    extension: str
    width: int
    height: int


class Outcome(NamedTuple):
    """What came of a URL after `attempts` tries; `image` is None but for Reason.OK."""

    reason: Reason
    http_status: int
    attempts: int
    image: Fetched | None


class Budget:
    """The seconds that a URL may take over all its tries; they run only while a request of it is under way."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._since: float | None = None

    @contextmanager
    def spending(self) -> Iterator[None]:
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._left -= time.monotonic() - self._since
            self._since = None

    @property
    def spent(self) -> bool:
        return self._left <= (time.monotonic() - self._since if self._since is not None else 0)


class Fetcher:
    """Fetches from many threads at once, over keep-alive connections."""

    def __init__(self, params: Download, connect_to: Mapping[str, str]) -> None:
        self._params = params
        self._hosts = Hosts(params.connections_per_host, lambda: guarded_session(connect_to, connections=1))

    def fetch(self, url: str) -> Outcome:
        """Try a URL until it succeeds, fails for good, or `params.attempts` are spent. Never raises for the network."""
        budget = Budget(self._params.deadline_seconds)
        for attempt in range(1, self._params.attempts + 1):
            try:
                body = self._read(url, budget)
                return Outcome(Reason.OK, 200, attempt, check_image(body, self._params.max_pixels))
            except Failure as failure:
                retried = failure.reason in RETRIED_REASONS or failure.http_status in RETRIED_STATUSES
                outcome = Outcome(failure.reason, failure.http_status, attempt, None)
            if not retried or budget.spent:
                break
            if attempt < self._params.attempts:
                time.sleep(BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        return outcome

    def _read(self, url: str, budget: Budget) -> bytes:
        """The body behind a URL, after its redirects; each of them waits for its own host's turn."""
        status = 0
        for _ in range(MAX_REDIRECTS + 1):
            host = check_url(url)
            try:
                with (self._hosts.turn(host) as session, budget.spending(),
                      session.get(url, stream=True, allow_redirects=False,
                                  timeout=self._params.timeout_seconds) as response):
                    status = response.status_code
                    if not response.is_redirect:
                        self._check_headers(host, response)
                        return self._read_body(response, budget)
                    url = _redirect_target(url, response)
            except (requests.Timeout, urllib3.exceptions.TimeoutError):
                raise Failure(Reason.TIMEOUT, status) from None
            except requests.exceptions.SSLError:
                raise Failure(Reason.TLS) from None
            except (urllib3.exceptions.HTTPError, requests.exceptions.ChunkedEncodingError):
                raise Failure(Reason.TRUNCATED, status) from None
            except requests.exceptions.InvalidURL:
                raise Failure(Reason.BAD_URL, status) from None
            except requests.RequestException:
                raise Failure(Reason.CONNECT) from None
        raise Failure(Reason.REDIRECTS, status)

    def _check_headers(self, host: str, response: requests.Response) -> None:
        if response.status_code in SLOW_DOWN_STATUSES:
            self._hosts.pause(host, retry_after_seconds(response.headers.get("Retry-After")))
        if response.status_code != 200:
            redirect = 300 <= response.status_code < 400
            raise Failure(Reason.REDIRECTS if redirect else Reason.HTTP_ERROR, response.status_code)
        tags = response.headers.get("X-Robots-Tag", "").lower().replace(":", ",").split(",")
        if OPT_OUTS.intersection(tag.strip() for tag in tags):
            raise Failure(Reason.OPT_OUT, 200)

    def _read_body(self, response: requests.Response, budget: Budget) -> bytes:
        announced = response.headers.get("Content-Length", "")
        body = bytearray()
        # read1 returns what one recv brings, so that a dripping body cannot outlive the budget.
        while chunk := response.raw.read1(READ_BYTES):
            body += chunk
            if len(body) > self._params.max_bytes:
                raise Failure(Reason.TOO_LARGE, 200)
            if budget.spent:
                raise Failure(Reason.TIMEOUT, 200)
        if announced.isdecimal() and len(body) != int(announced):
            raise Failure(Reason.TRUNCATED, 200)
        return bytes(body)


def check_image(body: bytes, max_pixels: int) -> Fetched:
    """Decode the whole image (its first frame); Failure NOT_IMAGE, TOO_MANY_PIXELS or CORRUPT where that fails."""
    try:
        with Image.open(io.BytesIO(body), formats=list(FORMATS)) as image:
            if image.width * image.height > max_pixels:
                raise Failure(Reason.TOO_MANY_PIXELS, 200)
            image.load()
            return Fetched(body, FORMATS[str(image.format)], image.width, image.height)
    except Image.UnidentifiedImageError:
        raise Failure(Reason.NOT_IMAGE, 200) from None
    except Image.DecompressionBombError:
        raise Failure(Reason.TOO_MANY_PIXELS, 200) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error):
        raise Failure(Reason.CORRUPT, 200) from None


def _redirect_target(url: str, response: requests.Response) -> str:
    try:
        target = urljoin(url, response.headers["Location"])
        path = urlsplit(target).path
    except ValueError:
        raise Failure(Reason.REDIRECTS, response.status_code) from None
    if any(mark in path for mark in PLACEHOLDER_TARGETS):
        raise Failure(Reason.PLACEHOLDER, response.status_code)
    return target
