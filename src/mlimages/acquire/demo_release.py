"""Write the demo's release: four lists, the dictionary and the ImageNet archive, in the formats of the real ones."""

import io
import itertools
import tarfile
from collections.abc import Iterable
from pathlib import Path

from mlimages.acquire.formats import ARCHIVE, LISTS, Labels, ListEntry, format_line
from mlimages.acquire.tables.class_files import LabelClass, write_dictionary
from mlimages.core.params import Demo
from mlimages.core.publish import atomic_write
from mlimages.demo import server, world

# Of 1,000 ImageNet ids, the number whose image is missing in the archive, as in the real one, or damaged there.
MISSING, DAMAGED = 15, 5


def write_release(folder: Path, params: Demo) -> None:
    """Write all files into `folder`, under the names that Tencent and ImageNet use."""
    write_dictionary(folder, [LabelClass(one.wnid, one.names, world.CLASSES[one.parent].wnid if one.parent >= 0 else "")
                              for one in world.CLASSES])
    archived: list[str] = []
    for part, origin, name in LISTS:
        total = params.train_images if part == "train" else params.val_images
        count = total // 2 if origin == "imagenet" else total - total // 2
        ids = world.image_ids(params.seed, f"{part}/{origin}", count)
        sources = [f"{_wnid(one)}/{one}.JPEG" if origin == "imagenet" else server.url_of(one, params.pixels)
                   for one in ids]
        with atomic_write(folder / name) as file:
            for number, (source, one) in enumerate(zip(sources, ids, strict=True), start=1):
                labels = Labels(*zip(*sorted(world.labels_of(one).items()), strict=True))
                file.write(format_line(ListEntry(number, source, labels)).encode())
        archived += ids if origin == "imagenet" else []
    with atomic_write(folder / ARCHIVE) as file, tarfile.open(fileobj=file, mode="w") as archive:
        present = sorted(one for one in archived if _number(one) % 1000 >= MISSING)
        for wnid, images in itertools.groupby(present, _wnid):
            _add(archive, f"{wnid}.tar", _class_tar(images, params.pixels))


def _wnid(image_id: str) -> str:
    return image_id.partition("_")[0]


def _number(image_id: str) -> int:
    return int(image_id.partition("_")[2])


def _class_tar(ids: Iterable[str], pixels: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for one in ids:
            jpeg = world.draw(one, pixels)
            damaged = _number(one) % 1000 < MISSING + DAMAGED
            _add(tar, f"{one}.JPEG", jpeg[: len(jpeg) // 2] if damaged else jpeg)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
