"""The format of the lists: one image per line, its id or URL, then `class:confidence` pairs, separated by tabs.

The four lists keep the names under which Tencent released them. Published lists are canonical: UTF-8, `\\n` line ends,
every line well-formed. The later stages read them with `read_list`.
"""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from mlimages.core.errors import UserError

DICTIONARY = "dictionary_and_semantic_hierarchy.txt"
ARCHIVE = "imagenet.tar"
CLASSES = "classes.csv"
STATISTICS = "statistics.json"
REJECTED = "rejected.csv"
OVERLAP = "train_and_val.csv"

Part = Literal["train", "val"]
PARTS: tuple[Part, ...] = ("train", "val")
Origin = Literal["imagenet", "openimages"]
ORIGINS: tuple[Origin, ...] = ("imagenet", "openimages")

MAX_LINE_BYTES = 65_536
IMAGENET_ID = re.compile(r"(n[0-9]{8})/\1_[0-9]+\.JPEG")
URL = re.compile(r"(?i:https?)://[^/?#]")  # at its start
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # at the start of an address of any scheme
LOCAL = "file:"  # before the path of a local picture, relative to download.files
UNKNOWN = -1.0  # the confidence of a label of which it is not known whether the image has it
# Sources that need no further check: ASCII without white space and control characters.
PLAIN = {"imagenet": re.compile(IMAGENET_ID.pattern.encode()),
         "openimages": re.compile(rb"(?i:https?)://(?![/?#])[!-~]+")}
CONTROL = re.compile("[\0-\x08\x0a-\x1f\x7f-\x9f]")  # C0 except the tab, DEL and C1, as in every version of Unicode
# float() alone accepts 0_1 and the digits of all scripts.
CONFIDENCE = re.compile(r"[0-9.eE+-]+")
PAIR = re.compile(r"[0-9]+:[0-9.eE+-]+")
TRAINABLE_IMAGES = 100  # a class with fewer training images is too rare to learn
MAX_PAIRS = 2**18  # different `class:confidence` texts that a parser caches; the released lists have fewer


class ListFile(NamedTuple):
    """One of the four lists: its part of the data, the origin of its images, and its file name."""

    part: Part
    origin: Origin
    name: str


LISTS = (
    ListFile("train", "imagenet", "train_image_id_from_imagenet.txt"),
    ListFile("train", "openimages", "train_urls_from_openimages.txt"),
    ListFile("val", "imagenet", "val_image_id_from_imagenet.txt"),
    ListFile("val", "openimages", "val_urls_from_openimages.txt"),
)


class Labels(NamedTuple):
    """Class indices, ascending, and their confidences in [0, 1], or UNKNOWN. Both have the same length."""

    classes: tuple[int, ...]
    confidences: tuple[float, ...]


class ListEntry(NamedTuple):
    """One list line. `line` counts from 1; `source` is an ImageNet id, a URL, or LOCAL and a path."""

    line: int
    source: str
    labels: Labels


class MalformedLine(ValueError):
    """A line that does not follow the format. The message quotes the wrong text."""


def known_classes(labels: Labels) -> tuple[int, ...]:
    """The classes without those of unknown confidence."""
    if UNKNOWN not in labels.confidences:
        return labels.classes
    return tuple(index for index, confidence in zip(*labels, strict=True) if confidence != UNKNOWN)


def list_file(part: Part, origin: Origin) -> str:
    """The file name of the list of `part` from `origin`."""
    return next(name for its_part, its_origin, name in LISTS if (its_part, its_origin) == (part, origin))


