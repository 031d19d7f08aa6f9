"""Write the demo's release: four lists, the dictionary and the ImageNet archive, in the formats of the real ones."""

import io
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from mlimages.acquire.formats import ARCHIVE, DICTIONARY, LISTS, Labels, ListEntry, format_line
from mlimages.core.params import Demo
from mlimages.core.publish import atomic_write
from mlimages.demo import server, world

# Of 1,000 ImageNet ids, the number whose image is missing in the archive, as in the real one, or damaged there.
MISSING, DAMAGED = 15, 5


def write_release(folder: Path, params: Demo) -> None:
    """Write all files into `folder`, under the names that Tencent and ImageNet use."""
    with atomic_write(folder / DICTIONARY) as file:
        file.write(_dictionary().encode())
    archived: list[str] = []
    for part, origin, name in LISTS:
        total = params.train_images if part == "train" else params.val_images
        count = total // 2 if origin == "imagenet" else total - total // 2
        ids = world.image_ids(params.seed, f"{part}/{origin}", count)
        sources = [_imagenet_id(one) if origin == "imagenet" else server.url_of(one, params.pixels) for one in ids]
        with atomic_write(folder / name) as file:
            for number, (source, one) in enumerate(zip(sources, ids, strict=True), start=1):
                labels = Labels(*zip(*sorted(world.labels_of(one).items()), strict=True))
                file.write(format_line(ListEntry(number, source, labels)).encode())
        archived += ids if origin == "imagenet" else []
    with atomic_write(folder / ARCHIVE) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for wnid, images in sorted(_by_class(archived).items()):
            _add(archive, f"{wnid}.tar", _class_tar(images, params.pixels))


def _dictionary() -> str:
    rows = ["category_index\tcategory_id\tindex_of_parent_category\tcategory name"]
    rows += [f"{index}\t{one.wnid}\t{one.parent}\t{one.names}" for index, one in enumerate(world.CLASSES)]
    return "\n".join(rows) + "\n"


def _imagenet_id(image_id: str) -> str:
    return f"{image_id.partition('_')[0]}/{image_id}.JPEG"


def _by_class(ids: Iterable[str]) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = defaultdict(list)
    for one in ids:
        if int(one.partition("_")[2]) % 1000 >= MISSING:
            classes[one.partition("_")[0]].append(one)
    return classes


def _class_tar(ids: list[str], pixels: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for one in sorted(ids):
            jpeg = world.draw(one, pixels)
            damaged = int(one.partition("_")[2]) % 1000 < MISSING + DAMAGED
            _add(tar, f"{one}.JPEG", jpeg[: len(jpeg) // 2] if damaged else jpeg)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
