"""Responses that HTTP allows are accepted; others are bad answers."""

import gzip
import tracemalloc
import zlib
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import MakeFetcher

from mlimages.download.ledger import Reason

URL = "http://images.example/a.jpg"


@pytest.mark.parametrize(("raw", "status"), [
    (b"nonsense\r\n\r\n", 0), (b"HTTP/1.1 2x0 OK\r\n\r\n", 0), (b"HTTP/9.9 200 OK\r\n\r\n", 0),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nxxxxx", 200),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", 200),
    (b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 90_000 + b"\r\n") * 4 + b"\r\n", 200),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 200)])
def test_an_invalid_http_response_is_a_bad_answer(fetcher: MakeFetcher, server: ScriptedServer, raw: bytes,
                                                  status: int) -> None:
    server.on("/a.jpg", raw=raw)
    assert fetcher(attempts=2).fetch(URL) == (Reason.BAD_ANSWER, status, 2, None)


def test_the_final_response_after_a_1xx_response_counts(fetcher: MakeFetcher, server: ScriptedServer,
                                                        jpeg: bytes) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\nX-Robots-Tag: none\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    server.on("/a.jpg", raw=hints + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(jpeg), jpeg))
    server.on("/b.jpg", raw=hints + b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    server.on("/c.jpg", raw=hints)
    server.on("/d.jpg", raw=b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    found = fetcher(attempts=1).fetch_all([URL, *(f"http://images.example/{name}.jpg" for name in "bcd")])
    assert [one[:2] for one in found] == [(Reason.OK, 200), (Reason.GONE, 404), (Reason.CONNECT, 0),
                                          (Reason.CONNECT, 0)]


@pytest.mark.parametrize("status", [201, 202, 203, 206, 226])
def test_any_2xx_with_a_complete_image_counts(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                              status: int) -> None:
    server.on("/a.jpg", status=status, body=jpeg)
    server.on("/half.jpg", status=status, body=jpeg[:300])
    server.on("/no.jpg", status=status, headers={"X-Robots-Tag": "none"}, body=jpeg)
    found = fetcher().fetch_all([URL, "http://images.example/half.jpg", "http://images.example/no.jpg"])
    assert [one[:2] for one in found] == [(Reason.OK, status), (Reason.CORRUPT, status), (Reason.OPT_OUT, status)]


@pytest.mark.parametrize(("status", "reason"), [(204, Reason.NOT_IMAGE), (205, Reason.NOT_IMAGE),
                                                (300, Reason.REDIRECTS), (304, Reason.REDIRECTS)])
def test_a_status_without_a_body_is_no_image(fetcher: MakeFetcher, server: ScriptedServer, status: int,
                                             reason: Reason) -> None:
    server.on("/a.jpg", status=status)
    assert fetcher().fetch(URL) == (reason, status, 1, None)


def test_many_headers_are_accepted(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes) -> None:
    server.on("/a.jpg", body=jpeg, headers={f"X-{number}": "y" * 300 for number in range(200)})
    assert fetcher().fetch(URL).reason is Reason.OK


@pytest.mark.parametrize("body", [{"cut": 10}, {"cut": 10, "reset": True}])
def test_the_status_counts_if_the_body_of_an_error_breaks(fetcher: MakeFetcher, server: ScriptedServer, body: dict[str,
                                                          Any]) -> None:
    server.on("/a.jpg", status=404, body=b"x" * 100, **body)
    assert fetcher().fetch(URL) == (Reason.GONE, 404, 1, None)


def two_members(body: bytes) -> bytes:
    return gzip.compress(body[:300]) + gzip.compress(body[300:])


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(("encoding", "encode"), [
    ("gzip", gzip.compress), ("deflate", zlib.compress), ("gzip", two_members), ("X-Gzip", two_members),
    ("deflate", raw_deflate), ("deflate", gzip.compress), ("gzip", zlib.compress),
    ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body)))])
def test_a_compressed_image_is_decoded_completely_or_rejected(fetcher: MakeFetcher, server: ScriptedServer, jpeg: bytes,
                                                              encoding: str, encode: Any) -> None:
    packed = encode(jpeg)
    for path, body in (("/a.jpg", packed), ("/cut.jpg", packed[:-20]), ("/bomb.jpg", encode(bytes(50_000_000))),
                       ("/not.jpg", b"x" * 99)):
        server.on(path, body=body, headers={"Content-Encoding": encoding})
    paths = ("/a.jpg", "/cut.jpg", "/bomb.jpg", "/not.jpg")
    tracemalloc.start()
    outcomes = fetcher(attempts=1, max_bytes=1_000_000).fetch_all([f"http://images.example{path}" for path in paths])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert [one.reason for one in outcomes] == [Reason.OK, Reason.TRUNCATED, Reason.TOO_LARGE, Reason.TRUNCATED]
    assert outcomes[0].image == (jpeg, "jpg", 48, 40)
