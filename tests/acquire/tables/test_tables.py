"""Tables of any columns become lists: CSV, TSV, JSON lines and Parquet, compressed or not."""

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mlimages.acquire.formats import DICTIONARY, LISTS, REJECTED, STATISTICS
from mlimages.acquire.hierarchy import read_tree
from mlimages.acquire.run import acquire
from mlimages.acquire.tables import database
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import MANIFEST, verify

TRAIN, VAL = LISTS[1].name, LISTS[3].name
NUMBERS = range(8)


def _url(number: int) -> str:
    return f"http://images.example/{number}.jpg"


def _write(path: Path, header: str, *rows: str) -> None:
    text = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def _both(lists: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The labels by address, of both parts."""
    return {**lists["train"], **lists["val"]}


EXPECTED = {_url(number): {"cat": 1.0, "big dog": 0.5} if number % 2 else {"cat": 1.0} for number in NUMBERS}


@pytest.fixture
def same_table(tables: Path) -> list[str]:
    """The same table in several formats. Returns the files' names."""
    labels = ["cat;big dog:0.5" if number % 2 else "cat" for number in NUMBERS]
    rows = [f"{_url(number)},{label}" for number, label in zip(NUMBERS, labels, strict=True)]
    _write(tables / "a.csv", "URL,tags", *rows)
    _write(tables / "a.csv.gz", "url,labels", *rows)
    _write(tables / "a.tsv", "image_url\tlabel", *(row.replace(",", "\t") for row in rows))
    parts = [label.split(";") for label in labels]
    records = [{"url": _url(number), "tags": part} for number, part in zip(NUMBERS, parts, strict=True)]
    (tables / "a.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    mapped = [{"url": _url(number), "tags": {"cat": 1, "big dog": 0.5} if number % 2 else {"cat": True}}
              for number in NUMBERS]
    (tables / "b.json").write_text("".join(f"{json.dumps(record)}\n" for record in mapped))
    _write(tables / "json.csv", "url,tags",
           *(f'{_url(number)},"{json.dumps(part).replace(chr(34), chr(34) * 2)}"'
             for number, part in zip(NUMBERS, parts, strict=True)))
    duckdb.sql("COPY (SELECT url, string_split(labels, ';') AS labels FROM 'a.csv.gz') TO 'a.parquet'")
    duckdb.sql("COPY (SELECT * FROM 'a.csv.gz') TO 'a.csv.zst' (FORMAT csv, COMPRESSION zstd)")
    _write(tables / "rows.csv", "url,label,score",
           *(f"{_url(number)},{label},{1 if label == 'cat' else 0.5}" for label in ("cat", "big dog")
             for number in NUMBERS if label == "cat" or number % 2))
    _write(tables / "classes.csv", "url,cat,big dog",
           *(f"{_url(number)},true,{0.5 if number % 2 else ''}" for number in NUMBERS))
    return ["a.csv", "a.csv.gz", "a.tsv", "a.csv.zst", "a.jsonl", "b.json", "json.csv", "a.parquet", "rows.csv",
            "classes.csv"]


def test_every_form_of_the_labels_gives_the_same_lists(same_table: list[str], acquired: Callable[..., Any],
                                                       tmp_path: Path) -> None:
    published = set()
    for name in same_table:
        options: dict[str, Any] = {}
        if name.startswith("a.") and "json" not in name and "parquet" not in name:
            options["separator"] = ";"
        if name == "rows.csv":
            options["confidence"] = "score"
        if name == "classes.csv":
            options["labels"] = ["*"]
        lists = acquired(name, out=tmp_path / name, **options)
        assert _both(lists) == EXPECTED, name
        published.add(tuple("".join(sorted((tmp_path / name / part).read_text().splitlines(keepends=True)))
                            for part in (TRAIN, VAL)))
    assert len(published) == 1


def test_the_rows_keep_their_order(tables: Path, acquired: Callable[..., Any]) -> None:
    for name, numbers in (("b.csv", range(30, 60)), ("a.csv", range(30))):
        _write(tables / name, "url,tags", *(f"{_url(number)},cat dog" for number in numbers))
    lists = acquired("*.csv", separator=" ")
    for part in ("train", "val"):
        numbers_of = [int(url.rpartition("/")[2].removesuffix(".jpg")) for url in lists[part]]
        assert numbers_of == sorted(numbers_of) and len(numbers_of) > 5
    assert len(_both(lists)) == 60


def test_the_lists_do_not_depend_on_the_threads(tables: Path, acquired: Callable[..., Any], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb.sql("COPY (SELECT 'http://images.example/' || (i % 9000) || '.jpg' AS url, 'c' || (i % 7) AS label "
               "FROM range(27000) t(i)) TO 'large.parquet' (ROW_GROUP_SIZE 2048)")
    content = []
    for threads in (1, 4):
        monkeypatch.setattr(database, "THREADS", threads)
        for name, options in (("rows", {}), ("query", {"query": "SELECT url AS image, label AS labels FROM "
                                                                "'large.parquet' WHERE label <> 'c3'"})):
            lists = acquired("large.parquet", out=tmp_path / f"{name}{threads}", min_images=threads, **options)
            content.append((name, {part: list(rows.items()) for part, rows in lists.items()}))
            assert len(_both(lists)) == 9000
    assert content[:2] == content[2:]


def test_a_table_larger_than_the_memory_is_sorted_on_disk(tables: Path, acquired: Callable[..., Any],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MEMORY_MIB", 64)
    duckdb.sql("COPY (SELECT 'http://images.example/' || repeat(md5((i % 30000)::VARCHAR), 8) || '.jpg' AS url, "
               "'c' || (i // 30000) AS label FROM range(240000) t(i)) TO 'large.parquet' (ROW_GROUP_SIZE 2048)")
    assert (tables / "large.parquet").stat().st_size > 10**6
    lists = _both(acquired("large.parquet"))
    assert len(lists) == 30000 and all(len(labels) == 8 for labels in lists.values())


def test_a_part_column_splits_the_images(tables: Path, acquired: Callable[..., Any],
                                         capsys: pytest.CaptureFixture[str]) -> None:
    _write(tables / "a.csv", "url,tags,split", f"{_url(1)},cat,Train", f"{_url(2)},cat,validation",
           f"{_url(3)},dog,test", f"{_url(4)},dog,train", f"{_url(5)},dog,")
    lists = acquired("a.csv", part="split")
    assert lists == {"train": {_url(1): {"cat": 1}, _url(4): {"dog": 1}}, "val": {_url(2): {"cat": 1}}}
    assert "2 images of other parts than train and val are left out: test 1, (empty) 1" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has no row of the part `train`: the column tags has dog, cat"):
        acquired("a.csv", labels="split", part="tags")


def test_the_share_for_validation_is_chosen_by_address(tables: Path, acquired: Callable[..., Any],
                                                       tmp_path: Path) -> None:
    _write(tables / "a.csv", "url,tags", *(f"{_url(number)},cat" for number in range(2000)))
    val = set(acquired("a.csv", val_share=0.1)["val"])
    assert 140 < len(val) < 260  # 200, plus or minus four standard deviations
    _write(tables / "a.csv", "url,tags", *(f"{_url(number)},dog" for number in reversed(range(1000, 3000))))
    later = acquired("a.csv", val_share=0.2, out=tmp_path / "later")
    assert {url for url in val if url in _both(later)} <= set(later["val"])
    with pytest.raises(UserError, match=r"val_share = 0.0001 of 2,000 images gives 2,000 for training and 0 for valid"):
        acquired("a.csv", val_share=0.0001)


def test_rare_labels_are_left_out(tables: Path, acquired: Callable[..., Any],
                                  capsys: pytest.CaptureFixture[str]) -> None:
    _write(tables / "a.csv", "url,tags", *(f"{_url(number)},cat cat" for number in range(20)),
           f"{_url(20)},cat rare", f"{_url(21)},rare:0 rarest")
    lists = _both(acquired("a.csv", separator=" ", min_images=2))
    assert set(lists) == {_url(number) for number in range(21)}
    assert lists[_url(20)] == {"cat": 1}
    output = capsys.readouterr().out
    assert "2 labels of 2 names are no class and are left out; the most frequent is rare with 1" in output
    assert "1 images without a label are left out; acquire.table.unlabelled: true keeps them" in output
    with pytest.raises(UserError, match=r"min_images = 50, and the most frequent label, cat, has 21 images"):
        acquired("a.csv", separator=" ", min_images=50)


def test_images_without_labels_are_kept_on_demand(tables: Path, acquired: Callable[..., Any], tmp_path: Path) -> None:
    _write(tables / "a.csv", "url,cat,dog", *(f"{_url(number)},{number % 2},0.0" for number in NUMBERS))
    assert set(_both(acquired("a.csv", labels=["cat", "dog"], classes=None))) == {_url(n) for n in NUMBERS if n % 2}
    lists = _both(acquired("a.csv", labels=["cat", "dog"], unlabelled=True))
    assert lists == {_url(number): {"cat": 1.0} if number % 2 else {} for number in NUMBERS}
    statistics = json.loads((tmp_path / "lists" / STATISTICS).read_text())["lists"]
    assert sum(statistics[name]["labels_per_image"].get("0", 0) for name in (TRAIN, VAL)) == 4


def test_an_unknown_label_is_published_as_minus_1(tables: Path, acquired: Callable[..., Any], tmp_path: Path) -> None:
    _write(tables / "a.csv", "url,cat,dog", *(f"{_url(number)},-1.0,{number % 2}" for number in NUMBERS),
           f"{_url(9)},1,1")
    lists = _both(acquired("a.csv", labels=["*"]))
    assert lists[_url(1)] == {"cat": -1.0, "dog": 1.0} and lists[_url(0)] == {"cat": -1.0}
    text = (tmp_path / "lists" / TRAIN).read_text() + (tmp_path / "lists" / VAL).read_text()
    assert f"{_url(1)}\t0:-1\t1:1\n" in text
    statistics = json.loads((tmp_path / "lists" / STATISTICS).read_text())["lists"]
    assert sum(int(count) * images for one in statistics.values()
               for count, images in one["labels_per_image"].items()) == 6


def test_a_wrong_row_is_rejected_with_its_reason(tables: Path, acquired: Callable[..., Any], tmp_path: Path) -> None:
    _write(tables / "a.csv", "url,tags", *(f"{_url(number)},cat" for number in range(20)), "ftp://images.example/,cat",
           f"{_url(30)},cat:1.5", "http://images.example/../..,cat", "../secret.jpg,cat", "/etc/passwd,cat",
           "pictures/./a.jpg,cat", "file:../a.jpg,cat", f'"{_url(31)}\n2",cat', ",cat")
    acquired("a.csv", malformed_fraction=0.9, separator=";")
    rejected = (tmp_path / "lists" / REJECTED).read_text()
    for reason in ("expected an http or https URL, found 'ftp://images.example/'", "confidence '1.5' is not a number",
                   "without .. in it, found 'file:../secret.jpg'", "found 'file:/etc/passwd'",
                   "found 'file:pictures/./a.jpg'", "found 'file:../a.jpg'", "holds a control character",
                   "expected an image and its labels"):
        assert reason in rejected, reason
    assert len(rejected.splitlines()) == 9
    with pytest.raises(UserError, match="lines are malformed, more than acquire.malformed_fraction = 0.001 allows"):
        acquired("a.csv", separator=";")


def test_lines_with_another_number_of_columns_are_counted(tables: Path, acquired: Callable[..., Any],
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    _write(tables / "a.csv", "url,tags", *(f"{_url(number)},cat" for number in range(20)), "no columns",
           f"{_url(1)},a,b,c")
    with pytest.raises(UserError, match=r"2 lines cannot be read, the first is line 22 of a.csv: .*; more than"):
        acquired("a.csv")
    assert len(_both(acquired("a.csv", malformed_fraction=0.1))) == 20
    assert "WARNING: 2 lines cannot be read" in capsys.readouterr().out


def test_the_manifest_names_the_tables_and_a_changed_one_is_read_again(
        tables: Path, from_table: Acquire, machine: Machine, tmp_path: Path) -> None:
    _write(tables / "a.csv", "url,tags", *(f"{_url(number)},cat" for number in NUMBERS))
    params = dataclasses.replace(from_table, table=dataclasses.replace(from_table.table, files=["*.csv"]))
    out = acquire(params, machine, out=tmp_path / "lists")
    first = verify(out, "acquire")["made_from"]
    assert list(first) == ["a.csv"]
    before = (out / MANIFEST).read_bytes()
    assert (acquire(params, machine, out=tmp_path / "lists") / MANIFEST).read_bytes() == before
    _write(tables / "a.csv", "url,tags", *(f"{_url(number)},dog" for number in NUMBERS))
    acquire(params, machine, out=tmp_path / "lists")
    assert read_tree(out / DICTIONARY).wnids == ("dog",)
    assert verify(out, "acquire")["made_from"] != first


def test_a_missing_column_lists_those_there_and_the_nearest(tables: Path, acquired: Callable[..., Any]) -> None:
    _write(tables / "a.csv", "link,keywords", f"{_url(1)},cat")
    with pytest.raises(UserError, match=r"image is 'lnk', but a.csv has no such column; it has link, keywords; the nea"
                                        r"rest is link"):
        acquired("a.csv", image="lnk", labels="keywords")
    with pytest.raises(UserError, match=r"a.csv has no column named url, .*; set acquire.table.image to one of its col"
                                        r"umns: link, keywords"):
        acquired("a.csv")
    with pytest.raises(UserError, match=r"has no column named labels, .*: link, keywords"):
        acquired("a.csv", image="LINK")
    with pytest.raises(UserError, match=r"labels is 'cat', but a.csv has no such column"):
        acquired("a.csv", image="link", labels=["keywords", "cat"])
    for name in ("confidence", "part"):
        with pytest.raises(UserError, match=rf"acquire.table.{name} is 'kind', but"):
            acquired("a.csv", image="link", labels="keywords", **{name: "kind"})
