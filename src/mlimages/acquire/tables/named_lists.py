"""Convert lists with class names, or without a validation list, to lists in Tencent's format."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from mlimages.acquire.formats import DICTIONARY, LISTS, MAX_PAIRS, list_file, raw_lines
from mlimages.acquire.tables.class_files import LabelClass, write_dictionary
from mlimages.acquire.tables.labels import clean_name
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Table
from mlimages.core.progress import progress_bar
from mlimages.core.publish import atomic_write

MAX_LABELS = 500_000  # different ones, which memory holds
MAX_NAME = 200  # characters
SplitLabel = Callable[[str], tuple[str, str]]


class ClassIndex:
    """Translates labels into `index:confidence`, and counts the images without any label."""

    def __init__(self, classes: list[LabelClass], split: SplitLabel, unlabelled: bool) -> None:
        self._index = {one.label: number for number, one in enumerate(classes)}
        self._split, self._unlabelled = split, unlabelled
        self._pairs: dict[bytes, bytes] = {}
        self.left_out: Counter[str] = Counter()
        self.without_labels = 0

    def translate(self, line: bytes) -> bytes:
        """A line without its line end, with class indices in place of names.

        It removes labels that are no class or have the confidence 0. Returns an empty line if no label is left, unless
        `unlabelled` keeps the image.
        """
        source, *fields = line.split(b"\t")
        try:
            pairs = b"".join(map(self._pairs.__getitem__, fields))
        except KeyError:
            pairs = b"".join(map(self._pair, fields))
        if not pairs and source:
            self.without_labels += 1
            return source if self._unlabelled else b""
        return source + pairs

    def _pair(self, field: bytes) -> bytes:
        name, confidence = _named(field, self._split)
        is_absent = _is_zero(confidence)
        index = self._index.get(name)
        if index is None and not is_absent:
            if len(self.left_out) < MAX_LABELS or name in self.left_out:
                self.left_out[name] += 1
            return b""
        pair = b"" if is_absent else f"\t{index}:{confidence}".encode()
        if len(self._pairs) >= MAX_PAIRS:
            self._pairs.clear()
        self._pairs[field] = pair
        return pair


def count_classes(folder: Path, split: SplitLabel, min_images: int, machine: Machine) -> list[LabelClass]:
    """The labels that at least `min_images` images have with a confidence above 0, sorted by name.

    Raises UserError if there is none, or if there are more than MAX_LABELS different labels.
    """
    images: Counter[str] = Counter()
    names: dict[bytes, str] = {}
    for line in _lines(folder, "count the labels", machine):
        found = set()
        for field in line.split(b"\t")[1:]:
            if (name := names.get(field)) is None:
                name, confidence = _named(field, split)
                if len(name) > MAX_NAME:
                    raise UserError(f"a label has {len(name):,} characters, expected at most {MAX_NAME}: "
                                    f"{name[:80]!r}; is it a column of labels, and acquire.table.separator right?")
                name = "" if _is_zero(confidence) or confidence.startswith("-") else name
                if len(names) >= MAX_PAIRS:
                    names.clear()
                names[field] = name
            found.add(name)
        images.update(found)
        if len(images) > MAX_LABELS:
            raise UserError(f"there are more than {MAX_LABELS:,} different labels, such as {max(images)!r}; is it a "
                            f"column of labels, and acquire.table.separator right?")
    del images[""]
    kept = sorted(name for name, count in images.items() if count >= min_images)
    if not kept:
        most = images.most_common(1)
        raise UserError(f"no label is left: acquire.table.min_images = {min_images}, and "
                        + (f"the most frequent label, {most[0][0]}, has {most[0][1]} images" if most else
                           "the lists name no label"))
    return [LabelClass(name, name, "") for name in kept]


def write_lists(folder: Path, out: Path, classes: list[LabelClass] | None, split: SplitLabel, table: Table,
                machine: Machine) -> None:
    """Write the lists of `folder`, and the dictionary, into `out`. `classes` are the dictionary if `folder` has none.

    Without a validation list, a hash of the address selects `val_share` of the images for validation. An empty line
    takes the place of a line that is left out.
    """
    index = ClassIndex(classes, split, table.unlabelled) if classes is not None else None
    if classes is not None:
        write_dictionary(out, classes)
    else:
        shutil.copyfile(folder / DICTIONARY, out / DICTIONARY)
    splits = not any((folder / listed.name).is_file() for listed in LISTS if listed.part == "val")
    below = int(table.val_share * 2**64) if splits else 0
    images: Counter[str] = Counter()
    for listed in LISTS:
        path = folder / listed.name
        if not path.is_file():
            continue
        with ExitStack() as stack:
            file = stack.enter_context(atomic_write(out / listed.name))
            val = stack.enter_context(atomic_write(out / list_file("val", listed.origin))) if splits else file
            for line in _lines_of(path, f"write {listed.name}", machine):
                translated = index.translate(line) if index else line
                is_val = splits and bool(translated) and _digest(translated) < below
                (val if is_val else file).write(translated + b"\n")
                images["val" if is_val else "train"] += bool(translated)
    _report(index)
    if splits:
        _check_split(images, table.val_share)


def _digest(line: bytes) -> int:
    """A hash of the line's source, 0 to 2**64 - 1."""
    source = line.partition(b"\t")[0] if b"\t" in line else line.partition(b" ")[0]
    return int.from_bytes(hashlib.blake2b(source, digest_size=8, person=b"val_share").digest())


def _check_split(images: Counter[str], val_share: float) -> None:
    if not images["val"] or not images["train"]:
        raise UserError(f"acquire.table.val_share = {val_share:g} of {images.total():,} images gives "
                        f"{images['train']:,} for training and {images['val']:,} for validation; set it so that both "
                        f"have some, or give a validation list or acquire.table.part")


def _report(index: ClassIndex | None) -> None:
    if index and index.left_out:
        name, count = index.left_out.most_common(1)[0]
        print(f"{index.left_out.total():,} labels of {len(index.left_out):,} names are no class and are left out; the "
              f"most frequent is {name} with {count:,}")
    if index and index.without_labels:
        print(f"{index.without_labels:,} images without a label are "
              + ("kept" if index._unlabelled else "left out; acquire.table.unlabelled: true keeps them"))


def _named(field: bytes, split: SplitLabel) -> tuple[str, str]:
    name, confidence = split(field.decode("utf-8", "replace"))
    return clean_name(name), confidence.strip()


def _is_zero(confidence: str) -> bool:
    try:
        return float(confidence) == 0
    except ValueError:
        return False


def _lines(folder: Path, title: str, machine: Machine) -> Iterator[bytes]:
    for listed in LISTS:
        if (folder / listed.name).is_file():
            yield from _lines_of(folder / listed.name, f"{title} of {listed.name}", machine)


def _lines_of(path: Path, title: str, machine: Machine) -> Iterator[bytes]:
    with progress_bar(title, total=0, unit=" lines", machine=machine) as bar:
        for _, line in raw_lines(path):
            bar.update()
            yield line
