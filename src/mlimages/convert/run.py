"""Turn the downloaded shards and ImageNet's archive into mixed TFRecord shards."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlimages.acquire import formats
from mlimages.acquire.formats import DICTIONARY, PARTS, Part
from mlimages.acquire.hierarchy import read_tree
from mlimages.convert import members, records, report, shard_writer
from mlimages.convert.class_index import class_index, class_index_path
from mlimages.convert.encode_image import to_jpeg
from mlimages.convert.imagenet import open_archive
from mlimages.convert.members import ImageTable, open_table
from mlimages.convert.report import Note, summarise
from mlimages.core import scratch
from mlimages.core.errors import UserError, required_space
from mlimages.core.parallel import map_units
from mlimages.core.params import Convert, Machine
from mlimages.core.progress import progress_bar
from mlimages.core.publish import atomic_write, publish, sha256, verify
from mlimages.download.shards import Sample
from mlimages.images.decode import Undecodable

# So many images tell how large a record is on average.
SAMPLED = 100


class ShardPlan(NamedTuple):
    """A record shard to write: the rows `first` to `last` - 1 of a part's table."""

    name: str
    part: Part
    first: int
    last: int


@dataclass(frozen=True)
class ConvertJob:
    """What all shards of a run have in common; with a ShardPlan, all that it takes to write one, in any process."""

    params: Convert
    table: ImageTable
    finished: str
    notes: str


def convert(params: Convert, machine: Machine, *, lists: str | Path = "data/lists",
            images: str | Path = "data/images", out: str | Path = "data/tfrecords") -> Path:
    """Publish `train-*` and `val-*` record shards with their indices, the images left out, and counts by class.

    Training records are mixed over the shards by `params.seed`; validation records stay in list order. Raises
    UserError for missing or damaged inputs, where no image at all is left of a part, and for a full disk.
    """
    listed = verify(lists, "acquire")
    downloaded = verify(images, "download", stamps=scratch.stamps(machine))
    archive = open_archive(Path(params.imagenet), machine) if params.imagenet else None
    key = scratch.key(params, inputs=[lists, images], stage="convert")
    if archive:
        key = f"{key}-{archive.fingerprint[:8]}"
    with scratch.workspace("convert", machine, key, out) as work:
        table, coverage = open_table(work / "table", lists=Path(lists), shards=members.shard_paths(images, downloaded),
                                     archive=archive, classes=listed["classes"], seed=params.seed,
                                     lines=sum(listed["files"][one.name]["records"] for one in formats.LISTS))
        job = ConvertJob(params, table, str(work / "out"), str(work / "notes"))
        units = _plan(job)
        _remove_others(job, units)
        _write(job, units, machine, work)
        counts, known = summarise([report.note_path(Path(job.notes), unit.name) for unit in units], coverage,
                                  table, Path(job.finished), read_tree(Path(lists) / DICTIONARY))
        _check_parts(job, units, counts)
        publish(Path(job.finished), out, stage="convert", records=counts, digests=known, classes=table.classes,
                labels=params.labels)
    return Path(out)


