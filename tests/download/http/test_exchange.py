"""What comes of one URL: the image as it came, or the true reason why not, in bounded time, bytes and tries."""

import hashlib
import io
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.conftest import ScriptedServer
from tests.download.conftest import MakeFetcher

from mlimages.download.http import transport
from mlimages.download.http.exchange import Get
from mlimages.download.ledger import Reason

URL = "http://images.example/a.jpg"


def test_an_image_comes_as_it_was_sent(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg)
    assert fetcher().fetch(URL) == (Reason.OK, 200, 1, (jpeg, "jpg", 48, 40))


def test_a_large_image_is_made_smaller_if_asked(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg)
    image = fetcher(shorter_side=20).fetch(URL).image
    assert image and image[1:] == ("jpg", 24, 20)
    assert Image.open(io.BytesIO(image[0])).size == (24, 20)


@pytest.mark.parametrize("status", [400, 403, 404, 410, 418, 451])
def test_a_final_status_is_final(fetcher: MakeFetcher, server: ScriptedServer, status: int) -> None:
    server.on("/a.jpg", status=status)
    assert fetcher().fetch(URL) == (Reason.GONE, status, 1, None)
    assert server.requests["/a.jpg"] == 1


@pytest.mark.parametrize("reply", [*({"status": status} for status in (408, 425, 429, 500, 502, 503, 504, 521)),
                                   {"drop": True}, {"body": b"x" * 100, "cut": 10},
                                   {"body": b"x" * 100, "cut": 10, "reset": True}])
def test_a_passing_failure_is_tried_again(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                          reply: dict[str, Any]) -> None:
    server.on("/a.jpg", **reply, **({"headers": {"Retry-After": "0"}} if "status" in reply else {}))
    server.on("/a.jpg", **reply, **({"headers": {"Retry-After": "0"}} if "status" in reply else {}))
    server.on("/a.jpg", body=jpeg)
    outcome = fetcher().fetch(URL)
    assert (outcome.reason, outcome.requests) == (Reason.OK, 3)
    assert server.requests["/a.jpg"] == 3


@pytest.mark.parametrize(("reply", "reason", "status"), [
    ({"status": 500}, Reason.HTTP_ERROR, 500), ({"drop": True}, Reason.CONNECT, 0),
    ({"body": b"x" * 100, "cut": 10}, Reason.TRUNCATED, 200),
    ({"body": b"x" * 100, "cut": 10, "reset": True}, Reason.TRUNCATED, 200)])
def test_a_lasting_failure_ends_after_the_attempts(fetcher: MakeFetcher, server: ScriptedServer,
                                                   reply: dict[str, Any], reason: Reason, status: int) -> None:
    server.on("/a.jpg", **reply)
    assert fetcher().fetch(URL) == (reason, status, 3, None)
    assert server.requests["/a.jpg"] == 3


@pytest.mark.parametrize("raw", [b"4\r\nxxxx\r\n", b"4\r\nxx", b"zz\r\nxxxx\r\n0\r\n\r\n"])
def test_broken_chunks_are_truncated(fetcher: MakeFetcher, server: ScriptedServer, raw: bytes) -> None:
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    assert fetcher(attempts=1).fetch(URL).reason is Reason.TRUNCATED


def test_a_chunked_image_comes_whole(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (jpeg[:100], jpeg[100:])) + b"0\r\n\r\n"
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert fetcher().fetch(URL).image == (jpeg, "jpg", 48, 40)


def test_own_headers_go_with_every_request_and_may_replace_ours(fetcher: MakeFetcher, server: ScriptedServer,
                                                                jpeg: bytes) -> None:
    server.on("/a.jpg", status=302, headers={"Location": "http://other.example/b.jpg"})
    server.on("/b.jpg", body=jpeg)
    own = {"Referer": "https://university.example/", "user-agent": "a browser"}
    assert fetcher(headers=own).fetch(URL).reason is Reason.OK
    names = ("Referer", "user-agent", "Accept", "Accept-Encoding")
    assert [tuple(one[name] for name in names) for one in server.headers] == [
        ("https://university.example/", "a browser", "image/*", "identity")] * 2


@pytest.mark.parametrize("reply", [
    {"status": 302, "headers": {"Location": "http://["}}, {"status": 302, "headers": {"Location": "/caf\xe9"}},
    {"status": 503, "headers": {"Retry-After": "\xb2"}},
    {"headers": {"Content-Length": "\xb2"}, "body": b"x", "cut": 1}])
