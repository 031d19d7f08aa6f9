"""A requests session that connects only to public addresses, checked at every connection, redirects included.

A name is resolved once, its addresses are checked, and the connection goes to an address that passed: a name that
resolves differently a moment later gains nothing.
"""

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError
from urllib3.util.connection import create_connection

from mlimages.download.ledger import Reason

USER_AGENT = "mlimages/0.1 (image list downloader for research)"
PORTS = {"http": 80, "https": 443}
MAX_URL_CHARACTERS = 4096


class Failure(Exception):
    """A fetch that ended in `reason`; `http_status` is the last answer's, 0 where none came."""

    def __init__(self, reason: Reason, http_status: int = 0) -> None:
        super().__init__(reason.meaning)
        self.reason = reason
        self.http_status = http_status


def check_url(url: str) -> str:
    """The URL's host; Failure BAD_URL for what must not even be asked for."""
    try:
        parts = urlsplit(url)
        usable = (len(url) <= MAX_URL_CHARACTERS and parts.scheme in PORTS and parts.hostname
                  and parts.port in (None, *PORTS.values()) and "@" not in parts.netloc
                  and ".." not in parts.path.split("/"))
    except ValueError:
        usable = False
    if not usable:
        raise Failure(Reason.BAD_URL)
    return str(parts.hostname)


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


def guarded_session(connect_to: Mapping[str, str], connections: int) -> requests.Session:
    """A session with keep-alive and no proxies, cookies, netrc or retries of its own.

    `connect_to` maps "host:port" to the "address:port" to connect to instead, unchecked: the user asked for it.
    """

    class Guarded:
        """Mixed into urllib3's connections: where the socket is opened."""

        host: str
        port: int
        timeout: Any
        socket_options: Any

        def _new_conn(self) -> socket.socket:
            target = connect_to.get(f"{self.host}:{self.port}")
            host, _, port = target.rpartition(":") if target else ("", "", str(self.port))
            addresses = [host] if target else public_addresses(self.host, self.port)
            for address in addresses:
                try:
                    return create_connection((address, int(port)), self.timeout, socket_options=self.socket_options)
                except TimeoutError:
                    raise ConnectTimeoutError(self, f"connecting to {address}") from None
                except OSError:
                    continue
            raise Failure(Reason.CONNECT)

    class GuardedHTTP(Guarded, HTTPConnection):
        pass

    class GuardedHTTPS(Guarded, HTTPSConnection):
        pass

    class GuardedAdapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {
                "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": GuardedHTTP}),
                "https": type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": GuardedHTTPS}),
            }

    session = _Session()
    session.trust_env = False
    session.headers.update({"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"})
    for scheme in PORTS:
        session.mount(f"{scheme}://", GuardedAdapter(pool_connections=connections, pool_maxsize=connections))
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read a redirect's whole body, and trip over its headers; fetch follows them itself."""


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global and not (mapped or ip).is_multicast
