"""One HTTP exchange by libcurl, within limits in time and bytes, over the connection of the slot it is made for.

libcurl speaks HTTP. What is ours is which sockets it may open (guard.Gate), how many bytes and seconds it may take, and
that a slot has one connection: never more to a domain than the scheduler gives.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple
from urllib.parse import SplitResult

import certifi

from mlimages.core.params import Download
from mlimages.download.http.address_guard import Failure, Gate, ascii_host, ascii_url, check_literal, check_url, port_of
from mlimages.download.http.curl import pycurl
from mlimages.download.ledger import Reason

MAX_IDLE = 64  # handles; one that has spoken TLS takes about 1 MB
SMALL_BYTES = 65_536  # a body that is read only to keep its connection
MAX_HEADER_BYTES = 262_144
BUFFER_BYTES = 131_072
GRACE_SECONDS = 5.0  # before a body is called too slow

Slot = tuple[str, int]

WEIRD_SERVER_REPLY, FIELD_TOO_LARGE = 8, 100  # of libcurl, which pycurl has no names for
HEADERS = "too many or too long headers"
# Reasons and details. libcurl's own texts hold times, names and addresses: others in every run.
REASONS = {
    pycurl.E_COULDNT_RESOLVE_HOST: (Reason.DNS, ""),
    pycurl.E_OPERATION_TIMEDOUT: (Reason.TIMEOUT, "download.deadline_seconds"),
    pycurl.E_URL_MALFORMAT: (Reason.BAD_URL, "no valid URL"),
    WEIRD_SERVER_REPLY: (Reason.BAD_ANSWER, "not HTTP"),
    pycurl.E_UNSUPPORTED_PROTOCOL: (Reason.BAD_ANSWER, "no status line"),  # libcurl takes it for HTTP 0.9
    FIELD_TOO_LARGE: (Reason.BAD_ANSWER, HEADERS),
    pycurl.E_SSL_CONNECT_ERROR: (Reason.TLS, "the handshake failed"),
    pycurl.E_PEER_FAILED_VERIFICATION: (Reason.TLS, "the certificate does not hold"),
    pycurl.E_SSL_CIPHER: (Reason.TLS, "no common cipher"),
    pycurl.E_SSL_INVALIDCERTSTATUS: (Reason.TLS, "the certificate's status"),
}


class Network(NamedTuple):
    """How to reach it: `connect_to` maps "host:port" to the "address:port" to connect to instead, unchecked, as the
    user asked for it; `proxies` are proxy URLs by scheme, mostly none."""

    connect_to: Mapping[str, str]
    proxies: Mapping[str, str]


class Response(NamedTuple):
    """An answer: header names are in lower case, values in Latin-1. The body of a status that is no 2xx is left out."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """The values of all headers of that name."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str:
        """That of the first header of that name; "" without one."""
        return next(iter(self.values(name)), "")


class Transport:
    """Makes exchanges from many threads at once, each slot in one of them at a time."""

    def __init__(self, params: Download, network: Network) -> None:
        self._params, self._network = params, network
        contact = f"; {params.contact}" if params.contact else ""
        headers = {"user-agent": f"User-Agent: mlimages/0.1 (image list downloader for research{contact})",
                   "accept": "Accept: image/*", "accept-encoding": "Accept-Encoding: identity"}
        headers.update({name.lower(): f"{name}: {value}" for name, value in params.headers.items()})
        self._headers = list(headers.values())
        self._idle: OrderedDict[Slot, pycurl.Curl] = OrderedDict()
        self._lock = Lock()

    def fetch(self, url: str, slot: Slot, seconds: float) -> Response:
        """What the URL's host answers within so many seconds; Failure where that is nothing usable."""
        parts = check_url(url, self._params.ports)
        curl = self._take(slot)
        try:
            return _Transfer(self._params).run(curl, self._aim(curl, parts, seconds))
        finally:
            self._give_back(slot, curl)

    def reaches(self, url: str) -> bool:
        """Whether the URL's host takes a connection; it is asked for nothing."""
        curl = self._new_handle()
        try:
            self._aim(curl, check_url(url, self._params.ports), self._params.timeout_seconds)
            curl.setopt(pycurl.CONNECT_ONLY, 1)
            curl.perform()
        except (Failure, pycurl.error):
            return False
        finally:
            curl.close()
        return True

    def _aim(self, curl: pycurl.Curl, parts: SplitResult, seconds: float) -> Gate:
        """Lead a handle to a URL, through the gate that is returned; Failure where that is no host to ask."""
        host = ascii_host(parts)
        proxy = self._network.proxies.get(parts.scheme, "")
        target = self._network.connect_to.get(f"{host}:{port_of(parts)}", "")
        if proxy or not target:
            check_literal(host)
        gate = Gate(to_any=bool(target or proxy))
        curl.setopt(pycurl.URL, ascii_url(parts))
        curl.setopt(pycurl.PROXY, proxy)
        curl.setopt(pycurl.CONNECT_TO, [f"::{target}"] if target and not proxy else [])
        curl.setopt(pycurl.OPENSOCKETFUNCTION, gate)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(seconds * 1000)))
        return gate

    def _take(self, slot: Slot) -> pycurl.Curl:
        """The slot's handle with its open connection; else the one that was unused for longest, or a new one."""
        with self._lock:
            if slot in self._idle:
                return self._idle.pop(slot)
            if len(self._idle) >= MAX_IDLE:
                return self._idle.popitem(last=False)[1]
        return self._new_handle()

    def _give_back(self, slot: Slot, curl: pycurl.Curl) -> None:
        with self._lock:
            self._idle[slot] = curl
            oldest = self._idle.popitem(last=False)[1] if len(self._idle) > MAX_IDLE else None
        if oldest:
            oldest.close()

    def _new_handle(self) -> pycurl.Curl:
        curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.MAXCONNECTS, 1)
        curl.setopt(pycurl.BUFFERSIZE, BUFFER_BYTES)
        curl.setopt(pycurl.NOPROXY, "")  # only proxies that we name, and those for every host
        curl.setopt(pycurl.HTTPHEADER, self._headers)
        curl.setopt(pycurl.CAINFO, certifi.where())
        curl.setopt(pycurl.SSL_VERIFYPEER, self._params.verify)
        curl.setopt(pycurl.SSL_VERIFYHOST, 2 * self._params.verify)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(self._params.timeout_seconds * 1000))
        return curl


