"""A hostile table or query ends in one clear error. It reads no other file and no network, and writes none."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlimages.acquire.tables import named_lists
from mlimages.core.errors import UserError

TABLE = "url,tags\n" + "".join(f"http://images.example/{number}.jpg,cat\n" for number in range(8))


@pytest.fixture
def table(tables: Path) -> Path:
    """A table, with a file beside it that no parameter names."""
    (tables / "a.csv").write_text(TABLE)
    (tables / "secret.csv").write_text("url,tags\nhttp://secret.example/,secret\n")
    return tables / "a.csv"


@pytest.mark.parametrize("source", [
    "'secret.csv'", "read_csv('*.csv')", "read_text('secret.csv')", "read_blob('/etc/hostname')",
    "read_csv('a/../secret.csv')", "glob('*')", "sniff_csv('secret.csv')", "read_csv('http://127.0.0.1:9/a.csv')",
    "read_csv('s3://bucket/a.csv')", "read_csv('/dev/stdin')", "parquet_metadata('secret.csv')"])
def test_a_query_reads_only_the_named_files(table: Path, acquired: Callable[..., Any], source: str) -> None:
    with pytest.raises(UserError, match=r"acquire.table.query may read nothing but acquire.table.files, a.csv: "):
        acquired("a.csv", query=f"FROM {source} SELECT 'http://images.example/' AS url, 'cat' AS tags")


@pytest.mark.parametrize("query", [
    "COPY (SELECT 1) TO 'written.csv'", "COPY (SELECT 1) TO 'a.csv' (USE_TMP_FILE false)", "ATTACH 'written.db'",
    "SELECT 1; SELECT 2", "SET enable_external_access = true", "INSTALL httpfs", "LOAD httpfs", "",
    "CREATE TABLE t AS SELECT 1", "EXPORT DATABASE 'written'"])
def test_a_query_only_selects(table: Path, acquired: Callable[..., Any], query: str) -> None:
    files = sorted(path.name for path in table.parent.iterdir())
    with pytest.raises(UserError, match="acquire.table.query: expected one SELECT, found "):
        acquired("a.csv", query=query or " ")
    assert table.read_text() == TABLE
    assert sorted(path.name for path in table.parent.iterdir()) == files


@pytest.mark.parametrize("query", [
    "SELECT 1) TO (SELECT 2", "SELECT getenv('HOME') AS url", "SELEC 1", "SELECT no_column FROM 'a.csv'",
    "SELECT * FROM query('COPY (SELECT 1) TO ''a.csv'' (USE_TMP_FILE false)')"])
def test_a_wrong_query_is_one_clear_error(table: Path, acquired: Callable[..., Any], query: str) -> None:
    with pytest.raises(UserError, match="acquire.table cannot be read: "):
        acquired("a.csv", query=query)
    assert table.read_text() == TABLE


@pytest.mark.parametrize("name, content, message", [
    ("a.parquet", b"PAR1 but no more PAR1", "cannot be read"),
    ("a.parquet", b"", "cannot be read: .*too small"),
    ("a.csv.gz", b"no gzip", "cannot be read: .*not a GZIP stream"),
    ("a.csv.gz", gzip.compress(TABLE.encode() * 1000)[:60], "cannot be read: .*GZIP"),
    ("a.jsonl", b'{"url": "http://images.example/", "tags": "cat"}\n{"url": wrong\n', "Malformed JSON"),
    ("a.csv", b"", "has no column"),
    ("a.csv", b"url,tags\n", "has no rows"),
    ("a.csv", TABLE.encode("utf-16"), "has no column"),
    ("a.csv", b"<!DOCTYPE html><html><title>Quota exceeded</title></html>\n", "has no column"),
    ("a.xlsx", b"PK", "expected a name that ends in .csv"),
])
def test_a_damaged_table_is_one_clear_error(tables: Path, acquired: Callable[..., Any], name: str, content: bytes,
                                            message: str) -> None:
    (tables / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        acquired(name)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("files, message", [
    ([], "acquire.table.files is empty"), (["b.csv"], "b.csv is missing or no file"),
    (["*.parquet"], r"no file matches \*.parquet"), (["."], "is missing or no file"),
    (["../outside.csv"], r"outside.csv lies outside of acquire.folder.*set acquire.folder to \.\."),
    (["a.csv", "a.jsonl"], "expected one format, or a query"), (["[ab][[]1].csv"], "takes for a pattern; rename it"),
    (["/dev/zero"], "missing or no file")])
def test_a_wrong_path_is_one_clear_error(table: Path, acquired: Callable[..., Any], files: list[str],
                                         message: str) -> None:
    for name in ("../outside.csv", "a.jsonl", "b[1].csv"):
        (table.parent / name).write_text(TABLE)
    with pytest.raises(UserError, match=message):
        acquired(*files)


def test_names_with_quotes_are_no_sql(tables: Path, acquired: Callable[..., Any]) -> None:
    (tables / "it's \"a\".csv").write_text(TABLE.replace("url,tags", '"u""r\'l","ta; DROP"'))
    lists = acquired("it's \"a\".csv", image="u\"r'l", labels="ta; DROP")
    assert len(lists["train"]) + len(lists["val"]) == 8


def test_a_column_that_holds_no_labels_is_an_error(tables: Path, acquired: Callable[..., Any],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_lists, "MAX_LABELS", 100)
    (tables / "a.csv").write_text("url,label\n" + "".join(f"http://images.example/{number}.jpg,caption {number}\n"
                                                          for number in range(200)))
    with pytest.raises(UserError, match="there are more than 100 different labels, such as 'caption"):
        acquired("a.csv")
    (tables / "a.csv").write_text(TABLE.replace("cat", "word " * 100))
    with pytest.raises(UserError, match="a label has 499 characters, expected at most 200: 'word word"):
        acquired("a.csv")


def test_control_characters_stay_out_of_names(tables: Path, acquired: Callable[..., Any]) -> None:
    (tables / "a.tsv").write_text("url\tlabels\n" + "".join(
        f'http://images.example/{number}.jpg\t["a\\tb\\u0007\\n c", "\\ud800"]\n' for number in range(8)))
    lists = acquired("a.tsv")
    assert {tuple(labels) for part in lists.values() for labels in part.values()} <= {("?", "a b c"), ("a b c", "?")}
