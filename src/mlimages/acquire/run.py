"""Collect the four lists and the class dictionary, check every line, and publish them in canonical form."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlimages.acquire import formats, sources
from mlimages.acquire.check_lists import REJECTED_COLUMNS, ListChecker
from mlimages.acquire.duplicates import SHARED_COLUMNS, shared_sources
from mlimages.acquire.formats import ListFile
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.acquire.selection import Selection
from mlimages.acquire.sources import FileStats
from mlimages.acquire.statistics import CLASS_COLUMNS, ListStatistics, class_rows, summarise
from mlimages.core import scratch
from mlimages.core.errors import UserError, check_space
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import atomic_write, publish, write_csv, write_json


def acquire(params: Acquire, machine: Machine, *, out: str | Path = "data/lists") -> Path:
    """Publish the lists of `params.source` in `out`, with class counts, statistics and the rejected lines.

    A list that the source lacks is published empty. Raises UserError, naming file and line, if a list is empty, if the
    dictionary is damaged, if more than `malformed_fraction` of a list is malformed, or if a part has no image left.
    Then nothing is published.
    """
    key = scratch.key(params, stage="acquire")
    with scratch.workspace("acquire", machine, key, out, scratch.settings(params)) as work:
        raw = sources.collect(params, machine, work)
        scanned = sources.scan_files(raw)
        checked = work / "out"
        check_space(checked, sum(stats.bytes for stats in scanned.values()), "the checked lists")
        tree = read_tree(raw / formats.DICTIONARY)
        differences = sources.release_differences(scanned, tree) if params.source == "folder" else {}
        for difference in differences.values():
            print(f"WARNING: {difference}; if you did not mean to use a part of the list, fetch it again")
        lists = _check_lists(raw, scanned, work, tree, params, machine)
        write_csv(checked / formats.REJECTED, REJECTED_COLUMNS, _all_rejected(work))
        _check_parts(lists, params)
        write_csv(checked / formats.CLASSES, CLASS_COLUMNS, class_rows(tree, lists))
        shared = _write_overlap(work, Selection(params, tree), Path(out))
        write_json(checked / formats.STATISTICS, {**summarise(tree, lists), "in_train_and_val": shared})
        for name in [formats.DICTIONARY] + [formats.ARCHIVE] * (params.source == "demo"):
            with (raw / name).open("rb") as source, atomic_write(checked / name) as copy:
                shutil.copyfileobj(source, copy)
        publish(checked, out, stage="acquire",
                records={name: statistics.taken for name, statistics in lists.items()}, source=params.source,
                classes=len(tree), unlike_release=differences,
                raw={name: stats._asdict() for name, stats in scanned.items()}, **sources.origins(raw))
    return Path(out)


def _check_lists(raw: Path, scanned: Mapping[str, FileStats], work: Path, tree: ClassTree, params: Acquire,
                 machine: Machine) -> dict[str, ListStatistics]:
    """Write the canonical lists and their rejected lines. A list that an earlier run finished is not checked again.

    The note of a list is written last. It holds the list's statistics and the sha256 of the dictionary and the list.
    """
    selection, lists = Selection(params, tree), {}
    for listed in formats.LISTS:
        name = listed.name
        hashes = [scanned[file].sha256 for file in (formats.DICTIONARY, name) if file in scanned]
        note, target = work / "notes" / f"{name}.json", work / "out" / name
        finished = json.loads(note.read_text()) if note.exists() else {}
        if finished.get("of") == hashes and target.exists() and _digests_path(work, name).exists():
            lists[name] = ListStatistics.from_json(listed, finished["statistics"])
            continue
        note.unlink(missing_ok=True)
        if name in scanned:
            checker = ListChecker(raw / name, scanned[name].lines, listed, selection, len(tree),
                                  unlabelled=params.table.unlabelled)
            write_csv(_rejected_path(work, name), REJECTED_COLUMNS,
                      checker.write(target, _digests_path(work, name), params, machine))
            lists[name] = checker.statistics
        else:
            lists[name] = _write_empty(work, target, listed, len(tree))
        write_json(note, {"of": hashes, "statistics": lists[name].to_json()})
    return lists


def _write_empty(work: Path, target: Path, listed: ListFile, classes: int) -> ListStatistics:
    write_csv(_rejected_path(work, listed.name), REJECTED_COLUMNS, [])
    for path in (target, _digests_path(work, listed.name)):
        with atomic_write(path):
            pass
    return ListStatistics(listed, classes)


def _write_overlap(work: Path, selection: Selection, out: Path) -> Counter[str]:
    """Write the images that are in both parts of an origin, and warn of them. Returns their number by validation list.
    """
    shared: list[tuple[str, str]] = []
    for origin in formats.ORIGINS:
        train, val = (formats.list_file(part, origin) for part in formats.PARTS)
        digests = _digests_path(work, train), _digests_path(work, val)
        shared += [(val, source) for source in shared_sources(*digests, work / "out" / val, selection)]
    write_csv(work / "out" / formats.OVERLAP, SHARED_COLUMNS, shared)
    first = dict(reversed(shared))
    counts = Counter(name for name, _ in shared)
    for name, images in counts.items():
        print(f"WARNING: {images:,} images of {name} are also in the training list, such as {first[name]}. Metrics on "
              f"them say nothing about unseen images. {out / formats.OVERLAP} names all of them")
    return counts


def _digests_path(work: Path, name: str) -> Path:
    """The file with the digests of a list's sources."""
    return work / "notes" / f"{name}.sources"


def _rejected_path(work: Path, name: str) -> Path:
    return work / "notes" / f"{name}.rejected.csv"


def _all_rejected(work: Path) -> Iterator[list[str]]:
    for listed in formats.LISTS:
        with _rejected_path(work, listed.name).open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows)
            yield from rows


def _check_parts(lists: Mapping[str, ListStatistics], params: Acquire) -> None:
    for part in formats.PARTS:
        if not any(lists[listed.name].taken for listed in formats.LISTS if listed.part == part):
            raise UserError(f"no line of the part `{part}` is left: acquire.source = {params.source}, acquire.sample = "
                            f"{params.sample}, acquire.classes = {params.classes}; set sample and classes so that they "
                            f"select more")
