"""Redirects are resolved as browsers do, up to a limit."""

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import MakeFetcher

from mlimages.download.ledger import Reason
from mlimages.download.schedule.retry_policy import MAX_REDIRECTS

URL = "http://images.example/a.jpg"


@pytest.mark.parametrize(("location", "path"), [
    ("/caf\u00e9.jpg".encode(), "/caf%C3%A9.jpg"), (b"/caf\xe9.jpg", "/caf%E9.jpg"),
    (b"/caf%C3%A9.jpg", "/caf%C3%A9.jpg"),
    (b"http://images.example/x/../ok.jpg", "/ok.jpg"), (b"../../ok.jpg", "/ok.jpg"), (b"./ok.jpg", "/ok.jpg"),
    (b"http://images.example/x/./y/../../../ok.jpg", "/ok.jpg"), (b" /o k.jpg ", "/o%20k.jpg"),
    (b"//other.example/ok.jpg?a=b%20c", "/ok.jpg?a=b%20c"), (b"http://IMAGES.example:80/ok.jpg#there", "/ok.jpg"),
    (b"?size=l", "/a.jpg?size=l")])
def test_a_location_is_resolved_as_browsers_do(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                               location: bytes, path: str) -> None:
    server.on("/a.jpg", raw=b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nlocation: " + location + b"\r\n\r\n")
    server.on(path, body=jpeg)
    assert fetcher().fetch(URL).reason is Reason.OK
    assert server.log[-1][1] == path


@pytest.mark.parametrize("url", ["http://images.example/x/../ok.jpg", "http://images.example/../ok.jpg",
                                 "http://images.example/x/%2E%2e/./ok.jpg"])
def test_dot_segments_of_a_url_are_resolved(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                            url: str) -> None:
    server.on("/ok.jpg", body=jpeg)
    assert fetcher().fetch(url).reason is Reason.OK


def test_a_non_ascii_host_is_requested_by_its_idna_2008_name(fetcher: MakeFetcher, server: ScriptedServer,
                                                             jpeg: bytes) -> None:
    server.on("/a.jpg", status=302, headers={"Location": "http://fa%C3%9F.example/b.jpg"})
    server.on("/b.jpg", body=jpeg)
    one = fetcher(also=server.connect_to("xn--fa-hia.example"))
    assert one.fetch("http://fa\u00df.example/a.jpg").reason is Reason.OK
    assert server.log == [("xn--fa-hia.example", "/a.jpg"), ("xn--fa-hia.example", "/b.jpg")]
    assert [*one.scheduler.domains] == ["xn--fa-hia.example"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_to_the_image(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                             status: int) -> None:
    server.on("/a.jpg", status=status, headers={"Location": "b.jpg"})
    server.on("/b.jpg", status=status, headers={"Location": "http://other.example/c.jpg"})
    server.on("/c.jpg", body=jpeg)
    assert fetcher().fetch(URL)[:2] == (Reason.OK, 200)
    assert server.log == [("images.example", "/a.jpg"), ("images.example", "/b.jpg"), ("other.example", "/c.jpg")]


def test_a_redirect_loop_ends(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", status=302, headers={"Location": "/b.jpg"})
    server.on("/b.jpg", status=302, headers={"Location": "/a.jpg"})
    assert fetcher().fetch(URL) == (Reason.REDIRECTS, 302, 6, None)
    assert server.requests.total() == MAX_REDIRECTS + 1


def test_a_redirect_without_a_target_fails(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", status=302)
    assert fetcher().fetch(URL).reason is Reason.REDIRECTS


def test_a_redirect_to_the_hosts_placeholder_is_not_followed(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", status=302, headers={"Location": "http://other.example/images/photo_unavailable.png"})
    assert fetcher().fetch(URL) == (Reason.PLACEHOLDER, 302, 1, None)
    assert server.requests == {"/a.jpg": 1}


def test_the_body_of_a_redirect_is_not_read(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/a.jpg", status=302, headers={"Location": "http://other.example/b.jpg"}, endless=True)
    server.on("/b.jpg", body=jpeg)
    assert fetcher().fetch(URL).reason is Reason.OK
    server.wait_until(lambda: server.finished["/a.jpg"] == 1)
    assert server.broken_off["/a.jpg"] == 1
