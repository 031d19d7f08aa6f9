"""What comes of one URL: the image as it came, or the true reason why not, in bounded time, bytes and tries."""

import dataclasses
import io
import random
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from mlimages.download import fetch as fetch_module
from mlimages.download import politeness
from mlimages.download.fetch import MAX_REDIRECTS, Fetcher, check_image
from mlimages.download.guard import Failure
from mlimages.download.ledger import Reason
from mlimages.download.politeness import MAX_PAUSE_SECONDS, retry_after_seconds
from mlimages.params import Params

if TYPE_CHECKING:
    from tests.conftest import ScriptedServer

URL = "http://images.example/a.jpg"


class Clock(SimpleNamespace):
    """The time of `politeness`: it goes on only while somebody sleeps."""

    def __init__(self) -> None:
        super().__init__(now=0.0, time=lambda: 0.0)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(politeness, "time", clock)
    return clock


@pytest.fixture
def fetcher(params: Params, server: "ScriptedServer", monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fetcher]:
    """Makes a fetcher that reaches the scripted server, with these parameters, and hardly waits between tries."""
    monkeypatch.setattr(fetch_module, "BACKOFF_SECONDS", 0.001)
    hosts = server.connect_to("images.example", "other.example")

    def make(**changes: Any) -> Fetcher:
        return Fetcher(dataclasses.replace(params.download, **{"attempts": 3, **changes}), hosts)

    return make


