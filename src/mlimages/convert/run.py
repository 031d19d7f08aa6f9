"""Turn the downloaded shards and ImageNet's archive into mixed TFRecord shards."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mlimages import scratch
from mlimages.acquire import formats
from mlimages.acquire.formats import DICTIONARY, PARTS, Part, list_file, read_list
from mlimages.acquire.hierarchy import read_tree
from mlimages.convert import imagenet, records
from mlimages.convert import images as jpegs
from mlimages.convert.imagenet import index_archive
from mlimages.convert.images import Undecodable, to_jpeg
from mlimages.download import shards
from mlimages.download.shards import Member, index_shard
from mlimages.engine import ordered_map
from mlimages.errors import UserError
from mlimages.params import Convert, Machine
from mlimages.progress import progress
from mlimages.publish import atomic, publish, verify, write_csv, write_json

THIS = sys.modules[__name__]

FAILURES = "failures.csv"
MISSING = "missing.csv"
CLASSES = "classes.csv"
SUMMARY = "summary.json"


class Coverage(NamedTuple):
    """How many ImageNet ids the list names, and which of them the archive lacks."""

    listed: int
    missing: list[str]


class Unit(NamedTuple):
    """A record shard to write: its name and the images that go into it, in order."""

    name: str
    members: list[Member]


def convert(params: Convert, machine: Machine, *, lists: str | Path = "data/lists",
            images: str | Path = "data/images", out: str | Path = "data/tfrecords") -> Path:
    """Publish `train-*` and `val-*` record shards, the images left out with their reasons, and counts by class.

    Training records are mixed over the shards by `params.seed`; validation records stay in list order. Raises
    UserError for missing or damaged inputs, and where no image at all is left of a part.
    """
    classes = verify(lists, "acquire")["classes"]
    verify(images, "download")
    members, coverage = _collect(params, Path(lists), Path(images), classes)
    key = scratch.key(params, inputs=[lists, images], code=[THIS, formats, records, imagenet, shards, jpegs])
    with scratch.workspace("convert", machine, f"{key}-{_digest(members)}", out) as work:
        finished, notes = work / "out", work / "notes"
        units = [unit for part in PARTS for unit in _units(params, part, members[part])]
        todo = [unit for unit in units if not (notes / f"{unit.name}.json").exists()]
        total, left = (sum(len(unit.members) for unit in some) for some in (units, todo))
        with progress("convert", total=total, done=total - left, unit=" images", machine=machine) as bar:
            for _ in ordered_map(lambda unit: _write_unit(unit, finished, notes, params.quality, bar.update), todo,
                                 workers=machine.workers, window=2 * machine.workers):
                pass
        counts = _summarise(units, finished, notes, coverage, read_tree(Path(lists) / DICTIONARY).names)
        publish(finished, out, verb="convert", records=counts, classes=classes)
    return Path(out)


def _collect(params: Convert, lists: Path, downloaded: Path,
             classes: int) -> tuple[dict[Part, list[Member]], dict[Part, Coverage]]:
    """All images that there are, and of the ImageNet ids how many are in the archive."""
    archive = Path(params.imagenet) if params.imagenet else None
    places = index_archive(archive) if archive else {}
    members: dict[Part, list[Member]] = {}
    coverage: dict[Part, Coverage] = {}
    for part in PARTS:
        members[part], missing, listed = [], [], 0
        for entry in read_list(lists / list_file(part, "imagenet"), "imagenet", classes) if archive else ():
            listed += 1
            if entry.source in places:
                key = f"{part}-imagenet-{entry.line:08d}"
                members[part].append(Member(key, Path(str(archive)), *places[entry.source], entry.source, entry.labels))
            else:
                missing.append(entry.source)
        for shard in sorted((downloaded / part).glob("*.tar")):
            members[part] += index_shard(shard)
        coverage[part] = Coverage(listed, missing)
        if not members[part]:
            raise UserError(f"no image for the part `{part}`: {downloaded}/{part} holds none, and convert.imagenet = "
                            f"{params.imagenet} none of {lists / list_file(part, 'imagenet')}")
    return members, coverage


def _digest(members: Mapping[Part, list[Member]]) -> str:
    """8 hex digits of where every image lies: another archive is another result."""
    text = "\n".join(f"{one.key} {one.offset} {one.size}" for part in PARTS for one in members[part])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _units(params: Convert, part: Part, members: list[Member]) -> Iterator[Unit]:
    count = params.train_shards if part == "train" else params.val_shards
    order = np.arange(len(members))
    if part == "train":
        order = np.random.default_rng(params.seed).permutation(len(members))
    for index, chosen in enumerate(np.array_split(order, count)):
        yield Unit(records.shard_name(part, index, count), [members[position] for position in chosen])


def _write_unit(unit: Unit, finished: Path, notes: Path, quality: int, advance: Callable[[], object]) -> None:
    """One record shard; then its note, which marks it finished: its failures and its images of each class."""
    failures: list[tuple[str, str, str]] = []
    of_class: Counter[int] = Counter()
    with atomic(finished / unit.name) as file, tf.io.TFRecordWriter(file.name) as writer:
        for member in unit.members:
            try:
                jpeg = to_jpeg(member.read(), quality)
                writer.write(records.serialize(jpeg, member.labels, filename=member.source, key=member.key))
                of_class.update(member.labels.classes)
            except Undecodable as error:
                failures.append((member.key, member.source, str(error)))
            advance()
    write_json(notes / f"{unit.name}.json", {"failures": failures, "of_class": of_class,
                                             "records": len(unit.members) - len(failures)})


def _summarise(units: list[Unit], finished: Path, notes: Path, coverage: Mapping[Part, Coverage],
               names: tuple[str, ...]) -> dict[str, int]:
    """Write failures, counts by class and the summary; returns the records of each shard."""
    written = {unit.name: json.loads((notes / f"{unit.name}.json").read_text()) for unit in units}
    of_class = {part: Counter[str]() for part in PARTS}
    for name, note in written.items():
        of_class["train" if name.startswith("train-") else "val"].update(note["of_class"])
    write_csv(finished / FAILURES, ("key", "source", "reason"),
              [failure for note in written.values() for failure in note["failures"]])
    write_csv(finished / MISSING, ("part", "id"), [(part, one) for part in PARTS for one in coverage[part].missing])
    write_csv(finished / CLASSES, ("class", "train_records", "val_records", "name"),
              [(index, *(of_class[part][str(index)] for part in PARTS), name.split(",")[0])
               for index, name in enumerate(names)])
    write_json(finished / SUMMARY, {
        **{part: {"records": sum(note["records"] for name, note in written.items() if name.startswith(part)),
                  "bytes": sum((finished / name).stat().st_size for name in written if name.startswith(part)),
                  "imagenet_listed": coverage[part].listed, "imagenet_missing": len(coverage[part].missing)}
           for part in PARTS},
        "failures": sum(len(note["failures"]) for note in written.values())})
    return {name: note["records"] for name, note in written.items()}
