"""A table of all images on the disk: where the bytes and the labels of each image are.

The labels are in the download shard, behind the image, or in the ImageNet list. A row has 28 bytes, so the table of
17.6 million images takes 0.5 GB of scratch. Making it takes 8 bytes of memory for each image.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlimages.acquire.formats import PARTS, ListEntry, Part, line_offsets, list_file, read_list
from mlimages.convert.imagenet import Archive
from mlimages.core.errors import UserError, rebuild_hint, required_space
from mlimages.core.publish import atomic_write, write_json
from mlimages.download.shards import Place, Sample, places, read_sample

# Of a downloaded image, `facts` is the size of its JSON, and `line` is 0. Of an image from ImageNet, `line` is the
# number of its line in the list, and `facts` the offset of that line. An `offset` of 0 means a file of its own.
ROW = np.dtype([("file", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("facts", "<u8"), ("line", "<u4")])
BATCH = 65_536  # rows
MISSING, TABLE = "missing.csv", "table.json"


@dataclass(frozen=True)
class ArchiveCoverage:
    """How many ImageNet ids the lists name, and how many of them the archive lacks, by part.

    By class, over both parts: how many listed ids name the class, and how many of those the archive has.
    """

    listed: dict[Part, int]
    missing: dict[Part, int]
    class_listed: list[int]
    class_found: list[int]


@dataclass(frozen=True)
class ImageTable:
    """The table in `folder`, which has a file of rows for each part.

    `files` are the files that hold images; the first `archived` of them are ImageNet's. `lists` is the folder of the
    lists, and `classes` their number of classes.
    """

    folder: str
    lists: str
    classes: int
    files: list[str]
    archived: int

    def rows(self, part: Part) -> np.ndarray:
        """The rows of a part in the order of the records, ROW [images], mapped into memory."""
        path = _rows_path(Path(self.folder), part)
        return np.memmap(path, ROW, "r") if path.stat().st_size else np.zeros(0, ROW)

    def read(self, part: Part, row: np.void) -> Sample:
        """Read an image with its key, source and labels. Raises UserError if the archive has changed."""
        path = Path(self.files[row["file"]])
        if row["file"] >= self.archived:
            return read_sample(path, Place(int(row["offset"]), int(row["size"]), int(row["facts"])))
        entry = next(read_list(Path(self.lists) / list_file(part, "imagenet"), "imagenet", self.classes,
                               int(row["line"]), int(row["facts"])))
        in_tar = bool(row["offset"])
        place = path if in_tar else path / entry.source
        try:
            with place.open("rb") as file:
                if in_tar:
                    file.seek(row["offset"])
                body = file.read(row["size"] if in_tar else -1)
        except OSError as error:
            raise _changed_error(place, str(error.strerror)) from None
        if len(body) < row["size"]:
            raise _changed_error(place, f"it ends after {len(body):,} of the {row['size']:,} bytes of {entry.source}")
        return Sample(f"{part}-imagenet-{entry.line:08d}", "jpg", body, entry.source, entry.labels)


def _changed_error(place: Path, problem: str) -> UserError:
    """The error to raise for a file of the archive that has changed since the index was built."""
    return UserError(f"{place}: {problem}, but it was there when convert.imagenet was indexed; put it back, or "
                     f"{rebuild_hint('convert')}")


def shard_paths(images: str | Path, manifest: Mapping[str, Any]) -> dict[Part, list[Path]]:
    """The download shards of each part, in order, that the manifest of data/images names."""
    return {part: [Path(images) / name for name in sorted(manifest["files"])
                   if name.startswith(f"{part}/") and name.endswith(".tar")] for part in PARTS}


def open_table(folder: Path, *, lists: Path, shards: Mapping[Part, list[Path]], classes: int, archive: Archive | None,
               seed: int, lines: int) -> tuple[ImageTable, ArchiveCoverage]:
    """Open the table in `folder`. The first call makes it, and missing.csv, the listed ids that the archive lacks.

    `seed` shuffles the training images; validation images stay in list order. `lines` is the number of lines of all
    lists. Raises UserError if the disk has no room for two copies of the rows, which shuffling needs.
    """
    path = folder / TABLE
    if not path.exists():
        with required_space(folder, 2 * ROW.itemsize * lines, f"a table of {lines:,} images"):
            _make(folder, lists, shards, classes, archive, seed)
    content = json.loads(path.read_text())
    return ImageTable(**content["table"]), ArchiveCoverage(**content["coverage"])


def _make(folder: Path, lists: Path, shards: Mapping[Part, list[Path]], classes: int, archive: Archive | None,
          seed: int) -> None:
    archived = list(archive.files) if archive else []
    files = [*archived, *shards["train"], *shards["val"]]
    number = {file: index for index, file in enumerate(files)}
    table = ImageTable(str(folder), str(lists), classes, [str(file) for file in files], len(archived))
    coverage = ArchiveCoverage(dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0), [0] * classes, [0] * classes)
    with atomic_write(folder / MISSING) as missing:
        missing.write(b"part,id\n")
        for part in PARTS:
            with atomic_write(_listed_path(folder, part)) as rows:
                if archive:
                    _from_archive(table, part, archive, rows, missing, coverage)
                for shard in shards[part]:
                    rows.write(_from_shard(shard, number[shard]).tobytes())
            shuffle(folder, part, seed)
    write_json(folder / TABLE, {"table": vars(table), "coverage": vars(coverage)})


def _from_archive(table: ImageTable, part: Part, archive: Archive, rows: BinaryIO, missing: BinaryIO,
                  coverage: ArchiveCoverage) -> None:
    """Write the rows of a part's ImageNet ids, in list order, and the ids that the archive lacks."""
    path = Path(table.lists) / list_file(part, "imagenet")
    lines = zip(read_list(path, "imagenet", table.classes), line_offsets(path), strict=True)
    class_listed, class_found = (np.zeros(table.classes, np.int64) for _ in range(2))
    while batch := list(islice(lines, BATCH)):
        found, places_found = archive.find([entry.source for entry, _ in batch])
        present = list(compress(batch, found))
        batch_rows = np.zeros(len(present), ROW)
        for name in ("file", "offset", "size"):
            batch_rows[name] = places_found[name]
        batch_rows["facts"], batch_rows["line"] = [at for _, at in present], [entry.line for entry, _ in present]
        rows.write(batch_rows.tobytes())
        missing.writelines(f"{part},{entry.source}\n".encode() for entry, _ in compress(batch, ~found))
        coverage.listed[part] += len(batch)
        coverage.missing[part] += len(batch) - len(present)
        class_listed += _per_class(batch, table.classes)
        class_found += _per_class(present, table.classes)
    for counts, new in ((coverage.class_listed, class_listed), (coverage.class_found, class_found)):
        counts[:] = (np.array(counts) + new).tolist()


