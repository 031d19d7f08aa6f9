"""Choose the columns of a table, and write the SQL query that reads its rows in order."""

import difflib
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlimages.acquire.formats import MAX_LINE_BYTES
from mlimages.acquire.tables.database import identifier, quoted
from mlimages.acquire.tables.labels import clean_name
from mlimages.core.errors import UserError
from mlimages.core.params import Table

if TYPE_CHECKING:
    import duckdb

IMAGE_NAMES = ("url", "image_url", "img_url", "originalurl", "file_name", "filename", "image", "path")
LABELS_NAMES = ("labels", "label", "tags", "tag", "classes", "class", "labelname")
NESTED = ("[]", "]", "STRUCT(", "MAP(", "JSON", "UNION(", "VARIANT")  # how the names of types with parts end or begin
MAX_COLUMNS = 10_000


class Columns(NamedTuple):
    """The columns of the image, its labels and, if the table has them, the confidence and the part.

    With `by_class` each of the columns `labels` is a class, and its values are confidences. Otherwise `labels` is one
    column. With `one_label` a row has one label, and the rows of an image are merged.
    """

    image: str
    labels: tuple[str, ...]
    by_class: bool
    one_label: bool
    confidence: str | None
    part: str | None


def source_of(files: Sequence[Path], reader: str, query: str | None, database: "duckdb.DuckDBPyConnection") -> str:
    """The text after FROM: the query, or the call that reads the files. All columns of text files are text.

    Raises UserError if the query is not a single SELECT.
    """
    if query is not None:
        return f"({_checked_query(query, database)}\n)"
    paths = f"[{', '.join(quoted(str(path)) for path in files)}]"
    if reader == "parquet":
        return f"read_parquet({paths}, union_by_name = true)"
    if reader == "json":
        types = ", ".join(f"{quoted(name)}: 'VARCHAR'"
                          for name, _ in describe(f"read_json({paths}, union_by_name = true)", database))
        return f"read_json({paths}, columns = {{{types}}})"
    delimiter = r", delim = '\t'" if reader == "tsv" else ""
    return f"read_csv({paths}, header = true, all_varchar = true, store_rejects = true{delimiter})"


def describe(source: str, database: "duckdb.DuckDBPyConnection") -> list[tuple[str, str]]:
    """The names and types of the columns."""
    return [(row[0], str(row[1])) for row in database.execute(f"DESCRIBE FROM {source}").fetchall()]


def choose(described: Sequence[tuple[str, str]], table: Table, where: str) -> Columns:
    """The columns that `table` names or, if it names none, those with the usual names. `where` names the table.

    Raises UserError for a missing column. It lists the columns of the table.
    """
    names = [name for name, _ in described]
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{where} has {len(names):,} columns, expected at most {MAX_COLUMNS:,}")
    image = _named("image", table.image, names, where) if table.image else _usual("image", IMAGE_NAMES, names, where)
    confidence = _named("confidence", table.confidence, names, where) if table.confidence else None
    part = _named("part", table.part, names, where) if table.part else None
    if isinstance(table.labels, list):
        labels = _matching(table.labels, [name for name in names if name not in (image, confidence, part)], where)
        return Columns(image, labels, True, False, confidence, part)
    label = _named("labels", table.labels, names, where) if table.labels else \
        _usual("labels", LABELS_NAMES, names, where)
    one_label = table.separator is None and not is_nested(dict(described)[label])
    return Columns(image, (label,), False, one_label, confidence, part)


def is_nested(kind: str) -> bool:
    """Whether the values of a type of DuckDB have parts."""
    return kind.endswith(NESTED[:2]) or kind.startswith(NESTED[2:])


def rows_query(source: str, columns: Columns, described: Sequence[tuple[str, str]], *, mixed: bool) -> str:
    """The query for the rows: image, part, confidence, and the labels, all as text or null.

    The rows come in the order of the table. With `mixed` they come in the order of the MD5 of their addresses, which
    brings the rows of an image together.
    """
    kinds = dict(described)
    names = [columns.image, columns.part, columns.confidence, *columns.labels]
    values = [f"{_text(name, kinds[name]) if name else 'NULL'} AS v{place}" for place, name in enumerate(names)]
    outs = ", ".join(f"v{place}" for place in range(len(names)))
    if mixed:
        return f"FROM (FROM {source} SELECT {', '.join(values)}) ORDER BY md5_number_lower(v0), {outs}"
    return f"FROM {source} SELECT {', '.join(values)}"


def _text(name: str, kind: str) -> str:
    """A column as text: JSON for values with parts. A longer text than a list line can have is cut."""
    value = f"to_json({identifier(name)})" if is_nested(kind) and kind != "JSON" else identifier(name)
    return f"left(CAST({value} AS VARCHAR), {MAX_LINE_BYTES + 1})"


def _checked_query(query: str, database: "duckdb.DuckDBPyConnection") -> str:
    import duckdb

    statements = database.extract_statements(query)
    if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
        raise UserError(f"acquire.table.query: expected one SELECT, found {query[:80]!r}")
    return query.strip().rstrip(";")


def _named(parameter: str, wanted: str, names: Sequence[str], where: str) -> str:
    """The column of that name, or the only one whose name differs just in case."""
    for name in names:
        if name == wanted:
            return name
    alike = [name for name in names if name.lower() == wanted.lower()]
    if len(alike) == 1:
        return alike[0]
    nearest = difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)
    raise UserError(f"acquire.table.{parameter} is {wanted!r}, but {where} has no such column; it has "
                    f"{_listed(names)}; the nearest is {nearest[0] if nearest else 'none'}")


def _usual(parameter: str, usual: Sequence[str], names: Sequence[str], where: str) -> str:
    by_name = {name.lower(): name for name in reversed(names)}
    for one in usual:
        if one in by_name:
            return by_name[one]
    raise UserError(f"{where} has no column named {', '.join(usual)}; set acquire.table.{parameter} to one of its "
                    f"columns: {_listed(names)}")


def _matching(patterns: Sequence[str], names: Sequence[str], where: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for pattern in patterns:
        chosen = [name for name in names if name == pattern] or fnmatch.filter(names, pattern)
        found.update(dict.fromkeys(chosen or [_named("labels", pattern, names, where)]))
    return tuple(found)


def _listed(names: Sequence[str], most: int = 50) -> str:
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(clean_name, names[:most])) + rest
