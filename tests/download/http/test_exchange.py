"""Fetching one URL gives the image or the right reason, within limits of time, bytes and tries."""

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
from mlimages.download.http.exchange import FetchRequest
from mlimages.download.ledger import Reason

URL = "http://images.example/a.jpg"


def test_an_image_is_kept_as_it_was_sent(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg)
    assert fetcher().fetch(URL) == (Reason.OK, 200, 1, (jpeg, "jpg", 48, 40))


def test_a_large_image_is_resized_to_shorter_side(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg)
    image = fetcher(shorter_side=20).fetch(URL).image
    assert image and image[1:] == ("jpg", 24, 20)
    assert Image.open(io.BytesIO(image[0])).size == (24, 20)


@pytest.mark.parametrize("status", [400, 403, 404, 410, 418, 451])
def test_a_final_status_is_not_retried(fetcher: MakeFetcher, server: ScriptedServer, status: int) -> None:
    server.on("/a.jpg", status=status)
    assert fetcher().fetch(URL) == (Reason.GONE, status, 1, None)
    assert server.requests["/a.jpg"] == 1


@pytest.mark.parametrize("reply", [*({"status": status} for status in (408, 425, 429, 500, 502, 503, 504, 521)),
                                   {"drop": True}, {"body": b"x" * 100, "cut": 10},
                                   {"body": b"x" * 100, "cut": 10, "reset": True}])
def test_a_transient_failure_is_retried(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes, reply: dict[str,
                                        Any]) -> None:
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
def test_a_lasting_failure_ends_after_download_attempts(fetcher: MakeFetcher, server: ScriptedServer, reply: dict[str,
                                                        Any], reason: Reason, status: int) -> None:
    server.on("/a.jpg", **reply)
    assert fetcher().fetch(URL) == (reason, status, 3, None)
    assert server.requests["/a.jpg"] == 3


@pytest.mark.parametrize("raw", [b"4\r\nxxxx\r\n", b"4\r\nxx", b"zz\r\nxxxx\r\n0\r\n\r\n"])
def test_broken_chunks_are_truncated(fetcher: MakeFetcher, server: ScriptedServer, raw: bytes) -> None:
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    assert fetcher(attempts=1).fetch(URL).reason is Reason.TRUNCATED


def test_a_chunked_image_is_complete(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (jpeg[:100], jpeg[100:])) + b"0\r\n\r\n"
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert fetcher().fetch(URL).image == (jpeg, "jpg", 48, 40)


