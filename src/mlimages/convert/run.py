"""The stage convert: write shuffled TFRecord shards from the downloaded shards and ImageNet's archive."""

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlimages.acquire import formats
from mlimages.acquire.formats import DICTIONARY, PARTS, Part
from mlimages.acquire.hierarchy import read_tree
from mlimages.convert import members, records, report, shard_writer
from mlimages.convert.class_index import class_index, class_index_path
from mlimages.convert.duplicates import find
from mlimages.convert.duplicates.fingerprints import fingerprint, write_fingerprints
from mlimages.convert.encode_image import to_jpeg
from mlimages.convert.imagenet import open_archive
from mlimages.convert.members import ImageTable, open_table
from mlimages.convert.report import Note, summarise
from mlimages.core import scratch
from mlimages.core.errors import UserError, required_space
from mlimages.core.parallel import map_units
from mlimages.core.params import Convert, Machine
from mlimages.core.progress import progress_bar
from mlimages.core.publish import atomic_write, publish, sha256, verify, write_csv
from mlimages.download.shards import Sample
from mlimages.images.decode import Undecodable

SAMPLED = 100  # images, to estimate the mean size of a record


class ShardPlan(NamedTuple):
    """A shard to write: the rows `first` to `last` - 1 of a part."""

    name: str
    part: Part
    first: int
    last: int


@dataclass(frozen=True)
class ConvertJob:
    """What all shards of a run have in common. It is pickled for processes on other machines.

    `finished` is the folder of the shards, and `notes` that of the notes on them. `dropped` are the keys of images that
    become no record, with the reason and its detail.
    """

    params: Convert
    table: ImageTable
    finished: str
    notes: str
    dropped: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def convert(params: Convert, machine: Machine, *, lists: str | Path = "data/lists",
            images: str | Path = "data/images", out: str | Path = "data/tfrecords") -> Path:
    """Publish `train-*` and `val-*` shards with their indices, the images that failed, and counts by class in `out`.

    `params.seed` shuffles the training records over all shards; validation records stay in list order.
    `params.imagenet` is needed only if the lists name images of ImageNet. Raises UserError for missing or damaged
    inputs, if no image of a part is left, and for a full disk.
    """
    listed = verify(lists, "acquire")
    downloaded = verify(images, "download", stamps=scratch.stamps(machine))
    records_of = {one: listed["files"][one.name]["records"] for one in formats.LISTS}
    with_imagenet = any(count for one, count in records_of.items() if one.origin == "imagenet")
    archive = open_archive(Path(params.imagenet), machine) if params.imagenet and with_imagenet else None
    key = scratch.key(params, inputs=[lists, images], stage="convert")
    if archive:
        key = f"{key}-{archive.fingerprint[:8]}"
    with scratch.workspace("convert", machine, key, out, scratch.settings(params, inputs=[lists, images])) as work:
        table, coverage = open_table(work / "table", lists=Path(lists), shards=members.shard_paths(images, downloaded),
                                     archive=archive, classes=listed["classes"], seed=params.seed,
                                     lines=sum(records_of.values()))
        job = ConvertJob(params, table, str(work / "out"), str(work / "notes"))
        units = _plan(job)
        _remove_others(job, units)
        found = _write_all(job, units, machine, work)
        counts, known = summarise([report.note_path(Path(job.notes), unit.name) for unit in units], coverage,
                                  table, Path(job.finished), read_tree(Path(lists) / DICTIONARY), found)
        _check_parts(job, units, counts)
        publish(Path(job.finished), out, stage="convert", records=counts, digests=known, classes=table.classes,
                labels=params.labels)
    return Path(out)


