"""Which URLs may be requested, and which addresses a socket may connect to: only public ones, at every redirect.

The address is checked when libcurl opens the socket, so DNS rebinding has no effect.
"""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Collection
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

import idna

from mlimages.core.errors import one_line
from mlimages.download.http.curl import pycurl
from mlimages.download.ledger import Reason

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_CHARACTERS = 4096
# Global unicast addresses (RFC 4291), and the prefix that embeds IPv4 addresses (RFC 6052).
UNICAST, NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")
# Characters that end the host name in a URL. A percent-encoded host must not contain them.
NOT_IN_A_HOST = re.compile(r"[\x00-\x20\x7f/?#@\\:<>\[\]^|%]")
SAFE_IN_A_PATH = "/%:=&~+!$,;'@()*[]"


class Failure(Exception):
    """A fetch that failed for `reason`.

    `http_status` is the status of the last response, 0 without one. `retry_after` is the delay that the host asked
    for, in seconds. `detail` adds to the reason; it depends only on the URL and the response.
    """

    def __init__(self, reason: Reason, http_status: int = 0, *, retry_after: float | None = None,
                 detail: str = "") -> None:
        super().__init__(reason.meaning)
        self.reason, self.http_status, self.retry_after = reason, http_status, retry_after
        self.detail = one_line(detail)


def check_url(url: str, ports: Collection[int]) -> SplitResult:
    """Return the parts of a URL. Raises Failure BAD_URL if it must not be requested."""
    try:
        parts = urlsplit(url)
        if problem := _problem(url, parts, ports):
            raise Failure(Reason.BAD_URL, detail=problem)
    except ValueError:
        raise Failure(Reason.BAD_URL, detail="no valid URL") from None
    return parts


def _problem(url: str, parts: SplitResult, ports: Collection[int]) -> str:
    """Why a URL must not be requested, or "". Raises ValueError if its port is invalid."""
    if len(url) > MAX_URL_CHARACTERS:
        return f"more than {MAX_URL_CHARACTERS} characters"
    if parts.scheme not in DEFAULT_PORTS:
        return f"the scheme {parts.scheme}"
    if not parts.hostname:
        return "no host"
    if (port := port_of(parts)) not in ports:
        return f"the port {port}"
    return "a user or a password" if "@" in parts.netloc else ""


def port_of(parts: SplitResult) -> int:
    """The explicit or default port of a URL. Raises ValueError if it is invalid."""
    return DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port


def ascii_host(parts: SplitResult) -> str:
    """The host of a URL, encoded by IDNA 2008 if it is not ASCII. Raises Failure if the name is invalid."""
    host = parts.hostname or ""
    if "%" in host and ":" not in host:
        host = unquote(host)
        if NOT_IN_A_HOST.search(host):
            raise Failure(Reason.BAD_URL, detail="a host name with characters that no name has")
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        raise Failure(Reason.DNS) from None


def ascii_url(parts: SplitResult) -> str:
    """The URL to send: the host in ASCII, the path and the query percent-encoded where needed."""
    host = ascii_host(parts)
    netloc = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port is not None else "")
    query = f"?{quote(parts.query, safe=SAFE_IN_A_PATH + '?')}" if parts.query else ""
    return f"{parts.scheme}://{netloc}{quote(parts.path or '/', safe=SAFE_IN_A_PATH)}{query}"


def check_literal(host: str) -> None:
    """Raise Failure FORBIDDEN_ADDRESS if a host is a private address in any notation of `inet_aton`.

    With a proxy this is the only check, because the proxy resolves names.
    """
    try:
        address = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        address = host
    with contextlib.suppress(ValueError):
        if not is_public(address):
            raise Failure(Reason.FORBIDDEN_ADDRESS)


def is_public(address: str) -> bool:
    """Whether an IP address is public. Of an IPv6 address that embeds an IPv4 address, the latter decides."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(ip.packed[-4:]) if ip in NAT64 else None)
        if embedded is None:
            return ip in UNICAST and ip.is_global
        ip = embedded
    return ip.is_global and not ip.is_multicast


class AddressGuard:
    """Opens the sockets of one transfer, only to public addresses unless `allow_private`.

    An instance is libcurl's CURLOPT_OPENSOCKETFUNCTION. `opened` and `refused` count the addresses.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self.opened = self.refused = 0

    def __call__(self, purpose: int, address: Any) -> Any:
        family, kind, protocol, endpoint = address
        if not self._allow_private and (family not in (socket.AF_INET, socket.AF_INET6) or not is_public(endpoint[0])):
            self.refused += 1
            return pycurl.SOCKET_BAD
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError:
            return pycurl.SOCKET_BAD
        self.opened += 1
        return opened
