"""HTTP requests by libcurl, limited in time and bytes.

libcurl speaks HTTP. This module decides which sockets libcurl may open (AddressGuard), how many bytes and seconds a
request may take, and that a slot has one connection, so that a domain never gets more than the scheduler allows.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple
from urllib.parse import SplitResult

import certifi

from mlimages.core.params import Download
from mlimages.download.http.address_guard import (
    AddressGuard,
    Failure,
    ascii_host,
    ascii_url,
    check_literal,
    check_url,
    port_of,
)
from mlimages.download.http.curl import pycurl
from mlimages.download.ledger import Reason

MAX_IDLE = 64  # handles; one with a TLS session takes about 1 MB
SMALL_BYTES = 65_536  # an error body up to this size is read, to keep the connection
MAX_HEADER_BYTES = 262_144
BUFFER_BYTES = 131_072
GRACE_SECONDS = 5.0  # before min_bytes_per_second applies

Slot = tuple[str, int]

WEIRD_SERVER_REPLY, FIELD_TOO_LARGE = 8, 100  # error codes of libcurl without a name in pycurl
HEADERS = "too many or too long headers"
# Reason and detail by error code. libcurl's own messages contain times and addresses, which differ in every run.
REASONS = {
    pycurl.E_COULDNT_RESOLVE_HOST: (Reason.DNS, ""),
    pycurl.E_OPERATION_TIMEDOUT: (Reason.TIMEOUT, "download.deadline_seconds"),
    pycurl.E_URL_MALFORMAT: (Reason.BAD_URL, "no valid URL"),
    WEIRD_SERVER_REPLY: (Reason.BAD_ANSWER, "not HTTP"),
    pycurl.E_UNSUPPORTED_PROTOCOL: (Reason.BAD_ANSWER, "no status line"),  # libcurl reads it as HTTP 0.9
    FIELD_TOO_LARGE: (Reason.BAD_ANSWER, HEADERS),
    pycurl.E_SSL_CONNECT_ERROR: (Reason.TLS, "the handshake failed"),
    pycurl.E_PEER_FAILED_VERIFICATION: (Reason.TLS, "the certificate does not hold"),
    pycurl.E_SSL_CIPHER: (Reason.TLS, "no common cipher"),
    pycurl.E_SSL_INVALIDCERTSTATUS: (Reason.TLS, "the certificate's status"),
}


class Network(NamedTuple):
    """How to reach hosts.

    `connect_to` maps "host:port" to the "address:port" to connect to instead; these addresses are not checked.
    `proxies` maps schemes to proxy URLs.
    """

    connect_to: Mapping[str, str]
    proxies: Mapping[str, str]


class Response(NamedTuple):
    """A response: header names in lower case, values decoded as Latin-1, and the body if the status is 2xx."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """The values of all headers with this name."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str:
        """The value of the first header with this name, or ""."""
        return next(iter(self.values(name)), "")


class Transport:
    """Sends requests from many threads; each slot is used by one thread at a time."""

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
        """Return the response to a GET request. Raises Failure if none arrives complete within `seconds`."""
        parts = check_url(url, self._params.ports)
        curl = self._take(slot)
        try:
            return _Transfer(self._params).run(curl, self._set_target(curl, parts, seconds))
        finally:
            self._give_back(slot, curl)

    def reaches(self, url: str) -> bool:
        """Whether the URL's host accepts a connection. No request is sent."""
        curl = self._new_handle()
        try:
            self._set_target(curl, check_url(url, self._params.ports), self._params.timeout_seconds)
            curl.setopt(pycurl.CONNECT_ONLY, 1)
            curl.perform()
        except (Failure, pycurl.error):
            return False
        finally:
            curl.close()
        return True

    def _set_target(self, curl: pycurl.Curl, parts: SplitResult, seconds: float) -> AddressGuard:
        """Set the URL and the address guard of a handle; return the guard. Raises Failure if the host is forbidden."""
        host = ascii_host(parts)
        proxy = self._network.proxies.get(parts.scheme, "")
        target = self._network.connect_to.get(f"{host}:{port_of(parts)}", "")
        if proxy or not target:
            check_literal(host)
        guard = AddressGuard(allow_private=bool(target or proxy))
        curl.setopt(pycurl.URL, ascii_url(parts))
        curl.setopt(pycurl.PROXY, proxy)
        curl.setopt(pycurl.CONNECT_TO, [f"::{target}"] if target and not proxy else [])
        curl.setopt(pycurl.OPENSOCKETFUNCTION, guard)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(seconds * 1000)))
        return guard

    def _take(self, slot: Slot) -> pycurl.Curl:
        """The handle with the slot's open connection, or else the least recently used handle, or a new one."""
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
        curl.setopt(pycurl.NOPROXY, "")  # use the given proxies for every host, and no others
        curl.setopt(pycurl.HTTPHEADER, self._headers)
        curl.setopt(pycurl.CAINFO, certifi.where())
        curl.setopt(pycurl.SSL_VERIFYPEER, self._params.verify)
        curl.setopt(pycurl.SSL_VERIFYHOST, 2 * self._params.verify)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(self._params.timeout_seconds * 1000))
        return curl


