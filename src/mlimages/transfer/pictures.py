"""The labelled pictures of a folder, for training and for validation.

    train/CLASS/*  val/CLASS/*      a folder for each class
    train/CLASS.tar  val/CLASS.tar  a tar file for each class, as ImageNet's
    train.tar  val.tar              a tar file of these, as ImageNet's
    CLASS/*                         without train: a share of the pictures is held out for validation
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlimages.convert.archives import ClassFiles, class_files, tar_members
from mlimages.core.errors import UserError, read_error
from mlimages.inputs.pictures import MAX_BYTES, SUFFIXES

PARTS = ("train", "val")


class LabelledPicture(NamedTuple):
    """A picture: `size` bytes of a file from `offset`, the number of its class, and the name by which it is known."""

    label: int
    key: str
    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes of the picture, at most MAX_BYTES. Raises UserError for a file that cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(min(self.size, MAX_BYTES))
        except OSError as error:
            raise read_error(self.path, error) from None


class LabelledPictures(NamedTuple):
    """The names of the classes, and the pictures of each part in the order of their keys."""

    classes: list[str]
    train: list[LabelledPicture]
    val: list[LabelledPicture]

    def part(self, name: str) -> list[LabelledPicture]:
        """The pictures of `train` or `val`."""
        return self.train if name == "train" else self.val

    def fingerprint(self) -> str:
        """A hash of the classes and of the name, class, size and time of change of each picture's file."""
        changed = {path: path.stat().st_mtime_ns for path in {picture.path for picture in self.train + self.val}}
        digest = hashlib.sha256(repr(self.classes).encode())
        for part in PARTS:
            for picture in self.part(part):
                digest.update(repr((part, picture.label, picture.key, picture.offset, picture.size,
                                    changed[picture.path])).encode())
        return digest.hexdigest()


def find_pictures(folder: Path, val_share: float) -> LabelledPictures:
    """Find the pictures of a folder in one of the layouts above.

    Without a part `val`, `val_share` of the pictures of each class is held out: those with the lowest hashes of their
    names, at least one. Raises UserError for a folder without pictures, with fewer than two classes, with an empty
    class, and with validation pictures of a class that has no training pictures.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected transfer.folder to hold train/CLASS/* and val/CLASS/*, or "
                        f"CLASS/*")
    places = {part: _place(folder, part) for part in PARTS}
    train = _pictures(places["train"] or folder, folder)
    classes = sorted({name for name, _ in train})
    if len(classes) < 2:
        raise UserError(f"{folder} has {len(classes)} classes ({', '.join(classes) or 'none'}), expected two or more: "
                        f"a folder CLASS with pictures for each")
    _check_counts(places["train"] or folder, train)
    numbers = {name: number for number, name in enumerate(classes)}
    pictures = [picture._replace(label=numbers[name]) for name, picture in train if picture]
    if places["val"] is None:
        return LabelledPictures(classes, *_hold_out(pictures, val_share))
    val = _pictures(places["val"], folder)
    if unknown := sorted({name for name, _ in val} - set(classes)):
        raise UserError(f"{places['val']} has the class {unknown[0]}, for which {places['train'] or folder} has no "
                        f"pictures; expected the same classes in both")
    held_out = [picture._replace(label=numbers[name]) for name, picture in val if picture]
    if not held_out:
        raise UserError(f"{places['val']} holds no pictures; expected files that end with "
                        f"{', '.join(sorted(SUFFIXES))}")
    return LabelledPictures(classes, pictures, held_out)


def _place(folder: Path, part: str) -> Path | None:
    """Where the pictures of a part lie: a folder or a tar file; None where there is neither."""
    return next((path for path in (folder / part, folder / f"{part}.tar") if path.exists()), None)


def _pictures(place: Path, root: Path) -> list[tuple[str, LabelledPicture | None]]:
    """The pictures at a place with the names of their classes; None for a class that has no picture."""
    found: list[tuple[str, LabelledPicture | None]] = []
    for group in class_files(place, "transfer.folder"):
        pictures = sorted(_of_class(group, root))
        found += [(group.name, picture) for picture in pictures] or [(group.name, None)]
    return found


def _of_class(group: ClassFiles, root: Path) -> Iterator[LabelledPicture]:
    if group.path.is_dir():
        for path in group.path.rglob("*"):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield LabelledPicture(0, _name(path, root), path, 0, path.stat().st_size)
        return
    prefix = _name(group.path, root)
    for member in tar_members(group.path, group.offset, group.size, "transfer.folder"):
        if Path(member.name).suffix.lower() in SUFFIXES:
            yield LabelledPicture(0, f"{prefix}/{group.name}/{member.name}", group.path, member.offset_data,
                                  member.size)


def _name(path: Path, root: Path) -> str:
    """A path as text of any file name, also one that is not UTF-8."""
    return os.fsencode(path.relative_to(root).as_posix()).decode(errors="backslashreplace")


def _check_counts(place: Path, found: list[tuple[str, LabelledPicture | None]]) -> None:
    if empty := sorted({name for name, _ in found} - {name for name, picture in found if picture}):
        raise UserError(f"{place}: the class {empty[0]} has no pictures; expected files that end with "
                        f"{', '.join(sorted(SUFFIXES))}, or remove the class")


def _hold_out(pictures: list[LabelledPicture],
              share: float) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    """Split the pictures of each class: those with the lowest hashes of their keys are for validation."""
    by_class: dict[int, list[LabelledPicture]] = {}
    for picture in pictures:
        by_class.setdefault(picture.label, []).append(picture)
    held_out = set[str]()
    for members in by_class.values():
        if len(members) < 2:
            raise UserError(f"{members[0].key} is the only picture of its class; expected two or more, of which one is "
                            f"held out for validation")
        ranked = sorted(members, key=lambda picture: hashlib.sha256(picture.key.encode()).digest())
        held_out |= {picture.key for picture in ranked[: max(1, round(share * len(members)))]}
    return ([picture for picture in pictures if picture.key not in held_out],
            [picture for picture in pictures if picture.key in held_out])
