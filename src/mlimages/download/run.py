"""Download every URL of the two Open Images lists into tar shards, with a ledger row for every list line."""

import contextlib
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mlimages import scratch
from mlimages.acquire import formats
from mlimages.acquire.formats import PARTS, Entry, Part, list_file, read_list
from mlimages.demo import server, world
from mlimages.download import fetch, guard, ledger, shards
from mlimages.download.fetch import Fetcher, Outcome
from mlimages.download.ledger import Reason, Row, read_ledger, write_ledger
from mlimages.download.shards import Sample, key_of, ledger_path, shard_path, write_shard
from mlimages.engine import ordered_map
from mlimages.params import Download, Machine
from mlimages.progress import progress
from mlimages.publish import publish, verify, write_csv, write_json

THIS = sys.modules[__name__]

REASONS = "reasons.csv"
SUMMARY = "summary.json"
# Lines begun and not yet written: enough that one slow URL does not keep the other threads waiting.
WINDOW_PER_THREAD = 8


class Shard(NamedTuple):
    """A run of list lines, from `first` on (counted from 1), that becomes one shard."""

    part: Part
    number: int
    first: int
    lines: int


class Task(NamedTuple):
    """One list line to fetch, and the shard that it belongs to."""

    part: Part
    number: int
    entry: Entry


def download(params: Download, machine: Machine, *, lists: str | Path = "data/lists",
             out: str | Path = "data/images") -> Path:
    """Publish `out/PART/NNNNN.tar` and `NNNNN.ledger.csv` for every `images_per_shard` lines of each list.

    A shard that an earlier run finished is not fetched again. Raises UserError for missing or damaged lists, and
    where another process is downloading the same; a URL that fails is a ledger row, never an error.
    """
    manifest = verify(lists, "acquire")
    key = scratch.key(params, inputs=[lists], code=[THIS, fetch, formats, guard, ledger, server, shards, world])
    with (scratch.workspace("download", machine, key, out) as work,
          _demo_hosts(manifest["source"]) as demo_hosts):
        finished = work / "out"
        fetcher = Fetcher(params, {**demo_hosts, **machine.connect_to})
        tasks = list(_shards_to_do(finished, manifest, params.images_per_shard))
        total = sum(_lines(manifest, part) for part in PARTS)
        with progress("download", total=total, done=total - sum(one.lines for one in tasks), unit=" lines",
                      machine=machine) as bar:
            results = ordered_map(lambda task: (task, fetcher.fetch(task.entry.source)),
                                  _tasks(Path(lists), manifest["classes"], tasks), workers=machine.threads,
                                  window=machine.threads * WINDOW_PER_THREAD)
            for (part, number), group in groupby(results, key=lambda result: result[0][:2]):
                _write_results(shard_path(finished, part, number), group, bar.update)
        records = _summarise(finished, manifest)
        publish(finished, out, verb="download", records=records, classes=manifest["classes"])
    return Path(out)


def _demo_hosts(source: str) -> contextlib.AbstractContextManager[Mapping[str, str]]:
    """The demo's lists name hosts that this process must play itself; all others are out there."""
    return server.serving() if source == "demo" else contextlib.nullcontext({})


def _lines(manifest: Mapping[str, Any], part: Part) -> int:
    return manifest["files"][list_file(part, "openimages")]["records"]


def _shards_to_do(finished: Path, manifest: Mapping[str, Any], images_per_shard: int) -> Iterator[Shard]:
    """The shards without a ledger: it is written after the tar, and so marks a finished one."""
    for part in PARTS:
        lines = _lines(manifest, part)
        for number, first in enumerate(range(1, lines + 1, images_per_shard)):
            if not ledger_path(shard_path(finished, part, number)).exists():
                yield Shard(part, number, first, min(images_per_shard, lines + 1 - first))


def _tasks(lists: Path, classes: int, todo: list[Shard]) -> Iterator[Task]:
    """The list lines of those shards, in order; both lists are streamed."""
    for part in PARTS:
        wanted = iter(one for one in todo if one.part == part)
        shard = next(wanted, None)
        for entry in read_list(lists / list_file(part, "openimages"), "openimages", classes):
            if shard and entry.line >= shard.first + shard.lines:
                shard = next(wanted, None)
            if shard is None:
                break
            if entry.line >= shard.first:
                yield Task(part, shard.number, entry)


def _write_results(path: Path, results: Iterable[tuple[Task, Outcome]], advance: Callable[[], object]) -> None:
    """One shard, then its ledger, from its lines' outcomes in list order."""
    rows, samples = [], []
    for task, outcome in results:
        key, entry, image = key_of(task.part, task.entry.line), task.entry, outcome.image
        row = Row(entry.line, entry.source, key, outcome.reason, outcome.http_status, attempts=outcome.attempts)
        if image:
            row = row._replace(bytes=len(image.body), sha256=hashlib.sha256(image.body).hexdigest(),
                               width=image.width, height=image.height)
            samples.append(Sample(key, image.extension, image.body, entry.source, entry.labels))
        rows.append(row)
        advance()
    write_shard(path, samples)
    write_ledger(ledger_path(path), rows)


def _summarise(finished: Path, manifest: Mapping[str, Any]) -> dict[str, int]:
    """Write the reasons of each part as a table and the totals as JSON; returns the images in each shard."""
    reasons: Counter[tuple[str, Reason]] = Counter()
    records: dict[str, int] = {}
    attempts = total_bytes = 0
    for path in sorted(finished.glob("*/*.ledger.csv")):
        rows = list(read_ledger(path))
        images = sum(row.reason is Reason.OK for row in rows)
        records[f"{path.parent.name}/{path.name}"] = len(rows)
        records[f"{path.parent.name}/{path.name.partition('.')[0]}.tar"] = images
        reasons.update((path.parent.name, row.reason) for row in rows)
        attempts += sum(row.attempts for row in rows)
        total_bytes += sum(row.bytes for row in rows)
    write_csv(finished / REASONS, ("part", "reason", "lines", "meaning"),
              [(part, reason, reasons[part, reason], reason.meaning)
               for part in PARTS for reason in Reason if reasons[part, reason]])
    images = sum(reasons[part, Reason.OK] for part in PARTS)
    lines = sum(_lines(manifest, part) for part in PARTS)
    write_json(finished / SUMMARY, {"lines": lines, "images": images, "share_ok": round(images / max(lines, 1), 4),
                                    "attempts": attempts, "bytes": total_bytes})
    return records