def _plan(job: ConvertJob) -> list[ShardPlan]:
    """The shards of both parts; UserError where a part has no image."""
    units = []
    for part in PARTS:
        count = len(job.table.rows(part))
        if not count:
            raise UserError(f"no image for the part `{part}`: data/images has none, and convert.imagenet = "
                            f"{job.params.imagenet} none of {formats.list_file(part, 'imagenet')}")
        shards_of_part = _shards(job, part)
        ends = [count * number // shards_of_part for number in range(shards_of_part + 1)]
        units += [ShardPlan(records.shard_name(part, number, shards_of_part), part, *ends[number: number + 2])
                  for number in range(shards_of_part)]
    return units


def _shards(job: ConvertJob, part: Part) -> int:
    number = job.params.train_shards if part == "train" else job.params.val_shards
    mib = job.params.shard_mib or 1  # never 1 here where it counts: params.py sees to it that one of the two is there
    return number or max(1, round(_expected_bytes(job, part) / (mib * 2**20)))


def _expected_bytes(job: ConvertJob, part: Part) -> float:
    """How many bytes the records of a part will have, by those of some images from all over the part."""
    rows = job.table.rows(part)
    some = [rows[position] for position in np.unique(np.linspace(0, len(rows) - 1, SAMPLED).astype(int))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(partial(_bytes, job, part), some)) / len(some) * len(rows)


def _bytes(job: ConvertJob, part: Part, row: np.void) -> int:
    """How many an image takes in its shard."""
    try:
        return len(_record(job, job.table.read(part, row))) + records.HEADER_BYTES + records.FOOTER_BYTES
    except Undecodable:
        return 0


def _remove_others(job: ConvertJob, units: list[ShardPlan]) -> None:
    """Remove the shards of an earlier run that planned another number of them, and whatever else is not planned."""
    planned = {one.name for unit in units for one in _files(job, unit)}
    for path in Path(job.finished).rglob("*"):
        if path.is_file() and path.name not in planned:
            path.unlink()


def _files(job: ConvertJob, unit: ShardPlan) -> tuple[Path, Path, Path]:
    """A record shard, its index, and its index from classes to records."""
    path = Path(job.finished) / unit.name
    return path, records.index_path(path), class_index_path(path)


def _write(job: ConvertJob, units: list[ShardPlan], machine: Machine, work: Path) -> None:
    """Write the shards that an earlier run has not finished, or that are no longer there."""
    todo = [unit for unit in units
            if not report.is_finished(report.note_path(Path(job.notes), unit.name), Path(job.finished))]
    if not todo:
        return
    left, total = (sum(unit.last - unit.first for unit in some) for some in (todo, units))
    expected = sum(_expected_bytes(job, part) for part in PARTS)
    with (required_space(work, round(expected * left / total), f"converting {left:,} images"),
          progress_bar("convert", total=total, done=total - left, unit=" images", machine=machine) as bar):
        for unit in map_units(partial(write_unit, job), todo, machine=machine, ahead=2):
            bar.update(unit.last - unit.first)


def write_unit(job: ConvertJob, unit: ShardPlan) -> ShardPlan:
    """One record shard; then its note, which marks it finished: its failures and its images of each class."""
    failures: list[tuple[str, str, str, str]] = []
    named: list[tuple[int, ...]] = []
    files = _files(job, unit)
    with shard_writer.open_shard(files[0]) as add:
        for row in job.table.rows(unit.part)[unit.first: unit.last]:
            sample = job.table.read(unit.part, row)
            try:
                add(_record(job, sample), sample.key)
            except Undecodable as error:
                failures.append((sample.key, sample.url, error.reason, error.detail))
            else:
                named.append(sample.labels.classes)
    index = class_index(named, job.table.classes)
    with atomic_write(files[2]) as file:
        np.save(file, index, allow_pickle=False)
    of_class = np.diff(index[: job.table.classes + 1].astype(int))
    note = Note(unit.name, unit.part, unit.last - unit.first - len(failures), sum(one.stat().st_size for one in files),
                {one.name: sha256(one) for one in files}, failures, of_class.tolist())
    note.write(Path(job.notes))
    return unit


def _check_parts(job: ConvertJob, units: list[ShardPlan], counts: Mapping[str, int]) -> None:
    """UserError where all images of a part failed."""
    for part in PARTS:
        if not any(counts[unit.name] for unit in units if unit.part == part):
            raise UserError(f"no image of the part `{part}` is left: all {len(job.table.rows(part)):,} failed, as "
                            f"{Path(job.finished) / report.FAILURES} tells; mend convert.imagenet, or "
                            f"download other images, then run the same command again")


def _record(job: ConvertJob, sample: Sample) -> bytes:
    """The serialized record of an image; Undecodable where there can be none."""
    picture = to_jpeg(sample.body, quality=job.params.quality, shorter_side=job.params.shorter_side,
                      to_srgb=job.params.to_srgb)
    if job.params.labels == "dense":
        return records.serialize_dense(picture, sample.labels, filename=sample.url, classes=job.table.classes)
    return records.serialize(picture, sample.labels, filename=sample.url, key=sample.key)
