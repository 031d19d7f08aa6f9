"""Notes on finished shards, and the tables and summary that the stage publishes from them."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlimages.acquire.formats import PARTS, Part
from mlimages.acquire.hierarchy import ClassTree
from mlimages.convert.members import MISSING, ArchiveCoverage, ImageTable
from mlimages.convert.records import CLASSES
from mlimages.core.publish import atomic_write, write_csv, write_json

FAILURES = "failures.csv"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Note:
    """A note on a finished shard. `bytes` is the size of the shard and its index together, `sha256` is of both.

    `failures` holds (key, source, reason, detail) of each refused image; `of_class` counts the images of each class.
    """

    name: str
    part: Part
    records: int
    bytes: int
    sha256: dict[str, str]
    failures: Sequence[tuple[str, str, str, str]]
    of_class: Sequence[int]

    def write(self, folder: Path) -> None:
        write_json(note_path(folder, self.name), vars(self))


def note_path(folder: Path, shard: str) -> Path:
    """The file of a shard's note."""
    return folder / f"{shard}.json"


def is_finished(note: Path, folder: Path) -> bool:
    """Whether the note exists, and `folder` holds the files that it names, with the size that it states."""
    if not note.exists():
        return False
    [found] = _read([note])
    files = [folder / name for name in found.sha256]
    return all(path.is_file() for path in files) and sum(path.stat().st_size for path in files) == found.bytes


def summarise(notes: Sequence[Path], coverage: ArchiveCoverage, table: ImageTable, finished: Path, tree: ClassTree,
              duplicates: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, str]]:
    """Write the failures, missing ids, counts by class and the summary, with `duplicates`, into the folder `finished`.

    Returns the number of records and the sha256 of each shard and index, by file name.
    """
    counts, known = {}, {}
    totals = {part: Counter(records=0, bytes=0) for part in PARTS}
    of_class = {part: np.zeros(len(tree), np.int64) for part in PARTS}
    reasons: Counter[str] = Counter()
    for note in _read(notes):
        known.update(note.sha256)
        counts.update(dict.fromkeys(note.sha256, note.records))
        totals[note.part].update(records=note.records, bytes=note.bytes)
        reasons.update(reason for _, _, reason, _ in note.failures)
        of_class[note.part] += np.array(note.of_class)
    write_csv(finished / FAILURES, ("key", "source", "reason", "detail"),
              (failure for note in _read(notes) for failure in note.failures))
    with atomic_write(finished / MISSING) as file, (Path(table.folder) / MISSING).open("rb") as missing:
        file.writelines(missing)
    columns = ("class", "wnid", "parent", "train_records", "val_records", "imagenet_listed", "imagenet_found", "name",
               "synonyms")
    write_csv(finished / CLASSES, columns,
              zip(range(len(tree)), tree.wnids, tree.parents, of_class["train"], of_class["val"],
                  coverage.class_listed, coverage.class_found, map(tree.label, range(len(tree))), tree.names,
                  strict=True))
    write_json(finished / SUMMARY, {
        **{part: {**totals[part], "imagenet_listed": coverage.listed[part], "imagenet_missing": coverage.missing[part]}
           for part in PARTS},
        "failures": reasons.total(), "failures_by_reason": dict(reasons), **duplicates})
    return counts, known


def _read(notes: Sequence[Path]) -> Iterator[Note]:
    for path in notes:
        yield Note(**json.loads(path.read_text()))
