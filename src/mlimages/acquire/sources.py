"""Collect the lists and the dictionary from the demo, the tiny list, the full release, a folder, or a table."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlimages.acquire import demo_release
from mlimages.acquire.fetch_files import BY_HAND, Accept, fetch, fetch_from_drive
from mlimages.acquire.formats import DICTIONARY, LISTS, PARTS, list_file
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.acquire.tables.class_files import read_class_files
from mlimages.acquire.tables.files import class_files, table_files
from mlimages.acquire.tables.labels import split_label, split_last
from mlimages.acquire.tables.named_lists import count_classes, write_lists
from mlimages.acquire.tables.rows import write_named_lists
from mlimages.core import scratch
from mlimages.core.errors import UserError, check_space
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import atomic_write, sha256, write_json

RELEASE = "https://raw.githubusercontent.com/Tencent/tencent-ml-images/master/data/"
DRIVE = "https://drive.google.com/uc?id="
TINY = "train_urls_tiny.txt"


class ReleasedList(NamedTuple):
    """A released list on Google Drive: the id of its file and its number of lines."""

    drive_id: str
    lines: int


RELEASED_LISTS = {
    list_file("train", "imagenet"): ReleasedList("1-7x4wPa764MJkjhhNj0PWPhgwMJOXziA", 10_706_941),
    list_file("val", "imagenet"): ReleasedList("1-1x1vJFZGesz-5R2W8DLWHaVEbIPjuJs", 50_000),
    list_file("train", "openimages"): ReleasedList("1__HFVimF5yUwlyEjaUoSmBBfRQKJTYKW", 6_902_811),
    list_file("val", "openimages"): ReleasedList("1JkTcEEkB1zYI6NtAM-vXpsv7uDZ3glEz", 38_739),
}
TINY_LINES = 100
RELEASED_CLASSES, RELEASED_ROOTS = 11_166, 4
BYTES_PER_LINE = 160  # about the mean of the released lists
ORIGINS = "origins.json"  # beside lists that were made of other files: the sha256 of those
TINY_VAL_EVERY = 5  # every fifth line of the tiny list is for validation


class FileStats(NamedTuple):
    """The size and hash of a raw file."""

    sha256: str
    bytes: int
    lines: int


def collect(params: Acquire, machine: Machine, work: Path) -> Path:
    """Return a folder with the dictionary and the lists of `params.source`. It may lack some of the four lists."""
    if params.source == "demo":
        demo_release.write_release(work / "release", params.demo)
        return work / "release"
    if params.source == "table":
        return _from_table(params, machine, work / "raw")
    if params.source == "folder":
        return _from_folder(params, machine, work / "raw")
    with scratch.persistent_folder("acquire", machine, params.source) as raw:
        _fetch_missing(raw, DICTIONARY, _check_dictionary)
        if params.source == "tiny":
            _fetch_missing(raw, TINY, partial(_check_lines, TINY, TINY_LINES))
            _split_tiny(raw)
        else:
            missing = {name: one for name, one in RELEASED_LISTS.items() if not (raw / name).exists()}
            lines = sum(one.lines for one in missing.values())
            check_space(raw, BYTES_PER_LINE * lines, f"{len(missing)} released lists")
            for name, one in missing.items():
                fetch_from_drive(DRIVE + one.drive_id, raw / name, partial(_check_lines, name, one.lines), machine)
        return raw


def origins(raw: Path) -> dict[str, Any]:
    """For the manifest, the sha256 of the files from which the lists in `raw` were made; empty for the user's own."""
    note = raw / ORIGINS
    return {"made_from": json.loads(note.read_text())} if note.is_file() else {}


def scan_files(raw: Path) -> dict[str, FileStats]:
    """Scan the dictionary and the lists of a folder. Returns their stats by file name.

    Raises UserError if the dictionary or both lists of a part are missing.
    """
    if not (raw / DICTIONARY).is_file():
        raise UserError(f"{raw / DICTIONARY} is missing: the class dictionary; expected {DICTIONARY} beside the lists")
    for part in PARTS:
        names = [listed.name for listed in LISTS if listed.part == part]
        if not any((raw / name).is_file() for name in names):
            raise UserError(f"{' and '.join(str(raw / name) for name in names)} are missing; expected at least one of "
                            f"them there, for the part `{part}`")
    return {name: scan(raw / name) for name in [DICTIONARY, TINY, *(listed.name for listed in LISTS)]
            if (raw / name).is_file()}


def scan(path: Path) -> FileStats:
    """Hash a file and count its lines. Raises UserError if it is empty or a web page."""
    digest = hashlib.sha256()
    newlines = length = 0
    last = first = b""
    with path.open("rb") as file:
        while block := file.read(2**20):
            first = first or block
            digest.update(block)
            newlines += block.count(b"\n")
            length += len(block)
            last = block
    if not length:
        raise UserError(f"{path}: the list is empty; expected one image (or class) per line. If there is no such list, "
                        f"remove the file")
    if first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise UserError(f"{path} is a web page, not a list: it begins with {first[:100]!r}. Google Drive sends such "
                        f"pages when a download quota is used up or consent is needed; {BY_HAND}")
    return FileStats(digest.hexdigest(), length, newlines + (not last.endswith(b"\n")))


