"""Find the images of classes: in a tar of per-class tars, a folder of per-class tars, or a folder of folders."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlimages.core.errors import UserError


class ClassFiles(NamedTuple):
    """The images of one class: a folder, or a tar at `offset` of the file `path`, `size` bytes long.

    `file` is the index of that file among the tars of a folder.
    """

    name: str
    file: int
    path: Path
    offset: int = 0
    size: int = 0


def class_files(path: Path, setting: str) -> list[ClassFiles]:
    """The classes of an archive, sorted by their names.

    `setting` is the parameter that names the archive. Raises UserError if it is missing, damaged or of another kind.
    """
    if path.is_file():
        groups = [ClassFiles(Path(one.name).stem, 0, path, one.offset_data, one.size)
                  for one in tar_members(path, 0, path.stat().st_size, setting) if one.name.endswith(".tar")]
        expected = "a plain tar of per-class tars"
    elif path.is_dir():
        tars = sorted(path.glob("*.tar"))
        groups = [ClassFiles(tar.stem, number, tar, 0, tar.stat().st_size) for number, tar in enumerate(tars)]
        groups = groups or [ClassFiles(folder.name, 0, folder) for folder in path.iterdir() if folder.is_dir()]
        expected = "a folder of per-class tars or of folders CLASS with pictures"
    else:
        raise UserError(f"{path} is missing: {setting} names a tar of per-class tars, a folder of these, or a folder "
                        f"of folders CLASS with pictures")
    if not groups:
        raise UserError(f"{path} is not {expected}, as {setting} expects")
    return sorted(groups)


def tar_members(path: Path, offset: int, size: int, setting: str) -> Iterator[tarfile.TarInfo]:
    """Yield the files of the tar at `offset` of a file, `size` bytes long.

    Raises UserError if it is not a tar, or is truncated.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in iter(tar.next, None):
                    if member.offset_data + member.size > offset + size:
                        raise tarfile.ReadError(f"{member.name} reaches beyond its end")
                    if member.isfile():
                        yield member
                    tar.members.clear()  # type: ignore[attr-defined] # tarfile keeps every member
                file.seek(tar.offset)
                if tar.offset + tarfile.BLOCKSIZE > offset + size or file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError(f"it has no end mark at byte {tar.offset - offset:,}")
    except (tarfile.TarError, OSError) as error:
        what = f"{path}, the tar of {size:,} bytes at byte {offset:,}," if offset else str(path)
        raise UserError(f"{what} is not an uncompressed tar of images or per-class tars, or is truncated ({error}); "
                        f"download it again, or change {setting}") from None
