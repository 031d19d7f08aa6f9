"""Where a connection may go: public addresses only, checked at every connection, redirects included.

A name is resolved once, its addresses are checked, and the connection goes to an address that passed: a name that
resolves differently a moment later gains nothing.
"""

import contextlib
import ipaddress
import socket
import time
from collections.abc import Collection, Mapping
from urllib.parse import SplitResult, urlsplit

from mlimages.download.ledger import Reason

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_CHARACTERS = 4096
LEAST_SECONDS = 0.001  # for an address whose turn comes when the time is over: 0 would mean without a timeout
# The IPv6 addresses of single hosts in the Internet (RFC 4291), and those that stand for IPv4's (RFC 6052).
UNICAST, NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")


class Failure(Exception):
    """A fetch that ended in `reason`.

    `http_status` is the last answer's, 0 where none came. `retry_after` is what the host asked for, in seconds.
    """

    def __init__(self, reason: Reason, http_status: int = 0, *, retry_after: float | None = None) -> None:
        super().__init__(reason.meaning)
        self.reason, self.http_status, self.retry_after = reason, http_status, retry_after


def check_url(url: str, ports: Collection[int]) -> SplitResult:
    """The URL's parts; Failure BAD_URL for what must not even be asked for."""
    try:
        parts = urlsplit(url)
        usable = (len(url) <= MAX_URL_CHARACTERS and parts.scheme in DEFAULT_PORTS and parts.hostname
                  and port_of(parts) in ports and "@" not in parts.netloc and ".." not in parts.path.split("/"))
    except ValueError:
        usable = False
    if not usable:
        raise Failure(Reason.BAD_URL)
    return parts


def port_of(parts: SplitResult) -> int:
    """The port that a URL leads to, stated or not; ValueError where it states nonsense."""
    return DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port


def public_addresses(host: str, port: int) -> list[str]:
    """The public IP addresses of a host; Failure DNS or FORBIDDEN_ADDRESS where there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Failure(Reason.DNS) from None
    public = [str(address[0]) for *_, address in found if _is_public(str(address[0]))]
    if not public:
        raise Failure(Reason.FORBIDDEN_ADDRESS)
    return public


def check_literal(host: str) -> None:
    """Failure FORBIDDEN_ADDRESS where a host is written as a private address, in any of the notations of `inet_aton`.

    All that can be checked where a proxy resolves the names.
    """
    try:
        address = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        address = host
    with contextlib.suppress(ValueError):
        if not _is_public(address):
            raise Failure(Reason.FORBIDDEN_ADDRESS)


def open_socket(host: str, port: int, seconds: float, connect_to: Mapping[str, str]) -> socket.socket:
    """A connection to a public address of the host, with a timeout of so many seconds, shared by its addresses.

    `connect_to` maps "host:port" to the "address:port" to connect to instead, unchecked: the user asked for it.
    Failure DNS, FORBIDDEN_ADDRESS, TIMEOUT or CONNECT where no address takes it.
    """
    target = connect_to.get(f"{host}:{port}")
    address, _, target_port = target.rpartition(":") if target else ("", "", str(port))
    addresses = [address] if target else public_addresses(host, port)
    reason, ends = Reason.CONNECT, time.monotonic() + seconds
    for number, address in enumerate(addresses):
        share = max(ends - time.monotonic(), LEAST_SECONDS) / (len(addresses) - number)
        try:
            opened = socket.create_connection((address, int(target_port)), share)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return opened
        except OSError as error:
            reason = Reason.TIMEOUT if isinstance(error, TimeoutError) else Reason.CONNECT
    raise Failure(reason)


def _is_public(address: str) -> bool:
    """Also of the IPv4 address to which a gateway would lead from one of IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        behind = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(ip.packed[-4:]) if ip in NAT64 else None)
        if behind is None:
            return ip in UNICAST and ip.is_global
        ip = behind
    return ip.is_global and not ip.is_multicast
