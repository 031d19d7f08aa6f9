"""Find the files that `acquire.table` names, and their formats."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from mlimages.core.errors import UserError
from mlimages.core.params import Acquire

READERS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet",
           ".pq": "parquet"}
COMPRESSIONS = (".gz", ".zst")  # of CSV, TSV and JSON; Parquet compresses by itself
GLOB_CHARACTERS = "*?["


def table_files(params: Acquire) -> list[Path]:
    """The files of `table.files`, each once, in the given order. The files of a pattern are sorted by name.

    Raises UserError if there is no file, if a pattern matches none, or for a file outside of `acquire.folder`.
    """
    files = [path for pattern in params.table.files for path in _matches(params, "files", pattern)]
    if not files:
        raise UserError("acquire.source is table, but acquire.table.files is empty; expected paths or patterns such as "
                        "[lists/*.parquet]")
    return list(dict.fromkeys(files))


def class_files(params: Acquire) -> list[Path]:
    """The files of `table.classes`. Raises UserError as `table_files` does."""
    named = params.table.classes or []
    return [path for pattern in ([named] if isinstance(named, str) else named)
            for path in _matches(params, "classes", pattern)]


def reader_of(files: Sequence[Path]) -> str:
    """How to read the files: "csv", "tsv", "json" or "parquet". Raises UserError for other files or several formats."""
    readers = {path: READERS.get(_suffix(path)) for path in files}
    for path, reader in readers.items():
        if reader is None:
            raise UserError(f"{path}: expected a name that ends in {', '.join(READERS)}, or in one of them and "
                            f"{' or '.join(COMPRESSIONS)}")
    first = files[0]
    for path, reader in readers.items():
        if reader != readers[first]:
            raise UserError(f"acquire.table.files has {first} and {path}; expected one format, or a query "
                            f"(acquire.table.query) that joins them")
    return str(readers[first])


def _suffix(path: Path) -> str:
    """The suffix of a file that states its format, not that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSIONS), "")


def _matches(params: Acquire, name: str, pattern: str) -> list[Path]:
    """The files of one path or pattern, by name."""
    is_pattern = glob.has_magic(pattern)
    found = sorted(glob.glob(pattern, recursive=True)) if is_pattern else [pattern]
    files = [Path(path) for path in found if not (is_pattern and Path(path).is_dir())]
    if not files:
        raise UserError(f"acquire.table.{name}: no file matches {pattern} in {Path.cwd()}")
    for path in files:
        _check_file(params, name, path)
    return files


def _check_file(params: Acquire, name: str, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"acquire.table.{name}: {path} is missing or no file; expected a path, relative to "
                        f"{Path.cwd()}, or a pattern")
    if any(character in str(path) for character in GLOB_CHARACTERS):
        raise UserError(f"acquire.table.{name}: {path} has one of {' '.join(GLOB_CHARACTERS)} in its name, which "
                        f"DuckDB takes for a pattern; rename it")
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(params.folder)):
        raise UserError(f"acquire.table.{name}: {path} lies outside of acquire.folder, which is {params.folder}; DVC "
                        f"notices changes only there: set acquire.folder to {path.parent}")
