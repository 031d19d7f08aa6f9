"""Bring the four lists and the class dictionary in, check every line, and publish them in canonical form."""

import hashlib
import shutil
import sys
from pathlib import Path

from mlimages import scratch
from mlimages.acquire import formats, hierarchy, statistics
from mlimages.acquire.formats import ListFile, MalformedLine
from mlimages.acquire.hierarchy import read_tree
from mlimages.acquire.statistics import CLASS_COLUMNS, ListStatistics, Statistics
from mlimages.demo import release, server, world
from mlimages.errors import UserError
from mlimages.params import Acquire, Machine
from mlimages.publish import atomic, publish, write_csv, write_json

THIS = sys.modules[__name__]


def acquire(params: Acquire, machine: Machine, *, out: str | Path = "data/lists") -> Path:
    """Publish the lists of `params.source` in `out`, with class counts, statistics and the lines that were refused.

    Raises UserError, naming file and line, for a missing or empty list, a damaged dictionary, or a list of which
    more than `malformed_fraction` is malformed. Nothing is published then.
    """
    key = scratch.key(params, code=[THIS, formats, hierarchy, statistics, release, server, world])
    with scratch.workspace("acquire", machine, key, out) as work:
        raw = _raw_folder(params, work)
        checked = work / "out"
        shutil.rmtree(checked, ignore_errors=True)
        tree = read_tree(raw / formats.DICTIONARY)
        gathered = Statistics(tree)
        refused = [row for one in formats.LISTS
                   for row in _check_list(raw, checked, one, gathered, params.malformed_fraction)]
        write_csv(checked / formats.REJECTED, ("list", "line", "reason"), refused)
        write_csv(checked / formats.CLASSES, CLASS_COLUMNS, gathered.class_rows())
        write_json(checked / formats.STATISTICS, gathered.summary())
        for name in [formats.DICTIONARY] + [formats.ARCHIVE] * (params.source == "demo"):
            shutil.copyfile(raw / name, checked / name)
        records = {name: one.taken for name, one in gathered.lists.items()}
        publish(checked, out, verb="acquire", records=records, source=params.source, classes=len(tree))
    return Path(out)


def _raw_folder(params: Acquire, work: Path) -> Path:
    if params.source == "demo":
        release.write_release(work / "release", params.demo)
        return work / "release"
    if params.folder is None:
        raise UserError("acquire.source is folder, but acquire.folder is null; expected the folder with "
                        + ", ".join([formats.DICTIONARY, *(one.name for one in formats.LISTS)]))
    return Path(params.folder)


def _check_list(raw: Path, checked: Path, one: ListFile, gathered: Statistics,
                malformed_fraction: float) -> list[tuple[str, int, str]]:
    """Write the canonical list to `checked`; returns the lines that were refused, with their reasons."""
    path = raw / one.name
    if not path.is_file():
        raise UserError(f"{path} is missing; expected one of the four lists there (acquire.folder)")
    of_list = gathered.lists[one.name] = ListStatistics()
    refused: list[tuple[str, int, str]] = []
    labels_of: dict[bytes, bytes] = {}
    with atomic(checked / one.name) as file:
        for number, line in formats.raw_lines(path):
            try:
                entry = formats.parse_line(line, number, one.origin, len(gathered.tree))
            except MalformedLine as error:
                refused.append((one.name, number, str(error)))
                continue
            text = formats.format_line(entry).encode()
            source, labels = (hashlib.blake2b(part, digest_size=8).digest() for part in text.split(b"\t", 1))
            if source in labels_of:
                of_list.repeated += 1
                of_list.conflicting += labels_of[source] != labels
                continue
            labels_of[source] = labels
            gathered.add(one, entry)
            file.write(text)
        of_list.malformed = len(refused)
        _judge(path, of_list, refused, malformed_fraction)
    return refused


def _judge(path: Path, of_list: ListStatistics, refused: list[tuple[str, int, str]], malformed_fraction: float) -> None:
    lines = of_list.taken + of_list.repeated + of_list.malformed
    if lines == 0:
        raise UserError(f"{path}: the list is empty; expected one image a line")
    if of_list.malformed > malformed_fraction * lines or of_list.taken == 0:
        _, number, reason = refused[0]
        raise UserError(f"{path}: {of_list.malformed} of {lines} lines are malformed, more than acquire."
                        f"malformed_fraction = {malformed_fraction:g} allows; the first is line {number}: {reason}")
