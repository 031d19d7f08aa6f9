"""Convert a table to lists in Tencent's format, but with class names in place of class numbers."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mlimages.acquire.formats import LOCAL, PARTS, REMOTE, Part, list_file
from mlimages.acquire.tables import columns as sql
from mlimages.acquire.tables.columns import Columns
from mlimages.acquire.tables.database import open_database, shown
from mlimages.acquire.tables.files import reader_of
from mlimages.acquire.tables.labels import CACHED, by_class, clean_name, labels_of
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine, Table
from mlimages.core.progress import ProgressBar, progress_bar
from mlimages.core.publish import atomic_write

ROWS = 1000  # fetched at a time
PART_NAMES: dict[str, Part] = {"train": "train", "training": "train", "val": "val", "valid": "val",
                               "validation": "val", "dev": "val"}
LINE_BREAKS = re.compile("[\t\n\r]")


def write_named_lists(params: Acquire, files: list[Path], folder: Path, machine: Machine) -> None:
    """Write the lists of the table in `files` into `folder`: of both parts, or only of train without `table.part`.

    Raises UserError for a table that cannot be read, for a missing column, if more than `malformed_fraction` of the
    lines of a CSV file have another number of columns than its header, or if a part has no row.
    """
    table = params.table
    reader = "" if table.query else reader_of(files)
    with open_database(files, folder) as database:
        source = sql.source_of(files, reader, table.query, database)
        described = sql.describe(source, database)
        where = "acquire.table.query" if table.query else str(files[0])
        columns = sql.choose(described, table, where)
        # The rows of a query may come in another order each time.
        mixed = columns.one_label or table.query is not None
        rows = database.execute(sql.rows_query(source, columns, described, mixed=mixed))
        parts = PARTS if columns.part else PARTS[:1]
        with ExitStack() as stack, progress_bar("read the table", total=0, unit=" rows", machine=machine) as bar:
            lists = {part: stack.enter_context(atomic_write(folder / list_file(part, "openimages"))) for part in parts}
            others = _write(_fetched(rows, bar), columns, table, lists)
            written = {part: file.tell() for part, file in lists.items()}
            read = int(bar.n)
        if reader in ("csv", "tsv"):
            _check_rejects(database, read, params)
    if others:
        print(f"{others.total():,} images of other parts than train and val are left out: "
              + ", ".join(f"{name} {count:,}" for name, count in others.most_common(5)))
    for part, size in written.items():
        if not size:
            raise UserError(f"{where} has no row of the part `{part}`: the column {columns.part} has "
                            f"{', '.join(name for name, _ in others.most_common(5)) or 'no value'}" if columns.part else
                            f"{where} has no rows")


def _fetched(rows: "duckdb.DuckDBPyConnection", bar: ProgressBar) -> Iterator[tuple[Any, ...]]:
    while batch := rows.fetchmany(ROWS):
        bar.update(len(batch))
        yield from batch


def _write(rows: Iterator[tuple[Any, ...]], columns: Columns, table: Table,
           lists: dict[Part, BinaryIO]) -> Counter[str]:
    """Write a line for each image of a part in `lists`. Returns the number of images of each other part."""
    others: Counter[str] = Counter()
    groups = itertools.groupby(rows, key=lambda row: row[0]) if columns.one_label else ((row[0], [row]) for row in rows)
    for image, group in groups:
        labels: list[tuple[str, str]] = []
        for row in group:
            _, part_text, confidence, *values = row
            if columns.by_class:
                labels += by_class(columns.labels, tuple(values))
            else:
                labels += labels_of(values[0], (confidence or "") if columns.confidence else None, table.separator)
        part = PART_NAMES.get((part_text or "").strip().lower()) if columns.part else "train"
        if part is None:
            others[clean_name(part_text or "")[:40] or "(empty)"] += 1
        else:
            line = f"{_address(image or '')}{''.join(map(_pair, labels))}\n"
            lists[part].write(line.encode("utf-8", "replace"))
    return others


@lru_cache(CACHED)
def _pair(label: tuple[str, str]) -> str:
    """A label as it stands in a list; nothing without a name."""
    name, confidence = map(clean_name, label)
    return f"\t{name}:{confidence}" if name else ""


def _address(image: str) -> str:
    """A URL as it is, and a path of a local picture with LOCAL. A line break makes the line malformed."""
    image = LINE_BREAKS.sub("\0", image.strip())
    is_address = not image or REMOTE.match(image) or image.startswith(LOCAL)
    return image if is_address else f"{LOCAL}{image.removeprefix('./')}"


def _check_rejects(database: "duckdb.DuckDBPyConnection", rows: int, params: Acquire) -> None:
    """Raise UserError if too many lines of the CSV files were skipped, otherwise print their number."""
    [[lines]] = database.execute("SELECT count(DISTINCT (file_id, line)) FROM reject_errors").fetchall()
    if not lines:
        return
    [[line, path, message]] = database.execute(
        "SELECT line, file_path, error_message FROM reject_errors JOIN reject_scans USING (scan_id, file_id) "
        "ORDER BY file_id, line LIMIT 1").fetchall()
    found = f"{lines:,} lines cannot be read, the first is line {line} of {path}: {shown(message)}"
    if lines > params.malformed_fraction * (rows + lines):
        raise UserError(f"{found}; more than acquire.malformed_fraction = {params.malformed_fraction:g} allows")
    print(f"WARNING: {found}")


if TYPE_CHECKING:
    import duckdb