def raw_lines(path: Path, first: int = 1, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each line, without white space at the end.

    Reading begins at the byte `offset`, where the line `first` begins; lines count from 1. Of a longer line, only the
    first MAX_LINE_BYTES + 1 bytes are returned.
    """
    with path.open("rb") as file:
        number = first - 1
        file.seek(offset)
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            rest = line
            cut = len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield number, line if cut else line.rstrip()


class LineParser:
    """Parses and checks raw lines.

    A list has few different `class:confidence` texts, so the parser caches them. A line with a new text or an unusual
    source is parsed by the slow path, which checks everything and names what is wrong. `unlabelled` accepts lines
    without labels.
    """

    def __init__(self, origin: Origin, classes: int, *, unlabelled: bool = False) -> None:
        self._origin, self._classes, self._unlabelled = origin, classes, unlabelled
        self._plain = PLAIN[origin]
        self._pairs: dict[bytes, tuple[int, float]] = {}

    def parse(self, raw: bytes, number: int) -> ListEntry:
        """The entry of a line without its line end. Raises MalformedLine."""
        source, _, pairs = raw.partition(b"\t")
        if self._plain.fullmatch(source) and len(raw) <= MAX_LINE_BYTES:
            try:
                labels = dict(sorted(map(self._pairs.__getitem__, pairs.split(b"\t"))))
            except KeyError:
                return self._parse_strictly(raw, number)
            return ListEntry(number, source.decode(), Labels(tuple(labels), tuple(labels.values())))
        return self._parse_strictly(raw, number)

    def _parse_strictly(self, raw: bytes, number: int) -> ListEntry:
        if len(raw) > MAX_LINE_BYTES:
            raise MalformedLine(f"longer than {MAX_LINE_BYTES} bytes")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedLine(f"not UTF-8 at byte {error.start}") from None
        if CONTROL.search(text):
            raise MalformedLine("holds a control character")
        source, *pairs = _fields(text)
        source = source.strip(" ")
        if not source or not (pairs or self._unlabelled):
            raise MalformedLine(f"expected an image and its labels separated by tabs, found {text[:80]!r}")
        _check_source(source, self._origin)
        # If a class occurs twice, the greater confidence comes last and is kept.
        labels = dict(sorted([self._parse_pair(pair) for pair in pairs]))
        return ListEntry(number, source, Labels(tuple(labels), tuple(labels.values())))

    def _parse_pair(self, pair: str) -> tuple[int, float]:
        index_text, colon, confidence_text = pair.strip(" ").partition(":")
        if not (index_text.isascii() and index_text.isdigit()) or (colon and not confidence_text):
            raise MalformedLine(f"expected class:confidence, found {pair[:80]!r}")
        if (index := int(index_text.lstrip("0")[:10] or "0")) >= self._classes:
            raise MalformedLine(f"class {index_text[:80]} is not in the dictionary of {self._classes} classes")
        if len(self._pairs) >= MAX_PAIRS:
            self._pairs.clear()
        parsed = self._pairs[pair.encode()] = (index, _parse_confidence(confidence_text if colon else "1"))
        return parsed


def _fields(text: str) -> list[str]:
    """Split a line into its source and pairs, at tabs or, if the source cannot contain a space, at spaces."""
    fields = text.split("\t")
    words = fields[0].split(" ")
    pairs = [word for word in words if PAIR.fullmatch(word)]
    if len(fields) > 1 and not pairs:
        return fields
    words = [word for word in words if word]
    if len(fields) == 1 and len(words) > 1 and pairs == words[1:]:
        return words
    if pairs:
        raise MalformedLine(f"its labels are separated by spaces, and what belongs to the image's name is not clear: "
                            f"separate all fields by tabs; found {text[:80]!r}")
    return fields


def _check_source(source: str, origin: Origin) -> None:
    """Raise MalformedLine, naming the kind of list that has such lines, if the source is not one of `origin`."""
    if origin == "openimages" and source.startswith(LOCAL):
        if not {"", ".", ".."}.isdisjoint(source.removeprefix(LOCAL).split("/")):
            raise MalformedLine(f"expected a path below download.files, without .. in it, found {source[:80]!r}")
        return
    is_id, is_url = IMAGENET_ID.fullmatch(source), URL.match(source)
    if origin == "imagenet" and not is_id:
        kind = f"; a list of URLs is expected under the name {list_file('train', 'openimages')}" if is_url else ""
        raise MalformedLine(f"expected an ImageNet id like n04310904/n04310904_8388.JPEG, found {source[:80]!r}{kind}")
    if origin == "openimages" and not is_url:
        kind = ""
        if is_id:
            kind = f"; a list of ImageNet ids is expected under the name {list_file('train', 'imagenet')}"
        elif "://" not in source:
            kind = ("; a list of file names, such as Tencent's train_im_list_tiny.txt, does not say where the images "
                    "lie: the list of their URLs is train_urls_tiny.txt")
        raise MalformedLine(f"expected an http or https URL, found {source[:80]!r}{kind}")


def format_line(entry: ListEntry) -> str:
    """The canonical line of an entry, including its line end."""
    return entry.source + "".join(map(_format_pair, *entry.labels)) + "\n"


@lru_cache(MAX_PAIRS)
def _format_pair(index: int, confidence: float) -> str:
    return f"\t{index}:{repr(confidence).removesuffix('.0')}"


def line_offsets(path: Path, every: int = 1) -> Iterator[int]:
    """Yield the byte offset of each `every`-th line, beginning with the first. `raw_lines` can start at these."""
    with path.open("rb") as file:
        number = offset = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            if number % every == 0:
                yield offset
            number += 1
            offset += len(line)
            while not line.endswith(b"\n") and (line := file.readline(MAX_LINE_BYTES + 1)):
                offset += len(line)


def read_list(path: Path, origin: Origin, classes: int, first: int = 1, offset: int = 0) -> Iterator[ListEntry]:
    """Yield the entries of a published list, from the line `first` at the byte `offset`.

    Raises UserError, naming file and line, if the list is missing or was changed after it was published.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; run `dvc repro acquire`")
    parser = LineParser(origin, classes, unlabelled=True)
    for number, raw in raw_lines(path, first, offset):
        try:
            yield parser.parse(raw, number)
        except MalformedLine as error:
            raise UserError(f"{path}, line {number}: {error}; run `dvc repro --single-item --force acquire`") from None


def _parse_confidence(text: str) -> float:
    try:
        value = float(text if CONFIDENCE.fullmatch(text) else "?")
    except ValueError:
        value = math.nan
    if not (0 <= value <= 1 or value == UNKNOWN):  # true for NaN, too
        raise MalformedLine(f"confidence {text[:80]!r} is not a number from 0 to 1")
    return value or 0.0  # -0 is 0
