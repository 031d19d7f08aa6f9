"""Requests go only to public addresses by http and https; a refused address gets no connection."""

import socket
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import MakeFetcher

from mlimages.download.http.address_guard import AddressGuard, Failure, ascii_url, check_literal, check_url
from mlimages.download.http.curl import pycurl
from mlimages.download.ledger import Reason

PORTS = (80, 443)

FORBIDDEN = ["127.0.0.1", "169.254.169.254", "2130706433", "0x7f000001", "017700000001", "127.1", "[::1]",
             "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "10.0.0.1", "192.168.1.1", "172.16.0.1",  # noqa: S104
             "100.64.0.1", "224.0.0.1", "[fe80::1]", "[fd00::1]", "localhost",
             # NAT64, 6to4 and older forms that contain an IPv4 address
             "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[::7f00:1]", "[fec0::1]", "[ff0e::1]"]


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses for which the guard opened a socket. Sockets to other machines are closed again."""
    real, opened = AddressGuard.__call__, []

    def gate(one: AddressGuard, purpose: int, address: Any) -> Any:
        found = real(one, purpose, address)
        if found == pycurl.SOCKET_BAD:
            return found
        opened.append(address[3][:2])
        if address[3][0] == "127.0.0.1":
            return found
        found.close()  # no test connects to another machine, even if the guard is broken
        return pycurl.SOCKET_BAD

    monkeypatch.setattr(AddressGuard, "__call__", gate)
    return opened


@pytest.mark.parametrize("url", [
    "file:///etc/passwd", "ftp://images.example/a.jpg", "gopher://images.example/", "data:image/png;base64,AAAA",
    "images.example/a.jpg", "//images.example/a.jpg", "", "http://", "http:///a.jpg", "http://user@images.example/a.jpg",
    "http://user:password@images.example/a.jpg", "http://@images.example/", "http://images.example:22/a.jpg",
    "http://images.example:6379/", "https://images.example:8443/", "http://images.example:0/",
    "http://images.example:99999/", "http://images.example:port/", "http://[images.example/", "http://[::1/a.jpg",
    "http://images.example%2F.other.example/", "http://images%40example/", "http://images.example/" + "a" * 4096])
def test_a_forbidden_url_is_refused_without_a_connection(fetcher: MakeFetcher, connected: list[Any], url: str) -> None:
    with pytest.raises(Failure) as failure:
        ascii_url(check_url(url, PORTS))
    assert failure.value.reason is Reason.BAD_URL
    assert fetcher(attempts=1).fetch(url)[:3] == (Reason.BAD_URL, 0, 1)
    assert connected == []


@pytest.mark.parametrize(("url", "host"), [
    ("http://images.example/a..b/...jpg?x=../y", "images.example"), ("https://IMAGES.example:443/a", "images.example"),
    ("http://images.example:80", "images.example"), ("http://[2606:4700::1]/a", "2606:4700::1")])
def test_the_host_of_an_allowed_url_is_returned(url: str, host: str) -> None:
    assert check_url(url, PORTS).hostname == host


@pytest.mark.parametrize("host", FORBIDDEN)
def test_a_host_without_a_public_address_is_refused_without_a_connection(fetcher: MakeFetcher, connected: list[Any],
                                                                         host: str) -> None:
    assert fetcher(attempts=1).fetch(f"http://{host}/latest/meta-data").reason is Reason.FORBIDDEN_ADDRESS
    assert connected == []


@pytest.mark.parametrize("host", FORBIDDEN)
def test_a_redirect_to_a_host_without_a_public_address_is_refused(fetcher: MakeFetcher, server: ScriptedServer,
                                                                  connected: list[Any], host: str) -> None:
    server.on("/a.jpg", status=302, headers={"Location": f"http://{host}/latest/meta-data"})
    assert fetcher(attempts=1).fetch("http://images.example/a.jpg").reason is Reason.FORBIDDEN_ADDRESS
    assert connected == [server.server_address]
    assert server.requests == {"/a.jpg": 1}


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://images.example/a.jpg", "http://images.example:22/",
                                    "http://user@images.example/b.jpg", "//images.example:6379/"])
def test_a_redirect_to_a_forbidden_url_is_refused(fetcher: MakeFetcher, server: ScriptedServer, connected: list[Any],
                                                  target: str) -> None:
    server.on("/d/a.jpg", status=301, headers={"Location": target})
    assert fetcher(attempts=1).fetch("http://images.example/d/a.jpg").reason is Reason.BAD_URL
    assert connected == [server.server_address]


@pytest.mark.parametrize("target", ["file:a.jpg", "FILE:a.jpg", "file://images.example/a.jpg"])
def test_a_redirect_never_leads_to_a_local_picture(fetcher: MakeFetcher, server: ScriptedServer, tmp_path: Path,
                                                   jpeg: bytes, target: str) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg)
    server.on("/d/a.jpg", status=301, headers={"Location": target})
    outcome = fetcher(attempts=1, files=str(tmp_path)).fetch("http://images.example/d/a.jpg")
    assert (outcome.reason, outcome.image) == (Reason.BAD_URL, None)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".invalid", "a..invalid"])
def test_an_unknown_host_has_no_address(fetcher: MakeFetcher, connected: list[Any], host: str) -> None:
    assert fetcher(attempts=1).fetch(f"http://{host}/a.jpg").reason is Reason.DNS
    assert connected == []


@pytest.mark.parametrize(("address", "public"), [
    ("10.0.0.1", False), ("8.8.8.8", True), ("::1", False), ("2606:4700::1", True), ("127.0.0.1", False),
    ("64:ff9b::a00:1", False), ("64:ff9b::808:808", True), ("::ffff:10.0.0.1", False), ("::ffff:8.8.8.8", True),
    ("fe80::1%2", False)])
def test_a_socket_is_opened_for_public_addresses_only(address: str, public: bool) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    gate, any_gate = AddressGuard(allow_private=False), AddressGuard(allow_private=True)
    for one in (gate, any_gate):
        one(0, (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, (address, 80)))
    assert (gate.opened, gate.refused) == (int(public), int(not public))
    assert (any_gate.opened, any_gate.refused) == (1, 0)


def test_no_socket_is_opened_for_a_unix_socket_path(fetcher: MakeFetcher) -> None:
    guard = AddressGuard(allow_private=False)
    assert guard(0, (socket.AF_UNIX, socket.SOCK_STREAM, 0, b"/run/docker.sock")) == pycurl.SOCKET_BAD


@pytest.mark.parametrize("host", FORBIDDEN)
def test_the_address_guard_alone_refuses_private_addresses(fetcher: MakeFetcher, connected: list[Any],
                                                           monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr("mlimages.download.http.transport.check_literal", lambda host: None)
    one = fetcher(attempts=1).fetch(f"http://{host}/latest/meta-data")
    assert one.reason in (Reason.FORBIDDEN_ADDRESS, Reason.DNS) and one.http_status == 0
    assert connected == []


@pytest.mark.parametrize(("url", "asked"), [
    ("http://images.example", "http://images.example/"),
    ("HTTP://IMAGES.example:80/a b.jpg?q=\u00e4#x", "http://images.example:80/a%20b.jpg?q=%C3%A4"),
    ("http://images.example/caf\u00e9.jpg", "http://images.example/caf%C3%A9.jpg"),
    ("http://images.example/%41%zz?a=%20&b=c?d", "http://images.example/%41%zz?a=%20&b=c?d"),
    ("http://fa\u00df.example/a", "http://xn--fa-hia.example/a"),  # IDNA 2003 would give fass.example
    ("http://M\u00dcNCHEN.example/a", "http://xn--mnchen-3ya.example/a"),
    ("http://b%C3%BCcher.example/a", "http://xn--bcher-kva.example/a"),
    ("http://under_score.example/a", "http://under_score.example/a"),
    ("http://[2606:4700::1]:443/a", "http://[2606:4700::1]:443/a")])
def test_a_url_is_requested_in_ascii(url: str, asked: str) -> None:
    assert ascii_url(check_url(url, PORTS)) == asked


def test_other_ports_are_used_only_if_configured(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
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
def test_a_private_address_is_refused_before_a_proxy_is_used(host: str) -> None:
    with pytest.raises(Failure) as failure:
        check_literal(host)
    assert failure.value.reason is Reason.FORBIDDEN_ADDRESS
    check_literal("8.8.8.8")
    check_literal("images.example")