def test_no_header_is_worse_than_a_failure(fetcher: MakeFetcher, server: ScriptedServer, reply: dict[str, Any],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlimages.download.schedule.politeness.PAUSE_SECONDS", 0.0)
    server.on("/a.jpg", **reply)
    assert fetcher(attempts=1).fetch(URL).reason not in (Reason.OK, Reason.CRASHED)


def test_an_endless_body_is_cut_at_the_byte_limit(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", endless=True)
    assert fetcher(max_bytes=300_000).fetch(URL) == (Reason.TOO_LARGE, 200, 1, None)
    server.wait_until(lambda: server.broken_off["/a.jpg"] == 1)


def test_a_body_of_exactly_the_byte_limit_is_taken(fetcher: MakeFetcher, server: ScriptedServer,
                                                   jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg + bytes(2000))
    assert fetcher(max_bytes=len(jpeg) + 2000).fetch(URL).reason is Reason.OK
    assert fetcher(max_bytes=len(jpeg) + 1999).fetch(URL).reason is Reason.TOO_LARGE


def test_a_small_image_that_comes_late_but_whole_is_not_too_slow(
        fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "GRACE_SECONDS", 0.0)
    server.on("/a.jpg", body=jpeg)
    assert fetcher(min_bytes_per_second=1e9).fetch(URL).reason is Reason.OK


def test_a_dripping_body_is_cut_at_the_deadline(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    # Every byte comes well within the socket timeout; dripped to its end, the body would be no image.
    server.on("/a.jpg", body=b"x" * 150, drip_seconds=0.02)
    assert fetcher(attempts=1, deadline_seconds=0.3, timeout_seconds=5.0).fetch(URL) == (Reason.TIMEOUT, 200, 1, None)


def test_dripping_headers_are_cut_at_the_deadline(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400, raw_drip_seconds=0.02)
    outcome = fetcher(attempts=1, deadline_seconds=0.3, timeout_seconds=5.0).fetch(URL)
    assert (outcome.reason, outcome.requests) == (Reason.TIMEOUT, 1)


def test_a_body_of_no_announced_length_is_not_whole_where_the_deadline_cut_it(
        fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    # What has come when the time is over is an image already; more was on its way.
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\n\r\n" + jpeg + b"x" * 9000, raw_drip_seconds=0.001)
    outcome = fetcher(attempts=1, deadline_seconds=1.2, timeout_seconds=5.0).fetch(URL)
    assert (outcome.reason, outcome.requests) == (Reason.TIMEOUT, 1)


def test_headers_that_end_too_early_are_truncated(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nX: y")
    assert fetcher(attempts=2).fetch(URL) == (Reason.TRUNCATED, 200, 2, None)


def test_a_body_below_the_least_speed_is_cut(fetcher: MakeFetcher, server: ScriptedServer,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlimages.download.http.transport.GRACE_SECONDS", 0.2)
    server.on("/a.jpg", body=b"x" * 150, drip_seconds=0.02)
    slow = fetcher(attempts=1, min_bytes_per_second=1000.0).fetch(URL)
    assert slow == (Reason.TIMEOUT, 200, 1, None)
    assert fetcher(attempts=1, min_bytes_per_second=10.0).fetch(URL).reason is Reason.NOT_IMAGE


def test_silence_ends_with_the_socket_timeout(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", hang=True)
    assert fetcher(attempts=2, timeout_seconds=0.2).fetch(URL) == (Reason.TIMEOUT, 0, 2, None)


def test_the_deadline_is_that_of_the_url_with_all_its_tries(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", body=b"x" * 150, drip_seconds=0.02)
    assert fetcher(attempts=3, deadline_seconds=0.3).fetch(URL) == (Reason.TIMEOUT, 200, 1, None)


def test_a_known_placeholder_is_none_of_the_images(fetcher: MakeFetcher, server: ScriptedServer,
                                                   jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg)
    assert fetcher(placeholders=[hashlib.sha256(jpeg).hexdigest()]).fetch(URL) == (Reason.PLACEHOLDER, 200, 1, None)


@pytest.mark.parametrize(("tag", "reason"), [
    ("noai", Reason.OPT_OUT), ("all, NoImageAI", Reason.OPT_OUT), ("noindex", Reason.OPT_OUT),
    ("none", Reason.OPT_OUT), ("NoML", Reason.OPT_OUT), ("googlebot: noindex", Reason.OK),
    ("somebot: nofollow, noimageindex", Reason.OK), ("somebot: nofollow, mlimages: noai", Reason.OPT_OUT),
    ("*: none", Reason.OPT_OUT), ("unavailable_after: 25 Jun 2030 15:00:00 PST, noindex", Reason.OPT_OUT),
    ("nofollow", Reason.OK), ("noaichange", Reason.OK)])
def test_an_opt_out_is_respected(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes, tag: str,
                                 reason: Reason) -> None:
    server.on("/a.jpg", headers={"X-Robots-Tag": tag}, body=jpeg)
    assert fetcher().fetch(URL)[:3] == (reason, 200, 1)
    assert fetcher(respect_opt_out=False).fetch(URL).reason is Reason.OK


def test_we_say_who_we_are_and_keep_no_cookies(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg, headers={"Set-Cookie": "id=1; Path=/"})
    one = fetcher(contact="ada@images.example")
    for _ in range(2):
        assert one.fetch(URL).reason is Reason.OK
    first, second = server.headers
    assert "mlimages" in first["User-Agent"] and "ada@images.example" in first["User-Agent"]
    assert first == second and "Cookie" not in second
    assert server.connections == 1, "the connection was not kept"


def test_an_image_with_another_md5_than_the_tables_is_not_taken(fetcher: MakeFetcher, server: ScriptedServer,
                                                                jpeg: bytes, tmp_path: Path) -> None:
    server.on("/a.jpg", body=jpeg)
    one = fetcher()
    for number, md5 in enumerate((hashlib.md5(jpeg, usedforsecurity=False).hexdigest(), "0" * 32)):
        one.pool.send(0, Get(number, URL, ("images.example", 0), 5.0, "train-00000", md5))
    answers = sorted([one.pool.receive(5.0)[0][1] for _ in range(2)])
    assert [answer.reason for answer in answers] == [Reason.OK, Reason.CHANGED]


def test_many_urls_at_once_lose_none(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    barrier = threading.Barrier(4)
    server.on("/first.jpg", body=jpeg)  # a host that has not answered yet is asked one thing at a time
    for number in range(40):
        server.on(f"/{number}.jpg", body=jpeg + bytes([number]), barrier=barrier)
    # An answer comes only when four requests have met: fewer at a time would never end.
    outcomes = fetcher(connections_per_host=4, attempts=1).fetch_all(
        ["http://images.example/first.jpg", *(f"http://images.example/{number}.jpg" for number in range(40))])
    assert [one.image and one.image[0] for one in outcomes[1:]] == [jpeg + bytes([number]) for number in range(40)]
    assert server.most_requests["images.example"] == server.most_connections["images.example"] == 4
