"""Open DuckDB so that it reads the named files and nothing else, in bounded memory."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlimages.core.errors import DUCKDB_NO_SPACE, DiskError, UserError

if TYPE_CHECKING:
    import duckdb

MEMORY_MIB = 250  # DuckDB stores the rest on the disk; the process takes about 150 MiB more
THREADS = 1  # each thread needs memory for a row group of Parquet, and Python is the slower part
SHOWN_CHARACTERS = 400  # of DuckDB's own message


@contextlib.contextmanager
def open_database(files: Sequence[Path], work: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A database in memory that spills into `work`.

    Tables and queries may be malicious. They can read no file except `files`, and cannot use the network, extensions or
    variables of Python, nor change these settings. Raises UserError for DuckDB's errors in the block.
    """
    import duckdb  # only here, so that the later stages need not load it

    allowed = ", ".join(map(quoted, (os.path.abspath(path) for path in files)))
    settings = {"memory_limit": f"'{MEMORY_MIB}MiB'", "threads": THREADS,
                "temp_directory": quoted(str((work / "spill").absolute())), "preserve_insertion_order": "true",
                "autoinstall_known_extensions": "false", "autoload_known_extensions": "false",
                "allow_community_extensions": "false", "allow_persistent_secrets": "false",
                "python_enable_replacements": "false", "allowed_paths": f"[{allowed}]",
                "enable_external_access": "false", "lock_configuration": "true"}
    work.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as database:
        for name, value in settings.items():
            database.execute(f"SET {name} = {value}")
        try:
            yield database
        except duckdb.OutOfMemoryException as error:
            raise UserError(f"the table needs more than the {MEMORY_MIB} MiB of memory that DuckDB may take: "
                            f"{shown(error)}; make acquire.table.query simpler, or split the table") from None
        except duckdb.PermissionException as error:
            names = ", ".join(map(str, files))
            raise UserError(f"acquire.table.query may read nothing but acquire.table.files, {names}: {shown(error)}"
                            ) from None
        except duckdb.Error as error:
            if DUCKDB_NO_SPACE in str(error):
                raise DiskError(f"{work}: no space left on the device, to sort the table; make room there, or set "
                                f"machine.scratch to another disk, and run the same command again") from None
            raise UserError(f"acquire.table cannot be read: {shown(error)}") from None


def shown(error: Exception) -> str:
    """The first paragraph of DuckDB's message, as one line."""
    text = " ".join(str(error).partition("\n\n")[0].split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def quoted(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'
