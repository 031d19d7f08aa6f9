"""Only public hosts are asked, only by http and https, and a refused address sees no connection."""

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import MakeFetcher

from mlimages.download import guard
from mlimages.download.guard import Failure, check_literal, check_url, public_addresses
from mlimages.download.ledger import Reason

PORTS = (80, 443)
# Every address that this process connects to while a test listens; an audit hook cannot be taken off again.
_listeners: list[list[Any]] = []


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        for heard in _listeners:
            heard.append(args[1])
        if _listeners and args[1][0] != "127.0.0.1":
            raise ConnectionRefusedError("no test leaves this machine")


sys.addaudithook(_hear)

FORBIDDEN = ["127.0.0.1", "169.254.169.254", "2130706433", "0x7f000001", "017700000001", "127.1", "[::1]",
             "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "10.0.0.1", "192.168.1.1", "172.16.0.1",  # noqa: S104
             "100.64.0.1", "224.0.0.1", "[fe80::1]", "[fd00::1]", "localhost",
             # by NAT64, 6to4 and older ways to an IPv4 address
             "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[::7f00:1]", "[fec0::1]", "[ff0e::1]"]


@pytest.fixture
def connected() -> Iterator[list[Any]]:
    """The addresses that anything in this process connects to."""
    heard: list[Any] = []
    _listeners.append(heard)
    yield heard
    _listeners.remove(heard)


@pytest.mark.parametrize("url", [
    "file:///etc/passwd", "ftp://images.example/a.jpg", "gopher://images.example/", "data:image/png;base64,AAAA",
    "images.example/a.jpg", "//images.example/a.jpg", "", "http://", "http:///a.jpg", "http://user@images.example/a.jpg",
    "http://user:password@images.example/a.jpg", "http://@images.example/", "http://images.example:22/a.jpg",
    "http://images.example:6379/", "https://images.example:8443/", "http://images.example:0/",
    "http://images.example:99999/", "http://images.example:port/", "http://images.example/../etc/passwd",
    "http://images.example/a/../../b.jpg", "http://images.example/..", "http://[images.example/", "http://[::1/a.jpg",
    "http://images.example/" + "a" * 4096])
def test_what_must_not_be_asked_for_is_refused_without_a_connection(fetcher: MakeFetcher, connected: list[Any],
                                                                    url: str) -> None:
    with pytest.raises(Failure) as failure:
        check_url(url, PORTS)
    assert failure.value.reason is Reason.BAD_URL
    assert fetcher(attempts=1).fetch(url)[:3] == (Reason.BAD_URL, 0, 1)
    assert connected == []


@pytest.mark.parametrize(("url", "host"), [
    ("http://images.example/a..b/...jpg?x=../y", "images.example"), ("https://IMAGES.example:443/a", "images.example"),
    ("http://images.example:80", "images.example"), ("http://[2606:4700::1]/a", "2606:4700::1")])
def test_ordinary_urls_have_their_host(url: str, host: str) -> None:
    assert check_url(url, PORTS).hostname == host


@pytest.mark.parametrize("host", FORBIDDEN)
def test_a_host_without_a_public_address_is_refused_without_a_connection(fetcher: MakeFetcher, connected: list[Any],
                                                                         host: str) -> None:
    assert fetcher(attempts=1).fetch(f"http://{host}/latest/meta-data").reason is Reason.FORBIDDEN_ADDRESS
    assert connected == []


@pytest.mark.parametrize("host", FORBIDDEN)
def test_a_redirect_to_such_a_host_is_refused_without_a_connection_to_it(
        fetcher: MakeFetcher, server: ScriptedServer, connected: list[Any], host: str) -> None:
    server.on("/a.jpg", status=302, headers={"Location": f"http://{host}/latest/meta-data"})
    assert fetcher(attempts=1).fetch("http://images.example/a.jpg").reason is Reason.FORBIDDEN_ADDRESS
    assert connected == [server.server_address]
    assert server.requests == {"/a.jpg": 1}


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://images.example/a.jpg", "http://images.example:22/",
                                    "http://user@images.example/b.jpg", "//images.example:6379/"])
