"""Run HTTP requests in a worker: send a request, check the response, and append a valid image to a spool.

The scheduler decides when to send which request.
"""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from mlimages.acquire.formats import LOCAL
from mlimages.core.params import Download
from mlimages.download.check_image import check_image, limits_of
from mlimages.download.http.address_guard import Failure
from mlimages.download.http.encodings import decoded
from mlimages.download.http.local_files import LocalFiles
from mlimages.download.http.opt_outs import opts_out
from mlimages.download.http.transport import Network, Response, Slot, Transport
from mlimages.download.ledger import Reason
from mlimages.download.schedule.politeness import retry_after_seconds
from mlimages.download.spool import Spools, StoredImage

PLACEHOLDER_TARGETS = ("photo_unavailable", "image_unavailable")
REDIRECTS = (301, 302, 303, 307, 308)
SLOW_DOWN = (429, 503)
TOO_EARLY = (408, 425)
IN_A_URL = "".join(map(chr, range(0x21, 0x7F)))


class FetchRequest(NamedTuple):
    """Request `url` over the connection `slot` within `seconds`, and append a valid image to the spool `spool`.

    `md5` is the expected MD5 of the body in hex digits, or "". `orientation` is as in lines.Address.
    """

    number: int
    url: str
    slot: Slot
    seconds: float
    spool: str
    md5: str = ""
    orientation: int = 1


class FetchResult(NamedTuple):
    """The result of a FetchRequest: an image, the target of a redirect, or the reason of a failure.

    `retry_after` and `detail` are as in Failure. `seconds` is the duration of the request.
    """

    number: int
    reason: Reason
    http_status: int
    seconds: float
    retry_after: float | None = None
    redirect: str = ""
    image: StoredImage | None = None
    detail: str = ""


class ProbeRequest(NamedTuple):
    """Test the network: open a connection to the URL's host without sending a request."""

    url: str


class ProbeResult(NamedTuple):
    reached: bool


class Exchange:
    """Sends requests from many threads, over one keep-alive connection for each slot."""

    def __init__(self, params: Download, network: Network, spools: Path) -> None:
        self._params, self._spools = params, Spools(spools)
        self._transport = Transport(params, network)
        self._local_files = LocalFiles(params.files, params.max_bytes) if params.files else None

    def get(self, task: FetchRequest) -> FetchResult:
        """Fetch one URL, or copy one local picture.

        Network errors become a result. Raises UserError if the disk does not take the image.
        """
        begun = time.monotonic()
        status, wait, redirect, stored, detail = 0, None, "", None, ""
        try:
            if self._local_files and task.url.startswith(LOCAL):
                stored = self._store(task, self._local_files.read(task.url))
                return FetchResult(task.number, Reason.OK, 0, time.monotonic() - begun, image=stored)
            response = self._transport.fetch(task.url, task.slot, task.seconds)
            status = response.status
            if status in REDIRECTS:
                reason, redirect, detail = Reason.REDIRECTS, _target(task.url, response), f"status {status}"
            else:
                reason, stored = Reason.OK, self._store(task, self._image(response))
        except Failure as failure:
            reason, status, wait = failure.reason, status or failure.http_status, failure.retry_after
            detail = failure.detail
        return FetchResult(task.number, reason, status, time.monotonic() - begun, wait, redirect, stored, detail)

    def probe(self, task: ProbeRequest) -> ProbeResult:
        """Test whether the host accepts a connection."""
        return ProbeResult(self._transport.reaches(task.url))

    def _image(self, response: Response) -> bytes:
        """The decoded body of a response with a 2xx status. Raises Failure for other statuses and for opt-outs."""
        status = response.status
        if not 200 <= status < 300:
            wait = retry_after_seconds(response.value("retry-after")) if status in SLOW_DOWN else None
            raise Failure(_reason_of(status), retry_after=wait, detail=f"status {status}")
        if self._params.respect_opt_out and opts_out(tags := response.values("x-robots-tag")):
            raise Failure(Reason.OPT_OUT, detail=f"X-Robots-Tag: {', '.join(tags)}")
        body = response.body
        for encodings in reversed(response.values("content-encoding")):
            for encoding in reversed(encodings.split(",")):
                body = decoded(body, encoding, self._params.max_bytes)
        return body

    def _store(self, task: FetchRequest, body: bytes) -> StoredImage:
        if task.md5 and (found := hashlib.md5(body, usedforsecurity=False).hexdigest()) != task.md5:
            raise Failure(Reason.CHANGED, detail=f"MD5 {found}, expected {task.md5}")
        digest = hashlib.sha256(body).hexdigest()
        if digest in self._params.placeholders:
            raise Failure(Reason.PLACEHOLDER, detail=f"sha256 {digest}")
        picture = check_image(body, limits=limits_of(self._params), shorter_side=self._params.shorter_side,
                              quality=self._params.quality, orientation=task.orientation)
        if picture.body is not body:
            digest = hashlib.sha256(picture.body).hexdigest()
            if digest in self._params.placeholders:  # the hash that the ledger shows
                raise Failure(Reason.PLACEHOLDER, detail=f"sha256 {digest}")
        return self._spools.append(task.spool, picture, digest)


def _reason_of(status: int) -> Reason:
    """The reason for an HTTP status that yields no image and is no redirect to follow."""
    if status < 300:
        return Reason.BAD_ANSWER
    if status < 400:
        return Reason.REDIRECTS
    return Reason.HTTP_ERROR if status >= 500 or status in SLOW_DOWN + TOO_EARLY else Reason.GONE


def _target(url: str, response: Response) -> str:
    """The target URL of a redirect. Raises Failure if there is none, for a placeholder, and for a local file."""
    try:
        location = quote(response.value("location").encode("latin-1"), safe=IN_A_URL)  # the bytes as received
        target = urljoin(url, location)
        path = urlsplit(target).path
    except ValueError:
        location = ""
    if not location:
        raise Failure(Reason.REDIRECTS, detail=f"status {response.status} without a target")
    if target.startswith(LOCAL):
        raise Failure(Reason.BAD_URL, detail="redirected to a local file")
    if mark := next((mark for mark in PLACEHOLDER_TARGETS if mark in path), ""):
        raise Failure(Reason.PLACEHOLDER, detail=f"redirected to {mark}")
    return target