class _Transfer:
    """The callbacks of one exchange, and what they have seen."""

    def __init__(self, params: Download) -> None:
        self._params = params
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._header_bytes = 0
        self._headers_ended = False
        self._body = bytearray()
        self._why: tuple[Reason, str] | None = None  # a callback ended the transfer: reason and detail
        self._asked_at: float | None = None
        self._heard_at, self._seen_bytes = 0.0, 0

    def run(self, curl: pycurl.Curl, gate: Gate) -> Response:
        """The answer; Failure where there is none, or its body did not come whole."""
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body)
        curl.setopt(pycurl.PREREQFUNCTION, self._on_connected)
        curl.setopt(pycurl.XFERINFOFUNCTION, self._on_progress)
        curl.setopt(pycurl.NOPROGRESS, 0)
        why, code, message = None, 0, ""
        try:
            curl.perform()
        except pycurl.error as error:
            code, message = error.args
        body, self._body = bytes(self._body), bytearray()  # an idle handle keeps its callbacks, and so this object
        status = curl.getinfo(pycurl.RESPONSE_CODE)  # not that of a proxy
        status = status if status >= 200 else 0
        answered = self._headers_ended and status == self._status
        if code:
            why = self._why or self._why_of(code, message, gate, status)
        elif not answered:
            why = (Reason.TRUNCATED, "its headers ended too early") if status else (Reason.BAD_ANSWER, "no status line")
        if why and not (answered and not self._wanted):
            reason, detail = why
            # Which limit a silent host runs into first is a matter of chance.
            raise Failure(reason, status, detail="" if reason is Reason.TIMEOUT and not status else detail)
        return Response(status, self._headers, body)

    @property
    def _wanted(self) -> bool:
        return 200 <= self._status < 300

    def _on_header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._why = Reason.BAD_ANSWER, HEADERS
            return -1
        if line.startswith(b"HTTP/"):  # also after an answer of 1xx, or a proxy's
            words = line.split()
            self._status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            self._headers, self._headers_ended = [], False
        elif line.strip():
            name, _, value = line.decode("latin-1").partition(":")
            self._headers.append((name.strip().lower(), value.strip()))
        else:
            self._headers_ended = True
        return None

    def _on_body(self, data: bytes) -> int | None:
        if not self._wanted:
            length = next((value for name, value in self._headers if name == "content-length"), "")
            return None if length.isdecimal() and int(length) <= SMALL_BYTES else -1
        if len(self._body) + len(data) > self._params.max_bytes:
            self._why = Reason.TOO_LARGE, "as sent"
            return -1
        self._body += data
        return None

    def _on_connected(self, *addresses: object) -> int:
        self._asked_at = self._heard_at = time.monotonic()
        return pycurl.PREREQFUNC_OK

    def _on_progress(self, announced: int, received: int, *sent: int) -> int:
        """Whether to end the transfer: after too long a silence, or where the body comes too slowly."""
        if self._asked_at is None or (announced and received == announced):
            return 0
        now = time.monotonic()
        if received + self._header_bytes > self._seen_bytes:
            self._seen_bytes, self._heard_at = received + self._header_bytes, now
        seconds = now - self._asked_at
        slow = received and seconds > GRACE_SECONDS and received < seconds * self._params.min_bytes_per_second
        if slow or now - self._heard_at > self._params.timeout_seconds:
            self._why = Reason.TIMEOUT, ("below download.min_bytes_per_second" if slow else
                                         "no byte for download.timeout_seconds")
            return 1
        return 0

    def _why_of(self, code: int, message: str, gate: Gate, status: int) -> tuple[Reason, str]:
        if gate.refused and not gate.opened:
            return Reason.FORBIDDEN_ADDRESS, ""
        if code == pycurl.E_SSL_CONNECT_ERROR and ("error:" not in message or "unexpected eof" in message):
            return Reason.CONNECT, ""  # the connection broke; OpenSSL has no error of its own to tell
        return REASONS.get(code, (Reason.TRUNCATED, "the answer ended too early") if status else (Reason.CONNECT, ""))
