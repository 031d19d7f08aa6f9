"""The detail in the ledger: a short, reproducible text that adds to the reason."""

import csv
import dataclasses
import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, VAL, Lists, MakeFetcher, rows_of, serve
from tests.images.crafted import encoded

from mlimages.core.errors import DETAIL_CHARACTERS, one_line
from mlimages.core.params import Download, Machine
from mlimages.download.ledger import LedgerRow, Reason, read_ledger, write_ledger
from mlimages.download.run import download
from mlimages.download.shards import ledger_path
from mlimages.download.spool import Journal, LineResult, StoredImage

PICTURE = Image.effect_noise((64, 48), 60)
JPEG = encoded(PICTURE, "JPEG")


@pytest.mark.parametrize(("reply", "reason", "detail"), [
    ({"body": JPEG}, Reason.OK, ""),
    ({"status": 403}, Reason.GONE, "status 403"),
    ({"status": 500}, Reason.HTTP_ERROR, "status 500"),
    ({"status": 304}, Reason.REDIRECTS, "status 304"),
    ({"status": 302, "headers": {"Location": "/a.jpg"}}, Reason.REDIRECTS, "status 302"),
    ({"status": 302}, Reason.REDIRECTS, "status 302 without a target"),
    ({"status": 302, "headers": {"Location": "/photo_unavailable.png"}}, Reason.PLACEHOLDER,
     "redirected to photo_unavailable"),
    ({"headers": {"X-Robots-Tag": "noai, \x01caf\xe9 \t" + 200 * "x"}}, Reason.OPT_OUT,
     ("X-Robots-Tag: noai, caf " + 200 * "x")[:DETAIL_CHARACTERS - 3] + "..."),
    ({"body": encoded(PICTURE, "AVIF")}, Reason.NOT_IMAGE, "AVIF, expected JPEG, PNG, GIF or WebP"),
    ({"body": b"<!DOCTYPE html><html>"}, Reason.NOT_IMAGE, "HTML, expected JPEG, PNG, GIF or WebP"),
    ({"body": JPEG[:-2]}, Reason.CORRUPT, "it has no end marker: the file was cut off"),
    ({"body": JPEG[:-200]}, Reason.CORRUPT, "Pillow: image file is truncated (24 bytes not processed)"),
    ({"body": encoded(Image.new("1", (1001, 1000)), "PNG")}, Reason.TOO_MANY_PIXELS, "1001 x 1000 pixels"),
    ({"body": bytes(200_001)}, Reason.TOO_LARGE, "as sent"),
    ({"body": gzip.compress(bytes(200_001)), "headers": {"Content-Encoding": "gzip"}}, Reason.TOO_LARGE, "as decoded"),
    ({"body": gzip.compress(JPEG)[:-9], "headers": {"Content-Encoding": "gzip"}}, Reason.TRUNCATED,
     "its gzip or deflate is cut"),
    ({"body": b"\x1f\x8bxxxx", "headers": {"Content-Encoding": "gzip"}}, Reason.TRUNCATED,
     "its gzip or deflate is damaged"),
    ({"body": JPEG, "cut": 10}, Reason.TRUNCATED, "the answer ended too early"),
    ({"raw": b"HTTP/1.1 200 OK\r\nX: y"}, Reason.TRUNCATED, "its headers ended too early"),
    ({"raw": b"SSH-2.0-x\r\n"}, Reason.BAD_ANSWER, "no status line"),
    *(({"raw": b"HTTP/1.1 200 OK\r\n" + (b"X: " + size * b"y" + b"\r\n") * number + b"\r\n"}, Reason.BAD_ANSWER,
       "too many or too long headers") for size, number in ((1, 60_000), (1000, 270))),
    ({"drop": True}, Reason.CONNECT, "")], ids=lambda value: value if isinstance(value, str) else "")
def test_the_detail_names_what_was_found(fetcher: MakeFetcher, server: ScriptedServer, reply: dict[str, Any],
                                         reason: Reason, detail: str) -> None:
    server.on("/a.jpg", **reply)
    one = fetcher(attempts=1, max_bytes=200_000, max_pixels=1_000_000)
    assert one.fetch(f"{HOST}/a.jpg").reason is reason
    assert one.entries[0].detail == detail


@pytest.mark.parametrize(("changes", "reply", "detail"), [
    ({"timeout_seconds": 0.2}, {"hang": True}, ""),
    ({"timeout_seconds": 0.2}, {"body": b"xx", "drip_seconds": 60.0},
     "no byte for download.timeout_seconds"),
    ({"deadline_seconds": 0.3}, {"body": 150 * b"x", "drip_seconds": 0.02}, "download.deadline_seconds"),
    ({"min_bytes_per_second": 1000.0}, {"body": 150 * b"x", "drip_seconds": 0.02},
     "below download.min_bytes_per_second")])