def test_configured_headers_are_sent_with_every_request_and_can_replace_ours(fetcher: MakeFetcher,
                                                                             server: ScriptedServer,
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
def test_an_invalid_header_is_only_a_failure(fetcher: MakeFetcher, server: ScriptedServer, reply: dict[str, Any],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlimages.download.schedule.politeness.PAUSE_SECONDS", 0.0)
    server.on("/a.jpg", **reply)
    assert fetcher(attempts=1).fetch(URL).reason not in (Reason.OK, Reason.CRASHED)


def test_an_endless_body_is_aborted_at_max_bytes(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", endless=True)
    assert fetcher(max_bytes=300_000).fetch(URL) == (Reason.TOO_LARGE, 200, 1, None)
    server.wait_until(lambda: server.broken_off["/a.jpg"] == 1)


def test_a_body_of_exactly_max_bytes_is_accepted(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg + bytes(2000))
    assert fetcher(max_bytes=len(jpeg) + 2000).fetch(URL).reason is Reason.OK
    assert fetcher(max_bytes=len(jpeg) + 1999).fetch(URL).reason is Reason.TOO_LARGE


def test_a_small_complete_image_is_never_too_slow(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "GRACE_SECONDS", 0.0)
    server.on("/a.jpg", body=jpeg)
    assert fetcher(min_bytes_per_second=1e9).fetch(URL).reason is Reason.OK


def test_a_dripping_body_is_aborted_at_the_deadline(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    # Every byte arrives well within the socket timeout. The complete body would be no image.
    server.on("/a.jpg", body=b"x" * 150, drip_seconds=0.02)
    assert fetcher(attempts=1, deadline_seconds=0.3, timeout_seconds=5.0).fetch(URL) == (Reason.TIMEOUT, 200, 1, None)


def test_dripping_headers_are_aborted_at_the_deadline(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400, raw_drip_seconds=0.02)
    outcome = fetcher(attempts=1, deadline_seconds=0.3, timeout_seconds=5.0).fetch(URL)
    assert (outcome.reason, outcome.requests) == (Reason.TIMEOUT, 1)


def test_a_body_of_unknown_length_cut_at_the_deadline_is_incomplete(fetcher: MakeFetcher, server: ScriptedServer,
                                                                    jpeg: bytes) -> None:
    # The bytes received until the deadline are a complete image, but more would follow.
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\n\r\n" + jpeg + b"x" * 9000, raw_drip_seconds=0.001)
    outcome = fetcher(attempts=1, deadline_seconds=1.2, timeout_seconds=5.0).fetch(URL)
    assert (outcome.reason, outcome.requests) == (Reason.TIMEOUT, 1)


def test_headers_that_end_too_early_are_truncated(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nX: y")
    assert fetcher(attempts=2).fetch(URL) == (Reason.TRUNCATED, 200, 2, None)


def test_a_body_below_min_bytes_per_second_is_aborted(fetcher: MakeFetcher, server: ScriptedServer,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlimages.download.http.transport.GRACE_SECONDS", 0.2)
    server.on("/a.jpg", body=b"x" * 150, drip_seconds=0.02)
    slow = fetcher(attempts=1, min_bytes_per_second=1000.0).fetch(URL)
    assert slow == (Reason.TIMEOUT, 200, 1, None)
    assert fetcher(attempts=1, min_bytes_per_second=10.0).fetch(URL).reason is Reason.NOT_IMAGE


def test_a_silent_host_times_out(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", hang=True)
    assert fetcher(attempts=2, timeout_seconds=0.2).fetch(URL) == (Reason.TIMEOUT, 0, 2, None)


def test_the_deadline_covers_all_tries_of_a_url(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", body=b"x" * 150, drip_seconds=0.02)
    assert fetcher(attempts=3, deadline_seconds=0.3).fetch(URL) == (Reason.TIMEOUT, 200, 1, None)


def test_a_known_placeholder_is_rejected(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
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


def test_the_user_agent_names_the_contact_and_cookies_are_ignored(fetcher: MakeFetcher, server: ScriptedServer,
                                                                  jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg, headers={"Set-Cookie": "id=1; Path=/"})
    one = fetcher(contact="ada@images.example")
    for _ in range(2):
        assert one.fetch(URL).reason is Reason.OK
    first, second = server.headers
    assert "mlimages" in first["User-Agent"] and "ada@images.example" in first["User-Agent"]
    assert first == second and "Cookie" not in second
    assert server.connections == 1, "the connection was not kept"


def test_an_image_with_another_md5_than_in_the_table_is_rejected(fetcher: MakeFetcher, server: ScriptedServer,
                                                                 jpeg: bytes, tmp_path: Path) -> None:
    server.on("/a.jpg", body=jpeg)
    one = fetcher()
    for number, md5 in enumerate((hashlib.md5(jpeg, usedforsecurity=False).hexdigest(), "0" * 32)):
        one.pool.send(0, FetchRequest(number, URL, ("images.example", 0), 5.0, "train-00000", md5))
    answers = sorted([one.pool.receive(5.0)[0][1] for _ in range(2)])
    assert [answer.reason for answer in answers] == [Reason.OK, Reason.CHANGED]


def test_many_concurrent_urls_all_end(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    barrier = threading.Barrier(4)
    server.on("/first.jpg", body=jpeg)  # a host gets one request at a time until its first response
    for number in range(40):
        server.on(f"/{number}.jpg", body=jpeg + bytes([number]), barrier=barrier)
    # The server answers only once four requests are waiting; with fewer the test would never end.
    outcomes = fetcher(connections_per_host=4, attempts=1).fetch_all(
        ["http://images.example/first.jpg", *(f"http://images.example/{number}.jpg" for number in range(40))])
    assert [one.image and one.image[0] for one in outcomes[1:]] == [jpeg + bytes([number]) for number in range(40)]
    assert server.most_requests["images.example"] == server.most_connections["images.example"] == 4
