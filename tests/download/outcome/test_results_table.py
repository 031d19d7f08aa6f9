"""The Parquet file has the row of every list line, with its labels."""

import dataclasses
from pathlib import Path

import duckdb
import pytest
from tests.conftest import ScriptedServer
from tests.download.conftest import HOST, VAL, Lists, rows_of, serve

from mlimages.acquire.formats import PARTS, Part, list_file, read_list
from mlimages.core.errors import UserError
from mlimages.core.params import Download, Machine
from mlimages.core.publish import read_manifest
from mlimages.download.run import download

pytestmark = pytest.mark.usefixtures("in_threads")
# What a CSV file quotes, and an escape that Parquet must not read.
COLUMNS = ["url", "key", "shard", "status", "reason", "width", "height", "sha256", "labels"]
ODD = [f'{HOST}/"a",b.jpg', f"{HOST}/c,d'e.jpg", f"{HOST}/\u00e9\\n.jpg", f"{HOST}/gone.jpg"]


@pytest.fixture
def lists(lists_of: Lists, server: ScriptedServer, jpeg: bytes) -> Path:
    serve(server, [f"{HOST}/{number}.jpg" for number in range(9)] + VAL, jpeg)
    server.on("/%22a%22,b.jpg", body=jpeg)
    return lists_of([f"{HOST}/{number}.jpg" for number in range(9)] + ODD, VAL)


def expected(lists: Path, out: Path, part: Part, lines_per_shard: int) -> list[tuple[object, ...]]:
    entries = read_list(lists / list_file(part, "openimages"), "openimages", 5)
    return [(entry.source, row.key, f"{part}/{(row.line - 1) // lines_per_shard:05d}.tar", row.http_status or None,
             row.reason.value, row.width or None, row.height or None, row.sha256 or None,
             [{"class": index, "confidence": confidence} for index, confidence in zip(*entry.labels, strict=True)])
            for entry, row in zip(entries, rows_of(out, part), strict=True)]


def test_it_has_the_ledgers_rows_and_the_labels_in_list_order(quick: Download, here: Machine, lists: Path,
                                                              tmp_path: Path) -> None:
    out = download(quick, here, lists=lists, out=tmp_path / "images")
    with duckdb.connect() as database:
        found = database.execute("FROM read_parquet($1)", [f"{out}/results.parquet"])
        rows, names = found.fetchall(), [column[0] for column in found.description or []]
    assert names == COLUMNS
    assert rows == [row for part in PARTS for row in expected(lists, out, part, 5)]
    assert {row[4] for row in rows} == {"ok", "gone"} and rows[-1][0] == VAL[0]
    assert read_manifest(out, "download")["files"]["results.parquet"]["records"] == len(rows) == 14


def test_it_is_made_again_if_a_ledger_changes_or_the_file_is_missing(
        quick: Download, here: Machine, lists: Path, server: ScriptedServer, jpeg: bytes, tmp_path: Path) -> None:
    out = tmp_path / "images"
    made = [read_manifest(download(quick, here, lists=lists, out=out), "download")["files"]["results.parquet"]]
    [stored] = tmp_path.glob("scratch/download/*/out/results.parquet")
    stored.unlink()
    made.append(read_manifest(download(quick, here, lists=lists, out=out), "download")["files"]["results.parquet"])
    assert made[0] == made[1]
    server.on("/gone.jpg", body=jpeg)
    download(dataclasses.replace(quick, retry=["gone"]), here, lists=lists, out=out)
    with duckdb.connect() as database:
        reasons = database.execute("SELECT reason FROM read_parquet($1) WHERE url = $2",
                                   [f"{out}/results.parquet", f"{HOST}/gone.jpg"]).fetchall()
    assert reasons == [("ok",)]


def test_it_is_not_made_again_of_the_same_ledgers(quick: Download, here: Machine, lists: Path,
                                                  tmp_path: Path) -> None:
    states = [download(quick, here, lists=lists, out=tmp_path / "images").joinpath("results.parquet").stat()
              for _ in range(2)]
    assert states[0].st_ino == states[1].st_ino


def test_a_damaged_ledger_is_named_with_the_command_that_mends_it(quick: Download, here: Machine, lists: Path,
                                                                  tmp_path: Path) -> None:
    download(quick, here, lists=lists, out=tmp_path / "images")
    [stored] = tmp_path.glob("scratch/download/*/out/results.parquet")
    stored.unlink()
    ledger = stored.with_name("train") / "00001.ledger.csv"
    ledger.write_bytes(ledger.read_bytes().replace(b",200,", b",2x0,"))
    with pytest.raises(UserError, match=r"ledgers in .* are damaged .*dvc repro"):
        download(quick, here, lists=lists, out=tmp_path / "images")
