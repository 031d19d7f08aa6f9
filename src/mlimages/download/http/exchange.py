"""One request and what came of it: a worker's share of the download.

A worker holds the connections, checks what they bring, and keeps good images in spools. When to ask whom is the
scheduler's.
"""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from mlimages.core.params import Download
from mlimages.download.check_image import check_image
from mlimages.download.http.address_guard import Failure
from mlimages.download.http.encodings import decoded
from mlimages.download.http.opt_outs import opts_out
from mlimages.download.http.transport import Network, Response, Slot, Transport
from mlimages.download.ledger import Reason
from mlimages.download.schedule.politeness import retry_after_seconds
from mlimages.download.spool import Spools, Stored

PLACEHOLDER_TARGETS = ("photo_unavailable", "image_unavailable")
REDIRECTS = (301, 302, 303, 307, 308)
SLOW_DOWN = (429, 503)
TOO_EARLY = (408, 425)
IN_A_URL = "".join(map(chr, range(0x21, 0x7F)))


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

    `retry_after` and `detail` are as in Failure; `seconds` is what the exchange took.
    """

    number: int
    reason: Reason
    http_status: int
    seconds: float
    retry_after: float | None = None
    redirect: str = ""
    stored: Stored | None = None
    detail: str = ""


class Probe(NamedTuple):
    """Find out whether the network is there: open a connection to the URL's host, ask for nothing."""

    url: str


class Probed(NamedTuple):
    reached: bool


class Exchange:
    """Asks from many threads at once, over one keep-alive connection for each slot."""

    def __init__(self, params: Download, network: Network, spools: Path) -> None:
        self._params, self._spools = params, Spools(spools)
        self._transport = Transport(params, network)

    def get(self, task: Get) -> Answer:
        """Never raises for what the network does; UserError where the disk does not take the image."""
        begun = time.monotonic()
        status, wait, redirect, stored, detail = 0, None, "", None, ""
        try:
            response = self._transport.fetch(task.url, task.slot, task.seconds)
            status = response.status
            if status in REDIRECTS:
                reason, redirect, detail = Reason.REDIRECTS, _target(task.url, response), f"status {status}"
            else:
                reason, stored = Reason.OK, self._keep(task, self._image(response))
        except Failure as failure:
            reason, status, wait = failure.reason, status or failure.http_status, failure.retry_after
            detail = failure.detail
        return Answer(task.number, reason, status, time.monotonic() - begun, wait, redirect, stored, detail)

    def probe(self, task: Probe) -> Probed:
        """Whether the host takes a connection."""
        return Probed(self._transport.reaches(task.url))

    def _image(self, response: Response) -> bytes:
        """The body of an answer with a status of 2xx, decoded; Failure for any other answer, and for opt-outs."""
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

    def _keep(self, task: Get, body: bytes) -> Stored:
        if task.md5 and (found := hashlib.md5(body, usedforsecurity=False).hexdigest()) != task.md5:
            raise Failure(Reason.CHANGED, detail=f"MD5 {found}, expected {task.md5}")
        digest = hashlib.sha256(body).hexdigest()
        if digest in self._params.placeholders:
            raise Failure(Reason.PLACEHOLDER, detail=f"sha256 {digest}")
        picture = check_image(body, max_pixels=self._params.max_pixels, shorter_side=self._params.shorter_side,
                              quality=self._params.quality, turn=task.turn)
        if picture.body is not body:
            digest = hashlib.sha256(picture.body).hexdigest()
            if digest in self._params.placeholders:  # by the hash that stands in the ledger
                raise Failure(Reason.PLACEHOLDER, detail=f"sha256 {digest}")
        return self._spools.keep(task.spool, picture, digest)


def _reason_of(status: int) -> Reason:
    """What an HTTP status means that is neither 2xx nor a redirect that we follow."""
    if status < 300:
        return Reason.BAD_ANSWER
    if status < 400:
        return Reason.REDIRECTS
    return Reason.HTTP_ERROR if status >= 500 or status in SLOW_DOWN + TOO_EARLY else Reason.GONE


def _target(url: str, response: Response) -> str:
    """Where a redirect leads; Failure where that is nowhere, or to a picture that stands for a missing one."""
    try:
        location = quote(response.value("location").encode("latin-1"), safe=IN_A_URL)  # its bytes as they came
        target = urljoin(url, location)
        path = urlsplit(target).path
    except ValueError:
        location = ""
    if not location:
        raise Failure(Reason.REDIRECTS, detail=f"status {response.status} without a target")
    if mark := next((mark for mark in PLACEHOLDER_TARGETS if mark in path), ""):
        raise Failure(Reason.PLACEHOLDER, detail=f"redirected to {mark}")
    return target
