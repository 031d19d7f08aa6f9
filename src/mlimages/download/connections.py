"""Keep-alive connections, one for each slot that the scheduler gives: never more to a domain than it has slots."""

import http.client
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import certifi

from mlimages.download.guard import check_literal, open_socket, port_of
from mlimages.download.watchdog import Watch

MAX_IDLE = 256

Connection = http.client.HTTPConnection
Slot = tuple[str, int]
Origin = tuple[str, str, int]


class Network(NamedTuple):
    """How to reach it: `connect_to` as in guard.open_socket; `proxies` are proxy URLs by scheme, mostly none."""

    connect_to: Mapping[str, str]
    proxies: Mapping[str, str]


class Connections:
    """Opens, lends and keeps connections; at most MAX_IDLE of them stay open unused, the latest used."""

    def __init__(self, timeout_seconds: float, network: Network) -> None:
        self._timeout_seconds, self._network = timeout_seconds, network
        self._tls = ssl.create_default_context(cafile=certifi.where())
        self._idle: OrderedDict[Slot, tuple[Origin, Connection]] = OrderedDict()
        self._lock = Lock()

    def take(self, slot: Slot, parts: SplitResult, watch: Watch) -> tuple[Connection, bool]:
        """The slot's connection where it is one to the URL's host, else a new one; and whether it was used before."""
        with self._lock:
            origin, idle = self._idle.pop(slot, (None, None))
        if idle and origin == _origin(parts):
            watch.on(idle.sock)
            return idle, True
        if idle:
            idle.close()
        return self.open(parts, watch), False

    def open(self, parts: SplitResult, watch: Watch) -> Connection:
        """A new connection to the URL's host; raises what guard.open_socket and a TLS handshake raise."""
        scheme, host, port = _origin(parts)
        seconds = min(self._timeout_seconds, watch.left)
        kind: Any = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        options = {"context": self._tls} if scheme == "https" else {}
        if scheme in self._network.proxies:
            check_literal(host)
            proxy = urlsplit(self._network.proxies[scheme])
            connection = kind(proxy.hostname, proxy.port or 3128, timeout=seconds, **options)
            if scheme == "https":
                connection.set_tunnel(host, port)
            connection.connect()
        else:
            connection = kind(host, port, **options)
            connection.sock = open_socket(host, port, seconds, self._network.connect_to)
            watch.on(connection.sock)
            if scheme == "https":
                connection.sock = self._tls.wrap_socket(connection.sock, server_hostname=host)
        watch.on(connection.sock)
        connection.sock.settimeout(self._timeout_seconds)
        return connection

    def prefix(self, parts: SplitResult) -> str:
        """What stands before a URL's path in the request: an HTTP proxy wants the whole URL."""
        return f"http://{parts.netloc}" if parts.scheme == "http" and "http" in self._network.proxies else ""

    def give_back(self, slot: Slot, parts: SplitResult, connection: Connection,
                  response: http.client.HTTPResponse) -> None:
        """Keep the connection where its response was read to its end, else close it."""
        if response.will_close or not response.isclosed():
            response.close()
            connection.close()
            return
        with self._lock:
            self._idle[slot] = _origin(parts), connection
            oldest = self._idle.popitem(last=False)[1][1] if len(self._idle) > MAX_IDLE else None
        if oldest:
            oldest.close()


def _origin(parts: SplitResult) -> Origin:
    return parts.scheme, str(parts.hostname), port_of(parts)