def release_differences(scanned: Mapping[str, FileStats], tree: ClassTree) -> dict[str, str]:
    """Describe, by name, the lists in a user's folder whose number of lines differs from the released one.

    Empty if the dictionary is not the released one.
    """
    if _shape(tree) != (RELEASED_CLASSES, RELEASED_ROOTS):
        return {}
    return {name: _difference(name, released.lines, scanned[name]) for name, released in RELEASED_LISTS.items()
            if name in scanned and scanned[name].lines != released.lines}


def _from_table(params: Acquire, machine: Machine, raw: Path) -> Path:
    """Write the lists of a table, and a dictionary of its labels, into `raw`."""
    files, classes = table_files(params), class_files(params)
    digests = _digests(params, [*files, *classes])
    if not _is_made(raw, digests):
        named = raw / "named"
        write_named_lists(params, files, named, machine)
        found = read_class_files(classes) if classes else \
            count_classes(named, split_last, params.table.min_images, machine)
        write_lists(named, raw, found, split_last, params.table, machine)
        shutil.rmtree(named)
        write_json(raw / ORIGINS, digests)
    return raw


def _from_folder(params: Acquire, machine: Machine, raw: Path) -> Path:
    """The user's folder. If it lacks the dictionary or the validation lists, write the lists with both into `raw`."""
    folder, classes = Path(params.folder), class_files(params)
    lists = [folder / listed.name for listed in LISTS if (folder / listed.name).is_file()]
    dictionary = folder / DICTIONARY
    has_dictionary, parts = dictionary.is_file(), {listed.part for listed in LISTS if folder / listed.name in lists}
    if "train" not in parts or (has_dictionary and "val" in parts):
        return folder
    for path in lists:
        scan(path)
    digests = _digests(params, [*lists, *(classes if not has_dictionary else [dictionary])])
    if not _is_made(raw, digests):
        found = None if has_dictionary else read_class_files(classes) if classes else \
            count_classes(folder, split_label, params.table.min_images, machine)
        if found and not classes and all(one.label.isdigit() for one in found):
            raise UserError(f"{dictionary} is missing: the class dictionary. The lists give classes by their numbers, "
                            f"such as {found[0].label}; expected {DICTIONARY} beside the lists, or names in them")
        write_lists(folder, raw, found, split_label, params.table, machine)
        write_json(raw / ORIGINS, digests)
    return raw


def _digests(params: Acquire, paths: list[Path]) -> dict[str, str]:
    """The sha256 of files in `acquire.folder`, by their path in it."""
    parent = params.folder if Path(params.folder).is_dir() else Path(params.folder).parent
    return {os.path.relpath(path, parent): sha256(path) for path in paths}


def _is_made(raw: Path, digests: Mapping[str, str]) -> bool:
    """Whether an earlier run has made the lists in `raw` from these files. Empties the folder otherwise."""
    note = raw / ORIGINS
    if note.is_file() and json.loads(note.read_text()) == digests:
        return True
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir()
    return False


def _fetch_missing(raw: Path, name: str, accept: Accept) -> None:
    if not (raw / name).exists():
        fetch(RELEASE + name, raw / name, accept)


def _check_lines(name: str, lines: int, path: Path) -> None:
    found = scan(path)
    if found.lines != lines:
        raise UserError(f"{_difference(name, lines, found)}; the file was removed: {BY_HAND}")


def _difference(name: str, lines: int, found: FileStats) -> str:
    return (f"{name}: expected {lines:,} lines, found {found.lines:,} in {found.bytes:,} bytes with the sha256 "
            f"{found.sha256}")


def _check_dictionary(path: Path) -> None:
    scan(path)
    classes, roots = found = _shape(read_tree(path))
    if found != (RELEASED_CLASSES, RELEASED_ROOTS):
        raise UserError(f"{DICTIONARY}: expected {RELEASED_CLASSES:,} classes and {RELEASED_ROOTS} roots, found "
                        f"{classes:,} and {roots}; the file was removed: {BY_HAND}")


def _shape(tree: ClassTree) -> tuple[int, int]:
    """The number of classes and of roots."""
    return len(tree), tree.parents.count(-1)


def _split_tiny(raw: Path) -> None:
    """Split the tiny list into a training and a validation list."""
    lines = (raw / TINY).read_bytes().split(b"\n")
    val = lines[TINY_VAL_EVERY - 1:: TINY_VAL_EVERY]
    del lines[TINY_VAL_EVERY - 1:: TINY_VAL_EVERY]
    for part, content in zip(PARTS, (lines, val), strict=True):
        with atomic_write(raw / list_file(part, "openimages")) as file:
            file.write(b"\n".join(content).rstrip(b"\n") + b"\n")