def test_the_detail_names_the_time_limit(fetcher: MakeFetcher, server: ScriptedServer, changes: dict[str, float],
                                         reply: dict[str, Any], detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlimages.download.http.transport.GRACE_SECONDS", 0.2)
    server.on("/a.jpg", **reply)
    one = fetcher(**{"attempts": 1, "timeout_seconds": 5.0, "min_bytes_per_second": 0.0, **changes})
    assert one.fetch(f"{HOST}/a.jpg").reason is Reason.TIMEOUT
    assert one.entries[0].detail == detail


@pytest.mark.parametrize(("url", "detail"), [
    ("ftp://images.example/a.jpg", "the scheme ftp"), ("http:///a.jpg", "no host"),
    ("http://images.example:81/a.jpg", "the port 81"), ("http://images.example:x/a.jpg", "no valid URL"),
    ("http://ada:secret@images.example/a.jpg", "a user or a password"), ("http://[/a.jpg", "no valid URL"),
    (f"{HOST}/{4096 * 'x'}", "more than 4096 characters"),
    ("http://a%2Fb.example/a.jpg", "a host name with characters that no name has")])
def test_the_detail_names_the_error_of_a_url(fetcher: MakeFetcher, url: str, detail: str) -> None:
    one = fetcher()
    assert one.fetch(url).reason is Reason.BAD_URL
    assert one.entries[0].detail == detail


def test_a_placeholder_is_named_by_its_hash(fetcher: MakeFetcher, server: ScriptedServer) -> None:
    server.on("/a.jpg", body=JPEG)
    digest = hashlib.sha256(JPEG).hexdigest()
    one = fetcher(placeholders=[digest])
    one.fetch(f"{HOST}/a.jpg")
    assert one.entries[0].detail == f"sha256 {digest}"


@pytest.mark.parametrize(("text", "line"), [
    ("cannot identify <_io.BytesIO object at 0x7f3a5c0>", "cannot identify <_io.BytesIO object>"),
    ("a\r\nb\0c\x85d\u2028e\x1b[31m", "a b c d e [31m"), ("  ", ""), (DETAIL_CHARACTERS * "x", DETAIL_CHARACTERS * "x"),
    ((DETAIL_CHARACTERS + 1) * "x", (DETAIL_CHARACTERS - 3) * "x" + "...")])
def test_foreign_text_becomes_one_short_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_a_detail_passes_through_journal_and_ledger_unchanged(quick: Download, here: Machine, server: ScriptedServer,
                                                              lists_of: Lists, tmp_path: Path) -> None:
    serve(server, VAL, JPEG)
    server.on("/0.jpg", body=JPEG, headers={"X-Robots-Tag": 'noai, "a;b",\tc'})
    out = download(quick, here, lists=lists_of([f"{HOST}/0.jpg"], VAL), out=tmp_path / "images")
    [row] = rows_of(out, "train")
    assert (row.reason, row.detail) == (Reason.OPT_OUT, 'X-Robots-Tag: noai, "a;b", c')
    with (out / "train" / "00000.ledger.csv").open(newline="") as file:
        header, line = csv.reader(file)
    assert (header, line[-1]) == (list(LedgerRow._fields), row.detail)


def test_ledgers_without_details_are_not_fetched_again(quick: Download, here: Machine, server: ScriptedServer,
                                                       lists_of: Lists, tmp_path: Path) -> None:
    """Old ledgers are read as they are, and get the column when their shard is built again."""
    urls = [f"{HOST}/{number}.jpg" for number in range(3)]
    serve(server, [urls[0], *VAL], JPEG)
    lists = lists_of(urls, VAL)
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    ledger = ledger_path(next(tmp_path.glob("scratch/download/*/out/train/00000.tar")))
    _without_detail(ledger)
    requests = dict(server.requests)
    download(quick, here, lists=lists, out=tmp_path / "images")
    assert server.requests == requests
    server.on("/1.jpg", status=410)
    download(dataclasses.replace(quick, retry=["gone"]), here, lists=lists, out=tmp_path / "images")
    assert server.requests[urls[0].removeprefix(HOST)] == requests[urls[0].removeprefix(HOST)]
    assert [(row.reason, row.detail) for row in rows_of(out, "train")] == [
        (Reason.OK, ""), (Reason.GONE, "status 410"), (Reason.GONE, "status 404")]


def test_journals_and_ledgers_without_details_are_read(tmp_path: Path) -> None:
    entry = LineResult(7, Reason.OK, 200, 0, StoredImage("train-00000.f00.spool", 0, 43, "abc", 1, 1, "gif"))
    journal = Journal(tmp_path, "train-00000")
    journal.add([entry])
    journal.path.write_text(re.sub(r'(, "")+\]$', "]", journal.path.read_text().strip()) + "\n")
    assert list(journal.path.read_text().strip())[-2:] == ["]", "]"]
    assert list(journal.read()) == [entry]
    row = LedgerRow(1, f"{HOST}/a.jpg", "train-00000001", Reason.GONE, 404, detail="status 404")
    write_ledger(tmp_path / "00000.ledger.csv", [row])
    _without_detail(tmp_path / "00000.ledger.csv")
    assert list(read_ledger(tmp_path / "00000.ledger.csv")) == [row._replace(detail="")]


def _without_detail(ledger: Path) -> None:
    """Remove the column `detail` from a ledger."""
    with ledger.open(newline="") as file:
        rows = [row[:-1] for row in csv.reader(file)]
    with ledger.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