def _plan(job: ConvertJob) -> list[ShardPlan]:
    """Plan the shards of both parts. Raises UserError if a part has no image."""
    units = []
    for part in PARTS:
        count = len(job.table.rows(part))
        if not count:
            raise UserError(f"no image for the part `{part}`: data/images has none, and convert.imagenet = "
                            f"{job.params.imagenet} none of {formats.list_file(part, 'imagenet')}")
        shards = _shard_count(job, part)
        ends = [count * number // shards for number in range(shards + 1)]
        units += [ShardPlan(records.shard_name(part, number, shards), part, *ends[number: number + 2])
                  for number in range(shards)]
    return units


def _shard_count(job: ConvertJob, part: Part) -> int:
    count = job.params.train_shards if part == "train" else job.params.val_shards
    mib = job.params.shard_mib or 1  # `Convert` refuses null for both
    return count or max(1, round(_expected_bytes(job, part) / (mib * 2**20)))


def _expected_bytes(job: ConvertJob, part: Part) -> float:
    """Estimate the size of a part's records from SAMPLED images, evenly spread over the part."""
    rows = job.table.rows(part)
    sampled = [rows[position] for position in np.unique(np.linspace(0, len(rows) - 1, SAMPLED).astype(int))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(partial(_record_bytes, job, part), sampled)) / len(sampled) * len(rows)


def _record_bytes(job: ConvertJob, part: Part, row: np.void) -> int:
    """The size of an image's record in a shard; 0 if the image fails."""
    try:
        return len(_record(job, job.table.read(part, row))) + records.HEADER_BYTES + records.FOOTER_BYTES
    except Undecodable:
        return 0


def _remove_others(job: ConvertJob, units: list[ShardPlan]) -> None:
    """Remove files that are not planned, such as the shards of an earlier run with another number of shards."""
    planned = {one.name for unit in units for one in _files(job, unit)}
    for path in Path(job.finished).rglob("*"):
        if path.is_file() and path.name not in planned:
            path.unlink()


def _files(job: ConvertJob, unit: ShardPlan) -> tuple[Path, Path, Path]:
    """The files of a shard, its index, and its index from classes to records."""
    path = Path(job.finished) / unit.name
    return path, records.index_path(path), class_index_path(path)


def _write_all(job: ConvertJob, units: list[ShardPlan], machine: Machine, work: Path) -> dict[str, Any]:
    """Write the shards and the list of duplicates. Returns what the summary says of these; nothing without them.

    The validation images are fingerprinted before they are written, when the training images are known.
    """
    kind, by_part = job.params.duplicates, {part: [unit for unit in units if unit.part == part] for part in PARTS}
    if kind is None:
        _write(job, units, machine, work)
        return {}
    _write(job, by_part["train"], machine, work)
    unhashed = [unit for unit in by_part["val"] if not _fingerprints_path(job, unit).exists()]
    for _ in map_units(partial(_fingerprint_unit, job), unhashed, machine=machine, ahead=2):
        pass
    train, val = ([_fingerprints_path(job, unit) for unit in by_part[part]] for part in PARTS)
    duplicates = find.find_duplicates(train, val, near=kind == "near")
    if job.params.drop_val_duplicates:
        leaks = find.rows(duplicates.where(duplicates.in_train), train + val)
        job = replace(job, dropped={key: (f"{kind}_duplicate", f"of {original}") for kind, _, key, original in leaks})
    _write(job, by_part["val"], machine, work)
    write_csv(Path(job.finished) / find.DUPLICATES, find.COLUMNS, find.rows(duplicates, train + val))
    return {"duplicates": duplicates.counts()}


def _fingerprints_path(job: ConvertJob, unit: ShardPlan) -> Path:
    return Path(job.notes) / f"{unit.name}.fingerprints"


def _fingerprint_unit(job: ConvertJob, unit: ShardPlan) -> None:
    """Write the fingerprints of the images of a shard that decode."""
    found = []
    for row in job.table.rows(unit.part)[unit.first: unit.last]:
        sample = job.table.read(unit.part, row)
        with contextlib.suppress(Undecodable):
            found.append(fingerprint(sample.key, sample.body, near=job.params.duplicates == "near"))
    write_fingerprints(_fingerprints_path(job, unit), found)


def _write(job: ConvertJob, units: list[ShardPlan], machine: Machine, work: Path) -> None:
    """Write the shards that are not finished yet, or were removed since."""
    todo = [unit for unit in units
            if not report.is_finished(report.note_path(Path(job.notes), unit.name), Path(job.finished))]
    if not todo:
        return
    left, total = (sum(unit.last - unit.first for unit in group) for group in (todo, units))
    expected = sum(_expected_bytes(job, part) for part in {unit.part for unit in units})
    with (required_space(work, round(expected * left / total), f"converting {left:,} images"),
          progress_bar("convert", total=total, done=total - left, unit=" images", machine=machine) as bar):
        for unit in map_units(partial(write_unit, job), todo, machine=machine, ahead=2):
            bar.update(unit.last - unit.first)


def write_unit(job: ConvertJob, unit: ShardPlan) -> ShardPlan:
    """Write a shard, and then its note, which marks it as finished."""
    failures: list[tuple[str, str, str, str]] = []
    named: list[tuple[int, ...]] = []
    fingerprints: list[tuple[int, int, bytes]] = []
    hashed = job.params.duplicates if unit.part == "train" else None
    files = _files(job, unit)
    with shard_writer.open_shard(files[0]) as add:
        for row in job.table.rows(unit.part)[unit.first: unit.last]:
            sample = job.table.read(unit.part, row)
            if sample.key in job.dropped:
                failures.append((sample.key, sample.url, *job.dropped[sample.key]))
                continue
            try:
                add(_record(job, sample), sample.key)
                if hashed:
                    fingerprints.append(fingerprint(sample.key, sample.body, near=hashed == "near"))
            except Undecodable as error:
                failures.append((sample.key, sample.url, error.reason, error.detail))
            else:
                named.append(sample.labels.classes)
    if hashed:
        write_fingerprints(_fingerprints_path(job, unit), fingerprints)
    index = class_index(named, job.table.classes)
    with atomic_write(files[2]) as file:
        np.save(file, index, allow_pickle=False)
    of_class = np.diff(index[: job.table.classes + 1].astype(int))
    note = Note(unit.name, unit.part, unit.last - unit.first - len(failures), sum(one.stat().st_size for one in files),
                {one.name: sha256(one) for one in files}, failures, of_class.tolist())
    note.write(Path(job.notes))
    return unit


def _check_parts(job: ConvertJob, units: list[ShardPlan], counts: Mapping[str, int]) -> None:
    """Raise UserError if all images of a part failed."""
    for part in PARTS:
        if not any(counts[unit.name] for unit in units if unit.part == part):
            raise UserError(f"no image of the part `{part}` is left: all {len(job.table.rows(part)):,} failed, see "
                            f"{Path(job.finished) / report.FAILURES}; repair convert.imagenet, or download other "
                            f"images, then run the same command again")


def _record(job: ConvertJob, sample: Sample) -> bytes:
    """Serialize the record of an image. Raises Undecodable if the image is damaged or unsuitable."""
    jpeg = to_jpeg(sample.body, quality=job.params.quality, shorter_side=job.params.shorter_side,
                   to_srgb=job.params.to_srgb)
    if job.params.labels == "dense":
        return records.serialize_dense(jpeg, sample.labels, filename=sample.url, classes=job.table.classes)
    return records.serialize(jpeg, sample.labels, filename=sample.url, key=sample.key)
