"""Where the lists and the dictionary come from: the demo, the tiny list, the full release, or a folder."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mlimages.acquire.fetch_files import BY_HAND, fetch, fetch_from_drive
from mlimages.acquire.formats import DICTIONARY, LISTS, PARTS, list_file
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.core import scratch
from mlimages.core.disk import check_room
from mlimages.core.errors import UserError
from mlimages.core.params import Acquire, Machine
from mlimages.core.publish import atomic
from mlimages.demo import release

RELEASE = "https://raw.githubusercontent.com/Tencent/tencent-ml-images/master/data/"
DRIVE = "https://drive.google.com/uc?id="
TINY = "train_urls_tiny.txt"


class ReleasedList(NamedTuple):
    """A list of the release on Google Drive: the id of the file, and how many lines it has."""

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
# About the mean over the released lists.
BYTES_PER_LINE = 160
# The tiny source has one list: of so many of its lines one is for validation.
TINY_VAL_EVERY = 5


class FileStats(NamedTuple):
    """A raw file as it was found."""

    sha256: str
    bytes: int
    lines: int


def collect(params: Acquire, machine: Machine, work: Path) -> Path:
    """The folder with the source's dictionary and those of the four lists that it has."""
    if params.source == "demo":
        release.write_release(work / "release", params.demo)
        return work / "release"
    if params.source == "folder":
        if params.folder is None:
            raise UserError("acquire.source is folder, but acquire.folder is null; expected the folder with "
                            + ", ".join([DICTIONARY, *(one.name for one in LISTS)]))
        return Path(params.folder)
    with scratch.kept("acquire", machine, params.source) as raw:
        _fetch_missing(raw, DICTIONARY, lambda path: fetch(RELEASE + DICTIONARY, path, _accept_dictionary))
        if params.source == "tiny":
            _fetch_missing(raw, TINY, lambda path: fetch(RELEASE + TINY, path, _accepts(TINY, TINY_LINES)))
            _split_tiny(raw)
        else:
            _fetch_full(raw, machine)
        return raw


def scan_files(raw: Path) -> dict[str, FileStats]:
    """The dictionary and the lists that a folder has, by name; UserError where it lacks the dictionary or a part."""
    if not (raw / DICTIONARY).is_file():
        raise UserError(f"{raw / DICTIONARY} is missing: the class dictionary; expected {DICTIONARY} beside the lists")
    for part in PARTS:
        names = [one.name for one in LISTS if one.part == part]
        if not any((raw / name).is_file() for name in names):
            raise UserError(f"{' and '.join(str(raw / name) for name in names)} are missing; expected at least one of "
                            f"them there, for the part `{part}`")
    return {name: scan(raw / name) for name in [DICTIONARY, TINY, *(one.name for one in LISTS)]
            if (raw / name).is_file()}


def scan(path: Path) -> FileStats:
    """Hash and count a file; UserError where it is empty, or a web page."""
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
        raise UserError(f"{path}: the list is empty; expected one image (or class) a line. If there is no such list, "
                        f"remove the file")
    if first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise UserError(f"{path} is a web page, not a list: it begins with {first[:100]!r}; such pages come where a "
                        f"download's quota is used up, or it asks for consent; {BY_HAND}")
    return FileStats(digest.hexdigest(), length, newlines + (not last.endswith(b"\n")))


def release_differences(scanned: Mapping[str, FileStats], tree: ClassTree) -> dict[str, str]:
    """Of lists that somebody fetched by hand, what tells them from the released ones: parts, or cut short.

    Of none, where the dictionary is another one.
    """
    if _shape(tree) != (RELEASED_CLASSES, RELEASED_ROOTS):
        return {}
    return {name: _other_length(name, one.lines, scanned[name]) for name, one in RELEASED_LISTS.items()
            if name in scanned and scanned[name].lines != one.lines}


def _fetch_full(raw: Path, machine: Machine) -> None:
    missing = {name: one for name, one in RELEASED_LISTS.items() if not (raw / name).exists()}
    check_room(raw, BYTES_PER_LINE * sum(one.lines for one in missing.values()), f"{len(missing)} released lists")
    for name, one in missing.items():
        fetch_from_drive(DRIVE + one.drive_id, raw / name, _accepts(name, one.lines), machine)


def _fetch_missing(raw: Path, name: str, fetch_to: Callable[[Path], None]) -> None:
    if not (raw / name).exists():
        fetch_to(raw / name)


def _accepts(name: str, lines: int) -> Callable[[Path], None]:
    def accept(path: Path) -> None:
        found = scan(path)
        if found.lines != lines:
            raise UserError(f"{_other_length(name, lines, found)}; it was not kept: {BY_HAND}")

    return accept


def _other_length(name: str, lines: int, found: FileStats) -> str:
    return (f"{name}: expected {lines:,} lines, found {found.lines:,} in {found.bytes:,} bytes with the sha256 "
            f"{found.sha256}")


def _accept_dictionary(path: Path) -> None:
    scan(path)
    classes, roots = found = _shape(read_tree(path))
    if found != (RELEASED_CLASSES, RELEASED_ROOTS):
        raise UserError(f"{DICTIONARY}: expected {RELEASED_CLASSES:,} classes and {RELEASED_ROOTS} roots, found "
                        f"{classes:,} and {roots}; it was not kept: {BY_HAND}")


def _shape(tree: ClassTree) -> tuple[int, int]:
    """Its classes and roots."""
    return len(tree), tree.parents.count(-1)


def _split_tiny(raw: Path) -> None:
    """Of the one tiny list make a training and a validation list."""
    lines = (raw / TINY).read_bytes().split(b"\n")
    val = lines[TINY_VAL_EVERY - 1:: TINY_VAL_EVERY]
    del lines[TINY_VAL_EVERY - 1:: TINY_VAL_EVERY]
    for part, content in zip(PARTS, (lines, val), strict=True):
        with atomic(raw / list_file(part, "openimages")) as file:
            file.write(b"\n".join(content).rstrip(b"\n") + b"\n")
