"""ImageNet as it ships, a tar of per-class tars, read in place."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from mlimages.errors import UserError


def index_archive(path: Path) -> dict[str, tuple[int, int]]:
    """Where each image lies in the archive: id, such as n04310904/n04310904_8388.JPEG, to offset and size in bytes."""
    if not path.is_file():
        raise UserError(f"{path} is missing: convert.imagenet names the tar of per-class tars; set it to null to go "
                        f"without the ImageNet part")
    try:
        with tarfile.open(path, "r:") as outer:
            return {name: place for member in outer for name, place in _index_class(outer, member)}
    except tarfile.TarError as error:
        raise UserError(f"{path} is no plain tar of per-class tars ({error})") from None


def _index_class(outer: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[tuple[str, tuple[int, int]]]:
    inside = outer.extractfile(member)
    if inside is None or not member.name.endswith(".tar"):
        return
    wnid = Path(member.name).stem
    with tarfile.open(fileobj=inside, mode="r:") as inner:
        for image in inner:
            if image.isfile():
                yield f"{wnid}/{Path(image.name).name}", (member.offset_data + image.offset_data, image.size)