def test_a_redirect_to_what_must_not_be_asked_for_is_refused(
        fetcher: MakeFetcher, server: ScriptedServer, connected: list[Any], target: str) -> None:
    server.on("/d/a.jpg", status=301, headers={"Location": target})
    assert fetcher(attempts=1).fetch("http://images.example/d/a.jpg").reason is Reason.BAD_URL
    assert connected == [server.server_address]


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".invalid", "a..invalid"])
def test_an_unknown_host_has_no_address(fetcher: MakeFetcher, connected: list[Any], host: str) -> None:
    assert fetcher(attempts=1).fetch(f"http://{host}/a.jpg").reason is Reason.DNS
    assert connected == []


def _resolver(*addresses: str) -> Callable[..., Any]:
    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
                for one in addresses]

    return getaddrinfo


def test_of_public_and_private_addresses_only_the_public_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _resolver("10.0.0.1", "8.8.8.8", "::1", "2606:4700::1", "127.0.0.1",
                                                         "64:ff9b::a00:1", "64:ff9b::808:808", "::ffff:10.0.0.1",
                                                         "::ffff:8.8.8.8"))
    assert public_addresses("mixed.example", 80) == ["8.8.8.8", "2606:4700::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]


def test_a_name_that_resolves_differently_a_moment_later_gains_nothing(
        fetcher: MakeFetcher, connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["8.8.8.8"], ["127.0.0.1"]]

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        known = [host] if host[0].isdigit() else answers.pop(0)
        return _resolver(*known)(host, port)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert fetcher(attempts=1).fetch("http://rebinding.example/a.jpg").reason is Reason.CONNECT
    assert [address[0] for address in connected] == ["8.8.8.8"]
    assert answers == [["127.0.0.1"]]


def test_where_the_first_address_is_silent_the_next_one_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that listens and whose queue is full is silent: Linux drops what asks for a connection."""
    real, given = socket.create_connection, []

    def create_connection(address: Any, seconds: float) -> socket.socket:
        given.append(seconds)
        return real(address, seconds)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    with socket.create_server(("127.0.0.2", 0), backlog=0) as silent, contextlib.ExitStack() as waiting:
        port = silent.getsockname()[1]
        for _ in range(2):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", port))
        with socket.create_server(("127.0.0.3", port)):
            monkeypatch.setattr(guard, "public_addresses", lambda host, port: ["127.0.0.2", "127.0.0.3"])
            with guard.open_socket("two.example", port, 1.0, {}) as opened:
                assert opened.getpeername()[0] == "127.0.0.3"
        assert 0.4 < given[0] <= 0.5, "the first address did not get its half of the time"
        with pytest.raises(Failure) as failure:
            monkeypatch.setattr(guard, "public_addresses", lambda host, port: ["127.0.0.2"] * 2)
            guard.open_socket("two.example", port, 0.2, {})
        assert failure.value.reason is Reason.TIMEOUT


def test_other_ports_are_asked_where_the_parameters_say_so(fetcher: MakeFetcher, server: ScriptedServer,
                                                           jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg)
    one = fetcher(ports=[8080], also={"images.example:8080": f"127.0.0.1:{server.server_port}"})
    assert one.fetch("http://images.example:8080/a.jpg").reason is Reason.OK
    assert one.fetch("http://images.example/a.jpg").reason is Reason.BAD_URL


def test_proxies_of_the_environment_are_not_used(fetcher: MakeFetcher, server: ScriptedServer, connected: list[Any],
                                                 jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.on("/a.jpg", body=jpeg)
    assert fetcher().fetch("http://images.example/a.jpg").reason is Reason.OK
    assert set(connected) == {server.server_address}


@pytest.mark.parametrize("host", [host for host in FORBIDDEN if host[0] != "[" and host != "localhost"])
def test_a_proxy_is_not_asked_for_private_addresses(host: str) -> None:
    with pytest.raises(Failure) as failure:
        check_literal(host)
    assert failure.value.reason is Reason.FORBIDDEN_ADDRESS
    check_literal("8.8.8.8")
    check_literal("images.example")