def _per_class(lines: list[tuple[ListEntry, int]], classes: int) -> np.ndarray:
    indices = np.fromiter(chain.from_iterable(entry.labels.classes for entry, _ in lines), np.int64)
    return np.bincount(indices, minlength=classes)


def _from_shard(shard: Path, number: int) -> np.ndarray:
    """The rows of a download shard. `number` is its index in the table's files."""
    found = list(places(shard))
    rows = np.zeros(len(found), ROW)
    rows["file"] = number
    rows["offset"], rows["size"], rows["facts"] = np.array(found, np.uint64).reshape(-1, 3).T
    return rows


def shuffle(folder: Path, part: Part, seed: int) -> None:
    """Write the rows of a part in the order of the records, without loading them all."""
    listed = _listed_path(folder, part)
    if part == "train" and listed.stat().st_size:
        rows = np.memmap(listed, ROW, "r")
        order = np.random.default_rng(seed).permutation(len(rows))
        with atomic_write(_rows_path(folder, part)) as file:
            for first in range(0, len(order), BATCH):
                file.write(rows[order[first: first + BATCH]].tobytes())
        listed.unlink()
    else:
        listed.rename(_rows_path(folder, part))


def _listed_path(folder: Path, part: Part) -> Path:
    return folder / f"{part}.listed"


def _rows_path(folder: Path, part: Part) -> Path:
    return folder / f"{part}.rows"
