"""Writes the result of every list line as one Parquet file, which other programs read."""

import errno
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlimages.acquire.formats import PARTS, list_file
from mlimages.core.errors import DUCKDB_NO_SPACE, UserError, one_line, rebuild_hint
from mlimages.core.publish import atomic_write, sha256, write_json
from mlimages.download.ledger import LedgerRow

RESULTS = "results.parquet"
MEMORY_MIB = 250
# A row for each line of a part's list. No line of a list holds the byte 1.
QUERY = """
SELECT ledger.url AS url, key, printf('{part}/%05d.tar', (line::BIGINT - 1) // $lines_per_shard) AS shard,
    nullif(http_status::INTEGER, 0) AS status, reason, nullif(width::INTEGER, 0) AS width,
    nullif(height::INTEGER, 0) AS height, nullif(sha256, '') AS sha256,
    list_transform(string_split(entry.text, chr(9))[2:], lambda pair: {{'class': split_part(pair, ':', 1)::INTEGER,
        'confidence': split_part(pair, ':', 2)::DOUBLE}}) AS labels
FROM read_csv($ledgers_{part}, columns = {{{columns}}}, header = true, delim = ',', quote = '"', escape = '"',
    null_padding = true, auto_detect = false, parallel = false) AS ledger
POSITIONAL JOIN read_csv($list_{part}, columns = {{'text': 'VARCHAR'}}, header = false, delim = '\x01', quote = '',
    escape = '', auto_detect = false) AS entry
"""


def write_results(work: Path, finished: Mapping[str, str], lists: Path,
                  lines_per_shard: int) -> tuple[dict[str, int], dict[str, str]]:
    """Write `work/out/results.parquet`: the rows of all ledgers in list order, with the labels of the lists.

    `finished` has the sha256 of each shard and ledger in `work/out`, in list order. The file stays if it was made of
    the same ledgers. Returns the number of its rows and its sha256, each by its name, and nothing if there is no
    ledger. Raises UserError if a ledger is damaged.
    """
    ledgers = {name: digest for name, digest in finished.items() if name.endswith(".csv")}
    if not ledgers:
        return {}, {}
    path, note = work / "out" / RESULTS, work / "results.json"
    source = hashlib.sha256("\n".join(ledgers.values()).encode()).hexdigest()
    known = json.loads(note.read_text()) if note.exists() and path.exists() else {}
    if known.get("source") != source:
        note.unlink(missing_ok=True)
        rows = _write(path, ledgers, lists, lines_per_shard)
        known = {"source": source, "rows": rows, "sha256": sha256(path)}
        write_json(note, known)
    return {RESULTS: known["rows"]}, {RESULTS: known["sha256"]}


def _write(path: Path, ledgers: Iterable[str], lists: Path, lines_per_shard: int) -> int:
    """Write the file in bounded memory. Returns its number of rows."""
    import duckdb  # only here: later stages import this package, and need no database

    values: dict[str, Any] = {"lines_per_shard": lines_per_shard}
    for part in PARTS:
        if found := [str(path.parent / name) for name in ledgers if name.startswith(f"{part}/")]:
            values |= {f"ledgers_{part}": found, f"list_{part}": str(lists / list_file(part, "openimages"))}
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in LedgerRow._fields)
    query = " UNION ALL ".join(QUERY.format(part=part, columns=columns) for part in PARTS if f"list_{part}" in values)
    with (atomic_write(path) as file,
          duckdb.connect(config={"memory_limit": f"{MEMORY_MIB}MiB", "threads": 1}) as database):
        try:
            target = file.name.replace("'", "''")
            # DuckDB's own temporary file would have a name that a later run does not remove after a kill.
            copied = database.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, COMPRESSION zstd, "
                                      f"USE_TMP_FILE false)", values)
            [[rows]] = copied.fetchall()
        except duckdb.Error as error:
            if DUCKDB_NO_SPACE in str(error):
                raise OSError(errno.ENOSPC, DUCKDB_NO_SPACE) from None
            raise UserError(f"the ledgers in {path.parent} are damaged ({one_line(str(error))}); "
                            f"{rebuild_hint('download')}") from None
    return rows