def _encoded(image: Image.Image, form: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def _huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that announces so many pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_an_image_comes_as_it_was_sent(fetcher: Callable[..., Fetcher], server: "ScriptedServer", jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg)
    assert fetcher().fetch(URL) == (Reason.OK, 200, 1, (jpeg, "jpg", 48, 40))


@pytest.mark.parametrize(("form", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp")])
def test_the_format_is_that_of_the_bytes(form: str, extension: str) -> None:
    body = _encoded(Image.linear_gradient("L").resize((20, 30)), form)
    assert check_image(body, 600) == (body, extension, 20, 30)


@pytest.mark.parametrize("status", [400, 403, 404, 410, 451, 501])
def test_a_final_status_is_final(fetcher: Callable[..., Fetcher], server: "ScriptedServer", status: int) -> None:
    server.on("/a.jpg", status=status)
    assert fetcher().fetch(URL) == (Reason.HTTP_ERROR, status, 1, None)
    assert server.requests["/a.jpg"] == 1


@pytest.mark.parametrize("reply", [{"status": 429}, {"status": 500}, {"status": 502}, {"status": 503}, {"status": 504},
                                   {"drop": True}, {"body": b"x" * 100, "cut": 10}])
def test_a_passing_failure_is_tried_again(fetcher: Callable[..., Fetcher], server: "ScriptedServer", jpeg: bytes,
                                          reply: dict[str, Any]) -> None:
    server.on("/a.jpg", **reply)
    server.on("/a.jpg", **reply)
    server.on("/a.jpg", body=jpeg)
    outcome = fetcher().fetch(URL)
    assert (outcome.reason, outcome.attempts) == (Reason.OK, 3)
    assert server.requests["/a.jpg"] == 3


@pytest.mark.parametrize(("reply", "reason", "status"), [
    ({"status": 503}, Reason.HTTP_ERROR, 503), ({"drop": True}, Reason.CONNECT, 0),
    ({"body": b"x" * 100, "cut": 10}, Reason.TRUNCATED, 200)])
def test_a_lasting_failure_ends_after_the_attempts(fetcher: Callable[..., Fetcher], server: "ScriptedServer",
                                                   reply: dict[str, Any], reason: Reason, status: int) -> None:
    server.on("/a.jpg", **reply)
    assert fetcher().fetch(URL) == (reason, status, 3, None)
    assert server.requests["/a.jpg"] == 3


@pytest.mark.parametrize("raw", [b"4\r\nxxxx\r\n", b"4\r\nxx", b"zz\r\nxxxx\r\n0\r\n\r\n"])
def test_broken_chunks_are_truncated(fetcher: Callable[..., Fetcher], server: "ScriptedServer", raw: bytes) -> None:
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    assert fetcher(attempts=1).fetch(URL).reason is Reason.TRUNCATED


def test_a_chunked_image_comes_whole(fetcher: Callable[..., Fetcher], server: "ScriptedServer", jpeg: bytes) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (jpeg[:100], jpeg[100:])) + b"0\r\n\r\n"
    server.on("/a.jpg", raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert fetcher().fetch(URL).image == (jpeg, "jpg", 48, 40)


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nxxxxx",
                                 b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"])
def test_an_answer_that_is_no_http_is_a_failure(fetcher: Callable[..., Fetcher], server: "ScriptedServer",
                                                raw: bytes) -> None:
    server.on("/a.jpg", raw=raw)
    assert fetcher(attempts=1).fetch(URL).reason in (Reason.CONNECT, Reason.TRUNCATED)


@pytest.mark.parametrize(("body", "reason"), [
    (b"", Reason.NOT_IMAGE), (b"<!DOCTYPE html><html>Sign in</html>", Reason.NOT_IMAGE),
    (_encoded(Image.linear_gradient("L"), "BMP"), Reason.NOT_IMAGE),
    (_encoded(Image.linear_gradient("L"), "JPEG")[:700], Reason.CORRUPT),
    (_encoded(Image.linear_gradient("L"), "PNG")[:-40], Reason.CORRUPT),
    (_huge_png(50_000, 50_000), Reason.TOO_MANY_PIXELS), (_huge_png(9000, 9000), Reason.TOO_MANY_PIXELS),
    (_huge_png(100, 100), Reason.CORRUPT)],
    ids=["empty", "page", "bmp", "half jpeg", "cut png", "2500 megapixels", "81 megapixels", "no pixels"])
def test_what_is_no_whole_image_of_a_bearable_size_is_refused_at_once(
        fetcher: Callable[..., Fetcher], server: "ScriptedServer", body: bytes, reason: Reason) -> None:
    server.on("/a.jpg", body=body)
    assert fetcher().fetch(URL) == (reason, 200, 1, None)


def test_damaged_images_are_failures_and_nothing_else() -> None:
    rng = random.Random(0)  # noqa: S311 - it damages pictures
    reasons = set()
    for form in ("JPEG", "PNG", "GIF", "WEBP"):
        whole = _encoded(Image.linear_gradient("L").resize((24, 24)), form)
        for _ in range(300):
            body = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                body[int(len(body) * rng.random() ** 2)] = rng.randrange(256)
            try:
                check_image(bytes(body), 10_000)
            except Failure as failure:
                reasons.add(failure.reason)
    assert reasons == {Reason.NOT_IMAGE, Reason.CORRUPT, Reason.TOO_MANY_PIXELS}


def test_an_endless_body_is_cut_at_the_byte_limit(fetcher: Callable[..., Fetcher], server: "ScriptedServer") -> None:
    server.on("/a.jpg", endless=True)
    assert fetcher(max_bytes=300_000).fetch(URL) == (Reason.TOO_LARGE, 200, 1, None)
    server.wait_until(lambda: server.broken_off["/a.jpg"] == 1)


def test_a_body_of_exactly_the_byte_limit_is_taken(fetcher: Callable[..., Fetcher], server: "ScriptedServer",
                                                   jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg + bytes(2000))
    assert fetcher(max_bytes=len(jpeg) + 2000).fetch(URL).reason is Reason.OK
    assert fetcher(max_bytes=len(jpeg) + 1999).fetch(URL).reason is Reason.TOO_LARGE


def test_a_dripping_body_is_cut_at_the_deadline(fetcher: Callable[..., Fetcher], server: "ScriptedServer") -> None:
    # Every byte comes well within the socket timeout; dripped to its end, the body would be no image.
    server.on("/a.jpg", body=b"x" * 150, drip_seconds=0.02)
    assert fetcher(attempts=1, deadline_seconds=0.3, timeout_seconds=5.0).fetch(URL) == (Reason.TIMEOUT, 200, 1, None)


def test_silence_ends_with_the_socket_timeout(fetcher: Callable[..., Fetcher], server: "ScriptedServer") -> None:
    server.on("/a.jpg", hang=True)
    assert fetcher(attempts=2, timeout_seconds=0.2).fetch(URL) == (Reason.TIMEOUT, 0, 2, None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_to_the_image(fetcher: Callable[..., Fetcher], server: "ScriptedServer", jpeg: bytes,
                                             status: int) -> None:
    server.on("/a.jpg", status=status, headers={"Location": "b.jpg"})
    server.on("/b.jpg", status=status, headers={"Location": "http://other.example/c.jpg"})
    server.on("/c.jpg", body=jpeg)
    assert fetcher().fetch(URL).reason is Reason.OK
    assert server.log == [("images.example", "/a.jpg"), ("images.example", "/b.jpg"), ("other.example", "/c.jpg")]


def test_a_redirect_loop_is_left(fetcher: Callable[..., Fetcher], server: "ScriptedServer") -> None:
    server.on("/a.jpg", status=302, headers={"Location": "/b.jpg"})
    server.on("/b.jpg", status=302, headers={"Location": "/a.jpg"})
    outcome = fetcher().fetch(URL)
    assert (outcome.reason, outcome.attempts) == (Reason.REDIRECTS, 1)
    assert server.requests.total() == MAX_REDIRECTS + 1


def test_a_redirect_to_the_hosts_placeholder_is_not_followed(fetcher: Callable[..., Fetcher],
                                                             server: "ScriptedServer") -> None:
    server.on("/a.jpg", status=302, headers={"Location": "http://other.example/images/photo_unavailable.png"})
    assert fetcher().fetch(URL) == (Reason.PLACEHOLDER, 302, 1, None)
    assert server.requests == {"/a.jpg": 1}


@pytest.mark.parametrize(("tag", "reason"), [
    ("noai", Reason.OPT_OUT), ("all, NoImageAI", Reason.OPT_OUT), ("noindex", Reason.OPT_OUT),
    ("somebot: noimageindex", Reason.OPT_OUT), ("nofollow", Reason.OK), ("noaichange", Reason.OK)])
def test_an_opt_out_is_respected(fetcher: Callable[..., Fetcher], server: "ScriptedServer", jpeg: bytes, tag: str,
                                 reason: Reason) -> None:
    server.on("/a.jpg", headers={"X-Robots-Tag": tag}, body=jpeg)
    assert fetcher().fetch(URL)[:3] == (reason, 200, 1)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_pauses_its_host_and_no_other(fetcher: Callable[..., Fetcher], server: "ScriptedServer",
                                                  clock: Clock, jpeg: bytes, status: int) -> None:
    server.on("/a.jpg", status=status, headers={"Retry-After": "40"})
    server.on("/b.jpg", body=jpeg)
    one = fetcher(attempts=1)
    assert one.fetch(URL).http_status == status
    assert one.fetch("http://other.example/b.jpg").reason is Reason.OK
    assert clock.now == 0
    assert one.fetch("http://images.example/b.jpg").reason is Reason.OK
    assert clock.now == 40


def test_an_absurd_pause_is_capped_and_a_shorter_one_does_not_end_it(
        fetcher: Callable[..., Fetcher], server: "ScriptedServer", clock: Clock, jpeg: bytes) -> None:
    for pause in ("999999999999", "1"):
        server.on("/a.jpg", status=503, headers={"Retry-After": pause})
    server.on("/a.jpg", body=jpeg)
    assert fetcher().fetch(URL).attempts == 3
    assert MAX_PAUSE_SECONDS <= clock.now <= MAX_PAUSE_SECONDS + 1


@pytest.mark.parametrize(("value", "seconds"), [
    (None, 0), ("", 0), ("soon", 0), ("-5", 0), ("12", 12), (" 12 ", 12), ("Thu, 01 Jan 1970 00:00:30 GMT", 30),
    ("Wed, 31 Dec 1969 00:00:00 GMT", 0), ("Thu, 99 Jan 1970 00:00:30 GMT", 0)])
def test_retry_after_is_read_as_seconds_or_a_date(clock: Clock, value: str | None, seconds: float) -> None:
    assert retry_after_seconds(value) == seconds


def test_a_host_gets_as_many_requests_at_once_as_allowed_and_no_more(
        fetcher: Callable[..., Fetcher], server: "ScriptedServer", jpeg: bytes) -> None:
    # An answer comes only when four requests have met: fewer at a time would never end.
    meet = threading.Barrier(4)
    for number in range(40):
        server.on(f"/{number}.jpg", body=jpeg, meet=meet)
    one = fetcher(connections_per_host=4, attempts=1)
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(one.fetch, [f"http://images.example/{number}.jpg" for number in range(40)]))
    assert {outcome.reason for outcome in outcomes} == {Reason.OK}
    assert server.most_requests["images.example"] == 4


def test_a_redirect_to_nowhere_is_left(fetcher: Callable[..., Fetcher], server: "ScriptedServer") -> None:
    server.on("/a.jpg", status=302)
    assert fetcher().fetch(URL).reason is Reason.REDIRECTS


def test_the_deadline_is_that_of_the_url_with_all_its_tries(fetcher: Callable[..., Fetcher],
                                                            server: "ScriptedServer") -> None:
    server.on("/a.jpg", body=b"x" * 150, drip_seconds=0.02)
    assert fetcher(attempts=3, deadline_seconds=0.3).fetch(URL) == (Reason.TIMEOUT, 200, 1, None)
