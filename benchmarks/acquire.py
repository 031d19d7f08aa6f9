"""How fast acquire reads tables, and how much memory that takes, beside DuckDB's own scan of them.

    python benchmarks/acquire.py                  # 10 million rows; about half an hour
    python benchmarks/acquire.py --rows 1000000
"""

import argparse
import dataclasses
import os
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
from new_process import in_new_process

from mlimages.acquire.run import acquire
from mlimages.acquire.tables import database
from mlimages.core.params import load

ROOT = Path(__file__).parents[1]
ROWS, CLASSES = 10_000_000, 5000
URL = "'https://c' || (1 + i % 8) || '.images.example/' || (i % 8999) || '/' || lpad(i::VARCHAR, 10, '0') || '_o.jpg'"
# The tables, and the parameters that read them. Images have 1 to 8 labels, in `labels.csv` one in a row.
TABLES: dict[str, dict[str, Any]] = {
    "images.parquet": {}, "images.csv": {"separator": " "}, "labels.csv": {"confidence": "confidence"}}


def write_tables(folder: str, rows: int) -> None:
    """Write the tables, each of `rows` rows."""
    with duckdb.connect() as connection:
        labels = f"list_transform(range(1 + i * 7919 % 8), lambda k: 'label' || (i * 40503 + k * 7919) % {CLASSES})"
        connection.execute(f"CREATE VIEW images AS FROM range({rows}) t(i) SELECT {URL} AS url, {labels} AS tags")
        for name, query in (("images.parquet", "FROM images"),
                            ("images.csv", "FROM images SELECT url, array_to_string(tags, ' ') AS tags"),
                            ("labels.csv", f"FROM images SELECT url, unnest(tags) AS label, 0.9 AS confidence "
                                           f"LIMIT {rows}")):
            connection.execute(f"COPY ({query}) TO '{folder}/{name}'")


def measure(folder: str, name: str) -> dict[str, float]:
    """Seconds of acquire, and the most bytes of the process. Runs in a new process."""
    params = load(ROOT / "params.yaml")
    table = dataclasses.replace(params.acquire.table, files=[f"{folder}/{name}"], **TABLES[name])
    source = dataclasses.replace(params.acquire, source="table", folder=folder, table=table)
    machine = dataclasses.replace(params.machine, scratch=f"{folder}/scratch", progress_seconds=60.0)
    began = time.monotonic()
    acquire(source, machine, out=f"{folder}/lists")
    return {"seconds": time.monotonic() - began, "cpu": time.process_time(), "bytes": most_bytes()}


def measure_scan(folder: str, name: str) -> dict[str, float]:
    """Seconds in which DuckDB alone reads all values, with the same memory and threads. Runs in a new process."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{database.MEMORY_MIB}MiB", "threads": database.THREADS}
    with duckdb.connect(config=config) as connection:
        columns = [row[0] for row in connection.execute(f"DESCRIBE FROM '{folder}/{name}'").fetchall()]
        began = time.monotonic()
        connection.execute(f"FROM '{folder}/{name}' SELECT {', '.join(f'max({column})' for column in columns)}")
        return {"seconds": time.monotonic() - began, "bytes": most_bytes()}


def most_bytes() -> int:
    """The most memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=ROWS)
    rows = parser.parse_args().rows
    results = []
    for name in TABLES:
        with tempfile.TemporaryDirectory() as folder:
            write_tables(folder, rows)
            size = (Path(folder) / name).stat().st_size
            results.append((name, size, in_new_process(measure_scan, folder, name),
                            in_new_process(measure, folder, name)))
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, DuckDB "
          f"{duckdb.__version__}; {rows:,} rows")
    print("| table | MiB | DuckDB's scan, rows/s | acquire, rows/s | rows per CPU second | peak memory, MiB |\n"
          "| --- | --- | --- | --- | --- | --- |")
    for name, size, scan, whole in results:
        print(f"| {name} | {size / 2**20:,.0f} | {rows / scan['seconds']:,.0f} | {rows / whole['seconds']:,.0f} | "
              f"{rows / whole['cpu']:,.0f} | {whole['bytes'] / 2**20:,.0f} |")


if __name__ == "__main__":
    main()
