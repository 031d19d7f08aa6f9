"""download records every list line, gives the same bytes after a kill, and explains its errors."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, VAL, Lists, rows_of, serve, serve_and_hold, started

from mlimages.acquire.formats import LISTS
from mlimages.core.errors import UserError
from mlimages.core.params import Download, Machine, Mirror, Params
from mlimages.core.publish import MANIFEST, verify
from mlimages.download.ledger import LedgerRow, Reason
from mlimages.download.run import download
from mlimages.download.shards import read_shard


def test_every_line_has_one_row_with_the_right_reason(quick: Download, here: Machine, server: ScriptedServer,
                                                      lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    fates: dict[str, tuple[Reason, dict[str, Any] | None]] = {
        f"{HOST}/ok.jpg": (Reason.OK, {"body": jpeg}),
        f"{HOST}/gone.jpg": (Reason.GONE, {"status": 404}),
        f"{HOST}/broken.jpg": (Reason.HTTP_ERROR, {"status": 500}),
        f"{HOST}/short.jpg": (Reason.TRUNCATED, {"body": jpeg, "cut": 50}),
        f"{HOST}/page.jpg": (Reason.NOT_IMAGE, {"body": b"<!DOCTYPE html>"}),
        f"{HOST}/photo.jpg": (Reason.PLACEHOLDER, {"status": 302, "headers": {"Location": "/photo_unavailable.png"}}),
        f"{HOST}/half.jpg": (Reason.CORRUPT, {"body": jpeg[: len(jpeg) // 2]}),
        f"{HOST}/many.jpg": (Reason.TOO_MANY_PIXELS, {"body": jpeg.replace(b"\x00\x28\x00\x30", b"\xff\xdc\xff\xdc")}),
        f"{HOST}/endless.jpg": (Reason.TOO_LARGE, {"endless": True}),
        f"{HOST}/silent.jpg": (Reason.TIMEOUT, {"hang": True}),
        f"{HOST}/round.jpg": (Reason.REDIRECTS, {"status": 302, "headers": {"Location": "/round.jpg"}}),
        f"{HOST}/inside.jpg": (Reason.FORBIDDEN_ADDRESS, {"status": 302, "headers": {"Location": "http://127.0.0.1/"}}),
        f"{HOST}/private.jpg": (Reason.OPT_OUT, {"body": jpeg, "headers": {"X-Robots-Tag": "noai"}}),
        f"{HOST}/nonsense.jpg": (Reason.BAD_ANSWER, {"raw": b"SSH-2.0-OpenSSH_9.6\r\n"}),
        f"{HOST}/known.jpg": (Reason.PLACEHOLDER, {"body": jpeg + b"known"}),
        "https://images.example/plain.jpg": (Reason.TLS, None),
        "http://dead.example/a.jpg": (Reason.CONNECT, None),
        "http://nowhere.invalid/a.jpg": (Reason.DNS, None),
        "http://images.example:22/a.jpg": (Reason.BAD_URL, None),
    }
    elsewhere = {Reason.CRASHED, Reason.CHANGED, Reason.NO_FILE, Reason.TOO_FEW_BYTES, Reason.TOO_SMALL,
                 Reason.ASPECT_RATIO}  # which have their own tests
    assert {reason for reason, _ in fates.values()} == set(Reason) - elsewhere
    for url, (_, reply) in fates.items():
        if reply is not None:
            server.on(url.removeprefix(HOST), **reply)
    params = dataclasses.replace(quick, attempts=1, timeout_seconds=0.5, max_bytes=500_000,
                                 placeholders=[hashlib.sha256(jpeg + b"known").hexdigest()])
    out = download(params, here, lists=lists_of(list(fates), [f"{HOST}/ok.jpg"]), out=tmp_path / "images")
    rows = rows_of(out, "train")
    assert [row.line for row in rows] == list(range(1, len(fates) + 1))
    assert [(row.url, row.reason) for row in rows] == [(url, reason) for url, (reason, _) in fates.items()]
    assert rows[0] == LedgerRow(1, f"{HOST}/ok.jpg", "train-00000001", Reason.OK, 200, len(jpeg),
                          hashlib.sha256(jpeg).hexdigest(), 48, 40)
    assert all((row.bytes, row.sha256, row.width, row.height) == (0, "", 0, 0) for row in rows[1:])
    assert [row.reason for row in rows_of(out, "val")] == [Reason.OK]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["lines"], summary["images"], summary["bytes"]) == (len(fates) + 1, 2, 2 * len(jpeg))
    assert summary["share_ok"] == round(2 / (len(fates) + 1), 4)
    assert summary["certificates_verified"] is True


def test_shards_hold_the_original_images_with_url_and_labels(quick: Download, here: Machine, jpeg: bytes,
                                                             server: ScriptedServer, lists_of: Lists,
                                                             tmp_path: Path) -> None:
    urls = [f"{HOST}/{number}.jpg" for number in range(12)]
    serve(server, urls[:3] + urls[4:] + VAL, jpeg)
    out = download(quick, here, lists=lists_of(urls, VAL), out=tmp_path / "images")
    manifest = verify(out, "download")
    records = [manifest["files"][f"train/0000{index}.{end}"]["records"]
               for index in range(3) for end in ("tar", "ledger.csv")]
    assert records == [4, 5, 5, 5, 2, 2]
    members = [member for path in sorted((out / "train").glob("*.tar")) for member in read_shard(path)]
    kept = [row for row in rows_of(out, "train") if row.reason is Reason.OK]
    assert [member.key for member in members] == [row.key for row in kept]
    assert [hashlib.sha256(member.body).hexdigest() for member in members] == [row.sha256 for row in kept]
    assert [member.url for member in members] == urls[:3] + urls[4:]
    assert {member.labels for member in members} == {((1, 2), (0.8, 0.9))}


def test_the_numbers_of_threads_and_processes_change_no_byte(tiny_params: Params, tiny_lists: Path, machine: Machine,
                                                             tmp_path: Path) -> None:
    manifests = []
    for workers, threads in ((1, 1), (3, 16)):
        one = dataclasses.replace(machine, workers=workers, threads=threads, scratch=str(tmp_path / str(workers)))
        out = download(tiny_params.download, one, lists=tiny_lists, out=tmp_path / f"images{workers}")
        verify(out, "download")
        manifests.append((out / MANIFEST).read_bytes())
    assert manifests[0] == manifests[1]


def test_a_killed_download_resumes_to_the_same_bytes_and_fetches_no_finished_shard_again(
        quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    urls = [f"{HOST}/{number}.jpg" for number in range(25)]
    released = serve_and_hold(server, urls, jpeg, at_once=12)  # the third shard never ends before the kill
    lists, out = lists_of(urls, VAL), tmp_path / "images"
    with started(quick, here, lists, out):
        server.wait_until(lambda: all(server.requests[f"/{number}.jpg"] for number in range(13)))
        while len(list((tmp_path / "scratch" / "download").glob("*/out/train/*.ledger.csv"))) < 2:
            server.closing.wait(0.02)
    assert not out.exists()
    released.set()
    download(quick, here, lists=lists, out=out)
    assert [server.requests[f"/{number}.jpg"] for number in range(10)] == [1] * 10
    straight = dataclasses.replace(here, scratch=str(tmp_path / "other"))
    uninterrupted = download(quick, straight, lists=lists, out=tmp_path / "uninterrupted")
    verify(out, "download")
    assert (out / MANIFEST).read_bytes() == (uninterrupted / MANIFEST).read_bytes()
    assert list((tmp_path / "scratch").rglob("*.partial")) == []


def test_a_second_process_is_refused_and_names_the_first(quick: Download, here: Machine, server: ScriptedServer,
                                                         lists_of: Lists, tmp_path: Path) -> None:
    server.on("/0.jpg", hang=True)
    lists = lists_of([f"{HOST}/0.jpg"], VAL)
    with started(quick, here, lists, tmp_path / "images") as first:
        server.wait_until(lambda: server.requests["/0.jpg"] > 0)
        for out in ("images", "elsewhere"):
            with pytest.raises(UserError, match=f"is being made by process {first.pid};"):
                download(quick, here, lists=lists, out=tmp_path / out)
    assert not (tmp_path / "images").exists()


def test_a_finished_download_sends_no_request(quick: Download, here: Machine, server: ScriptedServer, lists_of: Lists,
                                              jpeg: bytes, tmp_path: Path) -> None:
    urls = [f"{HOST}/{number}.jpg" for number in range(7)]
    serve(server, urls + VAL, jpeg)
    lists = lists_of(urls, VAL)
    first = verify(download(quick, here, lists=lists, out=tmp_path / "images"), "download")
    asked = server.requests.copy()
    assert verify(download(quick, here, lists=lists, out=tmp_path / "images"), "download") == first
    assert server.requests == asked
    changed: dict[str, Any] = {
        "attempts": 3, "connections_per_host": 2, "contact": "ada@university.example", "deadline_seconds": 9.0,
        "max_bytes": 2**20, "max_pixels": 10**6, "min_bytes_per_second": 1.0, "outage_seconds": 9.0,
        "headers": {"Referer": "http://university.example"}, "min_bytes": 100, "min_side": 40, "max_aspect_ratio": 1.2,
        "placeholders": ["0" * 64], "rate_per_host": 20.0, "timeout_seconds": 2.0,
        "mirrors": [Mirror("http://other.example/{path}")]}
    assert verify(download(dataclasses.replace(quick, **changed), here, lists=lists, out=tmp_path / "images"),
                  "download") == first
    assert server.requests == asked, "a change of how to ask fetched again"


def test_the_summary_records_that_certificates_were_not_verified(quick: Download, here: Machine,
                                                                 server: ScriptedServer, lists_of: Lists,
                                                                 jpeg: bytes, tmp_path: Path) -> None:
    server.on("/0.jpg", status=404)
    serve(server, [f"{HOST}/0.jpg", *VAL], jpeg)
    lists, out = lists_of([f"{HOST}/0.jpg"], VAL), tmp_path / "images"
    download(dataclasses.replace(quick, verify=False), here, lists=lists, out=out)
    assert json.loads((out / "summary.json").read_text())["certificates_verified"] is False
    download(dataclasses.replace(quick, verify=False, retry=["gone"]), here, lists=lists, out=out)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["certificates_verified"]) == (2, False)


@pytest.mark.parametrize("changed", [{"shorter_side": 16}, {"ports": [80]}, {"respect_opt_out": False}])
def test_a_parameter_that_changes_the_images_fetches_them_again(quick: Download, here: Machine, server: ScriptedServer,
                                                                lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                                changed: dict[str, Any]) -> None:
    urls = [f"{HOST}/{number}.jpg" for number in range(7)]
    serve(server, urls + VAL, jpeg)
    lists = lists_of(urls, VAL)
    for params in (quick, dataclasses.replace(quick, **changed)):
        download(params, here, lists=lists, out=tmp_path / "images")
    assert {*server.requests.values()} == {2}


@pytest.mark.parametrize("wanted", [True, False])
def test_the_proxy_of_the_environment_is_used_only_if_configured(quick: Download, here: Machine, server: ScriptedServer,
                                                                 lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    urls = [f"{HOST}/0.jpg", *VAL]
    for url in urls:
        server.on(url if wanted else url.removeprefix(HOST), body=jpeg)  # a proxy gets the complete URL
    one = dataclasses.replace(here, proxies_from_environment=wanted)
    out = download(quick, one, lists=lists_of(urls[:1], VAL), out=tmp_path / "images")
    assert {row.reason for part in ("train", "val") for row in rows_of(out, part)} == {Reason.OK}


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_damaged_lists_are_an_error_with_the_file_and_the_command(quick: Download, here: Machine, lists_of: Lists,
                                                                  server: ScriptedServer, tmp_path: Path,
                                                                  damage: str) -> None:
    lists = lists_of([f"{HOST}/0.jpg"], VAL)
    path = lists / LISTS[1].name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "cut" else content.replace(b"0.jpg", b"1.jpg"))
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*run `dvc repro --single-item --force acquire`"):
        download(quick, here, lists=lists, out=tmp_path / "images")
    assert server.log == []
    assert not (tmp_path / "images").exists()


def test_missing_lists_are_an_error_with_the_command(quick: Download, here: Machine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing/manifest\.json is missing: .*run `dvc repro acquire`"):
        download(quick, here, lists=tmp_path / "nothing", out=tmp_path / "images")


def test_a_damaged_shard_is_fetched_again_once_its_scratch_folder_is_removed(quick: Download, here: Machine,
                                                                             server: ScriptedServer, lists_of: Lists,
                                                                             jpeg: bytes, tmp_path: Path) -> None:
    serve(server, [f"{HOST}/0.jpg", *VAL], jpeg)
    lists = lists_of([f"{HOST}/0.jpg"], VAL)
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    before = (out / MANIFEST).read_bytes()
    with (out / "train" / "00000.tar").open("r+b") as file:
        file.seek(700)
        file.write(b"damage")
    with pytest.raises(UserError, match="00000.tar.*remove scratch/download.*dvc repro --single-item --force download"):
        verify(out, "download")
    shutil.rmtree(Path(here.scratch) / "download")
    download(quick, here, lists=lists, out=out)
    assert (out / MANIFEST).read_bytes() == before


def test_the_log_has_the_lines_of_the_released_program(quick: Download, here: Machine, server: ScriptedServer,
                                                       lists_of: Lists, jpeg: bytes, tmp_path: Path) -> None:
    urls = [f"{HOST}/{number}.jpg" for number in range(3)]
    serve(server, [*urls[:2], *VAL], jpeg)
    logged = dataclasses.replace(here, download_log=str(tmp_path / "log"))
    download(quick, logged, lists=lists_of(urls, VAL), out=tmp_path / "images")
    lines = (tmp_path / "log").read_text().splitlines()
    said = [re.fullmatch(r"url = (.*) is finished and (\d) imgs have been downloaded of all 4 imgs", line)
            for line in lines]
    assert {match[1] for match in said if match} == {*urls[:2], *VAL}
    assert [match[2] for match in said if match] == ["1", "2", "3"]


def test_the_progress_bar_shows_rates_and_reasons(quick: Download, here: Machine, server: ScriptedServer,
                                                  lists_of: Lists, jpeg: bytes, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    urls = [f"{HOST}/{number}.jpg" for number in range(30)]
    serve(server, [*urls[:25], *VAL], jpeg)
    lists = lists_of(urls, VAL)
    capsys.readouterr()
    download(quick, dataclasses.replace(here, progress_seconds=60.0), lists=lists, out=tmp_path / "images")
    said = capsys.readouterr().out
    assert "31/31" in said and "ok 26, gone 5" in said and "images/s" in said and "MB/s" in said
    assert len(re.split("[\r\n]", said)) < 6, "it is not quiet"
