"""Find images in ImageNet: one tar of per-class tars, a folder of per-class tars, or a folder of images WNID/FILE.

Nothing is unpacked. An index is built once and kept in scratch: the sorted names of all images and their places. Both
arrays are mapped into memory, as the archive has 14 million images.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlimages.acquire.formats import IMAGENET_ID
from mlimages.convert.archives import ClassFiles, class_files, tar_members
from mlimages.core import scratch
from mlimages.core.errors import UserError, required_space
from mlimages.core.parallel import map_units
from mlimages.core.params import Machine
from mlimages.core.publish import atomic_write, write_json

NAME = np.dtype("S20")  # such as n04310904_1234567890, as long as the longest name in the lists
# `file` is an index into Archive.files. An `offset` of 0 means a file WNID/FILE: in a tar, a header precedes the data.
PLACE = np.dtype([("file", "<u4"), ("offset", "<u8"), ("size", "<u4")])
IMAGE_BYTES = 100_000  # about the mean in ImageNet
SETTING = "convert.imagenet"  # the parameter that names an archive
NAMES, PLACES, DONE = "names", "places", "index.json"


class Archive:
    """An indexed archive. `fingerprint` is a hash that changes with the archive."""

    def __init__(self, files: list[Path], fingerprint: str, names: np.ndarray, places: np.ndarray) -> None:
        self.files, self.fingerprint = files, fingerprint
        self._names, self._places = names, places

    def __len__(self) -> int:
        return len(self._names)

    def find(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Look up ids such as n04310904/n04310904_8388.JPEG.

        Returns whether each id was found, bool [ids], and the places of those that were, PLACE [found].
        """
        names = [one.partition("/")[2].removesuffix(".JPEG") for one in ids]
        wanted = np.array([name if len(name) <= NAME.itemsize else "" for name in names], NAME)
        at = np.minimum(np.searchsorted(self._names, wanted), len(self._names) - 1)
        found = self._names[at] == wanted
        return found, self._places[at[found]]


def open_archive(path: Path, machine: Machine) -> Archive:
    """Open the archive. The first call builds its index. Raises UserError if it is missing or damaged."""
    if not path.exists():
        raise UserError(f"{path} is missing: {SETTING} names ImageNet's tar of per-class tars, a folder of per-class "
                        f"tars, or a folder of images WNID/FILE; set it to null to convert without ImageNet")
    groups = class_files(path, SETTING)
    parts = sorted({group.path for group in groups})  # tars or folders
    files = parts if parts[0].is_file() else [path]
    stats = [(one.name, one.stat()) for one in parts]
    fingerprint = scratch.key([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
                              code=[sys.modules[__name__]])
    with scratch.persistent_folder("convert", machine, f"imagenet-{fingerprint}") as folder:
        if not (folder / DONE).exists():
            print(f"building the index of {path} ({len(groups):,} classes); later runs reuse it")
            with required_space(folder, _index_bytes(parts), f"the index of {path}"):
                _build(groups, folder, machine)
        if not (folder / NAMES).stat().st_size:
            raise UserError(f"{path} holds no image named like n04310904_8388.JPEG in its class n04310904")
        return Archive(files, fingerprint, np.memmap(folder / NAMES, NAME, "r"), np.memmap(folder / PLACES, PLACE, "r"))


def _index_bytes(parts: list[Path]) -> float:
    """The approximate size of the index. A folder's own size is that of its entries, which are about as long."""
    size = sum(part.stat().st_size for part in parts)
    return size / IMAGE_BYTES * (NAME.itemsize + PLACE.itemsize) if parts[0].is_file() else size


def _build(groups: list[ClassFiles], folder: Path, machine: Machine) -> None:
    """Write the index. Classes in order, with sorted names in each, give sorted names."""
    with atomic_write(folder / NAMES) as names, atomic_write(folder / PLACES) as places:
        for found, where in map_units(_index, groups, machine=machine, ahead=4):
            names.write(found.tobytes())
            places.write(where.tobytes())
    write_json(folder / DONE, {"classes": len(groups)})


def _index(group: ClassFiles) -> tuple[np.ndarray, np.ndarray]:
    """The sorted names of a class's images, NAME [images], and their places, PLACE [images]."""
    if group.path.is_file():
        members = [(Path(one.name).name, one.offset_data, one.size)
                   for one in tar_members(group.path, group.offset, group.size, SETTING)]
    else:
        members = [(name, 0, 0) for name in os.listdir(group.path)]
    members = [one for one in members if IMAGENET_ID.fullmatch(f"{group.name}/{one[0]}")
               and len(one[0]) <= NAME.itemsize + len(".JPEG")]
    names = np.array([name.removesuffix(".JPEG") for name, _, _ in members], NAME)
    places = np.array([(group.file, offset, size) for _, offset, size in members], PLACE)
    order = np.argsort(names, kind="stable")
    return names[order], places[order]
