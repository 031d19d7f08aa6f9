"""Bring the four lists and the class dictionary in, check every line, and publish them in canonical form."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlimages.acquire import formats, overlap, sources
from mlimages.acquire.check_lists import REJECTED_COLUMNS, ListChecker
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.acquire.selection import Selection
from mlimages.acquire.sources import FileStats
from mlimages.acquire.statistics import CLASS_COLUMNS, ListStatistics, class_rows, summarise
from mlimages.core import scratch
from mlimages.core.disk import check_room
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import atomic, publish, write_csv, write_json


def acquire(params: Acquire, machine: Machine, *, out: str | Path = "data/lists") -> Path:
    """Publish the lists of `params.source` in `out`, with class counts, statistics and the lines that were refused.

    A list that the source lacks is published without lines. Raises UserError, naming file and line, for an empty
    list, a damaged dictionary, a list of which more than `malformed_fraction` is malformed, and where no image of a
    part is left. Nothing is published then.
    """
    key = scratch.key(params, stage="acquire")
    with scratch.workspace("acquire", machine, key, out) as work:
        raw = sources.collect(params, machine, work)
        scanned = sources.scan_files(raw)
        checked = work / "out"
        check_room(checked, sum(one.bytes for one in scanned.values()), "the checked lists")
        tree = read_tree(raw / formats.DICTIONARY)
        unlike = sources.release_differences(scanned, tree) if params.source == "folder" else {}
        for what in unlike.values():
            print(f"WARNING: {what}; unless it is a part on purpose, fetch it again")
        lists = _check_lists(raw, scanned, work, tree, params, machine)
        write_csv(checked / formats.REJECTED, REJECTED_COLUMNS, _all_refused(work))
        _check_parts(lists, params)
        write_csv(checked / formats.CLASSES, CLASS_COLUMNS, class_rows(tree, lists))
        shared = _in_train_and_val(work, Selection(params, tree))
        write_csv(checked / formats.OVERLAP, overlap.COLUMNS, shared)
        counts = Counter(name for name, _ in shared)
        for name, images in counts.items():
            print(f"WARNING: {images:,} images of {name} are in the training list, too, such as "
                  f"{next(source for one, source in shared if one == name)}; what is measured on them is no "
                  f"validation. {out}/{formats.OVERLAP} names all of them")
        write_json(checked / formats.STATISTICS, {**summarise(tree, lists), "in_train_and_val": counts})
        for name in [formats.DICTIONARY] + [formats.ARCHIVE] * (params.source == "demo"):
            with (raw / name).open("rb") as source, atomic(checked / name) as copy:
                shutil.copyfileobj(source, copy)
        publish(checked, out, verb="acquire", records={name: one.taken for name, one in lists.items()},
                source=params.source, classes=len(tree), unlike_release=unlike,
                raw={name: one._asdict() for name, one in scanned.items()})
    return Path(out)


def _check_lists(raw: Path, scanned: Mapping[str, FileStats], work: Path, tree: ClassTree, params: Acquire,
                 machine: Machine) -> dict[str, ListStatistics]:
    """Write the canonical lists, and what was refused of each; a list that an earlier run finished is left as it is.

    A list's note is written last: the statistics, and the sha256 of the dictionary and of the list they are of. A list
    that has gone since is checked anew.
    """
    choice, lists = Selection(params, tree), {}
    for one in formats.LISTS:
        of = [scanned[name].sha256 for name in (formats.DICTIONARY, one.name) if name in scanned]
        note, target = work / "notes" / f"{one.name}.json", work / "out" / one.name
        known = json.loads(note.read_text()) if note.exists() else {}
        if known.get("of") == of and target.exists() and _sources(work, one.name).exists():
            lists[one.name] = ListStatistics.from_json(one, known["statistics"])
            continue
        note.unlink(missing_ok=True)
        if one.name in scanned:
            check = ListChecker(raw / one.name, scanned[one.name].lines, one, choice, len(tree))
            refused = check.write(target, _sources(work, one.name), params, machine)
            write_csv(_refused(work, one.name), REJECTED_COLUMNS, refused)
            lists[one.name] = check.statistics
        else:
            write_csv(_refused(work, one.name), REJECTED_COLUMNS, [])
            with atomic(target):
                pass
            _sources(work, one.name).write_bytes(b"")
            lists[one.name] = ListStatistics(one, len(tree))
        write_json(note, {"of": of, "statistics": lists[one.name].to_json()})
    return lists


def _in_train_and_val(work: Path, choice: Selection) -> list[tuple[str, str]]:
    """The images of the validation lists that are in the training list of the same origin: (validation list, source).
    """
    found = []
    for origin in formats.ORIGINS:
        train, val = (formats.list_file(part, origin) for part in formats.PARTS)
        digests = overlap.shared_digests(_sources(work, train), _sources(work, val))
        found += [(val, source) for source in overlap.sources_of(digests, work / "out" / val, choice)]
    return found


def _sources(work: Path, name: str) -> Path:
    """Where the digests of a list's sources are kept."""
    return work / "notes" / f"{name}.sources"


def _refused(work: Path, name: str) -> Path:
    return work / "notes" / f"{name}.refused.csv"


def _all_refused(work: Path) -> Iterator[list[str]]:
    for one in formats.LISTS:
        with _refused(work, one.name).open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            next(rows)
            yield from rows


def _check_parts(lists: Mapping[str, ListStatistics], params: Acquire) -> None:
    for part in formats.PARTS:
        if not any(lists[one.name].taken for one in formats.LISTS if one.part == part):
            raise UserError(f"no line of the part `{part}` is left of the lists of acquire.source = {params.source}; "
                            f"let acquire.sample = {params.sample}, acquire.classes = {params.classes} take more")