class _Transfer:
    """The callbacks and the state of one request."""

    def __init__(self, params: Download) -> None:
        self._params = params
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._header_bytes = 0
        self._headers_ended = False
        self._body = bytearray()
        self._aborted: tuple[Reason, str] | None = None  # reason and detail, if a callback aborted the transfer
        self._connected_at: float | None = None
        self._received_at, self._seen_bytes = 0.0, 0

    def run(self, curl: pycurl.Curl, guard: AddressGuard) -> Response:
        """Perform the request and return the response. Raises Failure if there is none or its body is incomplete."""
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
        body, self._body = bytes(self._body), bytearray()  # an idle handle keeps a reference to this object
        status = curl.getinfo(pycurl.RESPONSE_CODE)  # not the status of a proxy
        status = status if status >= 200 else 0
        complete = self._headers_ended and status == self._status
        if code:
            why = self._aborted or self._failure(code, message, guard, status)
        elif not complete:
            why = (Reason.TRUNCATED, "its headers ended too early") if status else (Reason.BAD_ANSWER, "no status line")
        if why and not (complete and not self._is_success):
            reason, detail = why
            # Which limit a silent host exceeds first varies from run to run.
            raise Failure(reason, status, detail="" if reason is Reason.TIMEOUT and not status else detail)
        return Response(status, self._headers, body)

    @property
    def _is_success(self) -> bool:
        return 200 <= self._status < 300

    def _on_header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._aborted = Reason.BAD_ANSWER, HEADERS
            return -1
        if line.startswith(b"HTTP/"):  # also follows a 1xx response or a proxy's
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
        if not self._is_success:
            length = next((value for name, value in self._headers if name == "content-length"), "")
            return None if length.isdecimal() and int(length) <= SMALL_BYTES else -1
        if len(self._body) + len(data) > self._params.max_bytes:
            self._aborted = Reason.TOO_LARGE, "as sent"
            return -1
        self._body += data
        return None

    def _on_connected(self, *addresses: object) -> int:
        self._connected_at = self._received_at = time.monotonic()
        return pycurl.PREREQFUNC_OK

    def _on_progress(self, announced: int, received: int, *sent: int) -> int:
        """Return 1 to abort the transfer if no byte came for too long, or if the body is too slow."""
        if self._connected_at is None or (announced and received == announced):
            return 0
        now = time.monotonic()
        if received + self._header_bytes > self._seen_bytes:
            self._seen_bytes, self._received_at = received + self._header_bytes, now
        seconds = now - self._connected_at
        slow = received and seconds > GRACE_SECONDS and received < seconds * self._params.min_bytes_per_second
        if slow or now - self._received_at > self._params.timeout_seconds:
            self._aborted = Reason.TIMEOUT, ("below download.min_bytes_per_second" if slow else
                                         "no byte for download.timeout_seconds")
            return 1
        return 0

    def _failure(self, code: int, message: str, guard: AddressGuard, status: int) -> tuple[Reason, str]:
        if guard.refused and not guard.opened:
            return Reason.FORBIDDEN_ADDRESS, ""
        if code == pycurl.E_SSL_CONNECT_ERROR and ("error:" not in message or "unexpected eof" in message):
            return Reason.CONNECT, ""  # the connection broke; OpenSSL reports no error
        return REASONS.get(code, (Reason.TRUNCATED, "the answer ended too early") if status else (Reason.CONNECT, ""))
