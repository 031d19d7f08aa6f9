"""Which URLs may be asked for, and which addresses a socket may go to: public ones only, at every hop.

The address is checked when libcurl opens a socket for it: a name that resolves differently a moment later gains
nothing.
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
# The IPv6 addresses of single hosts in the Internet (RFC 4291), and those that stand for IPv4's (RFC 6052).
UNICAST, NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")
# What a percent-encoded host must not hide: it would end the host's name in a URL.
NOT_IN_A_HOST = re.compile(r"[\x00-\x20\x7f/?#@\\:<>\[\]^|%]")
SAFE_IN_A_PATH = "/%:=&~+!$,;'@()*[]"


class Failure(Exception):
    """A fetch that ended in `reason`.

    `http_status` is the last answer's, 0 where none came. `retry_after` is what the host asked for, in seconds.
    `detail` is what there is to say beyond the reason; it depends on nothing but the URL and the answer.
    """

    def __init__(self, reason: Reason, http_status: int = 0, *, retry_after: float | None = None,
                 detail: str = "") -> None:
        super().__init__(reason.meaning)
        self.reason, self.http_status, self.retry_after = reason, http_status, retry_after
        self.detail = one_line(detail)


def check_url(url: str, ports: Collection[int]) -> SplitResult:
    """The URL's parts; Failure BAD_URL for what must not even be asked for."""
    try:
        parts = urlsplit(url)
        if problem := _problem(url, parts, ports):
            raise Failure(Reason.BAD_URL, detail=problem)
    except ValueError:
        raise Failure(Reason.BAD_URL, detail="no valid URL") from None
    return parts


def _problem(url: str, parts: SplitResult, ports: Collection[int]) -> str:
    """What forbids to ask for a URL; "" where nothing does. ValueError where its port is none."""
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
    """The port that a URL leads to, stated or not; ValueError where it states nonsense."""
    return DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port


def ascii_host(parts: SplitResult) -> str:
    """The URL's host, by IDNA 2008 where it is not ASCII; Failure where there can be no such name."""
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
    """The URL as it is asked for: an ASCII host, and percent-encoded what a path or a query cannot hold."""
    host = ascii_host(parts)
    netloc = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port is not None else "")
    query = f"?{quote(parts.query, safe=SAFE_IN_A_PATH + '?')}" if parts.query else ""
    return f"{parts.scheme}://{netloc}{quote(parts.path or '/', safe=SAFE_IN_A_PATH)}{query}"


def check_literal(host: str) -> None:
    """Failure FORBIDDEN_ADDRESS where a host is written as a private address, in any of the notations of `inet_aton`.

    All that can be checked where a proxy resolves the names.
    """
    try:
        address = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        address = host
    with contextlib.suppress(ValueError):
        if not is_public(address):
            raise Failure(Reason.FORBIDDEN_ADDRESS)


def is_public(address: str) -> bool:
    """Also of the IPv4 address to which a gateway would lead from one of IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        behind = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(ip.packed[-4:]) if ip in NAT64 else None)
        if behind is None:
            return ip in UNICAST and ip.is_global
        ip = behind
    return ip.is_global and not ip.is_multicast


class Gate:
    """Opens the sockets of one transfer: to public addresses only, or to any, where the user named the address.

    An instance is libcurl's CURLOPT_OPENSOCKETFUNCTION. `refused` counts the addresses that were not let through.
    """

    def __init__(self, *, to_any: bool) -> None:
        self._to_any = to_any
        self.opened = self.refused = 0

    def __call__(self, purpose: int, address: Any) -> Any:
        family, kind, protocol, where = address
        if not self._to_any and (family not in (socket.AF_INET, socket.AF_INET6) or not is_public(where[0])):
            self.refused += 1
            return pycurl.SOCKET_BAD
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError:
            return pycurl.SOCKET_BAD
        self.opened += 1
        return opened
