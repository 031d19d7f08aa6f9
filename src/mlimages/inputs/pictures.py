"""Reads pictures from files, folders, glob patterns and tar files, and decodes them to RGB pixels."""

import glob
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mlimages.core.errors import UserError, read_error
from mlimages.images.decode import ImageFile
from mlimages.inputs.preprocess import decode

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp"}
PictureLike = str | Path | bytes | np.ndarray | Image.Image
MAX_BYTES = 64 * 2**20  # of one file: no picture that decodes within ImageFile's limits is larger


class NamedPicture(NamedTuple):
    """The name of a picture in results, and the bytes of its file."""

    name: str
    body: bytes


def read_pictures(places: Iterable[str | Path]) -> Iterator[NamedPicture]:
    """Yield the pictures at `places`, one after the other; only one is in memory.

    A place is a file, a folder (searched with its subfolders), a glob pattern, or a tar file of pictures such as a
    shard of data/images. Files in folders and patterns are sorted by name. In folders and tar files, only files with a
    suffix in SUFFIXES are read. The name of a picture in a tar file is `FILE.tar/MEMBER`.

    Raises UserError for a place that does not exist, cannot be read, or holds no picture.
    """
    for place in places:
        empty = True
        for picture in _read_place(str(place)):
            empty = False
            yield picture
        if empty:
            raise UserError(f"{place} holds no pictures; expected files that end with {', '.join(sorted(SUFFIXES))}")


def count_pictures(places: Iterable[str | Path]) -> int:
    """The number of pictures that `read_pictures` yields. Raises UserError for a place that does not exist."""
    return sum(1 for place in places for path in _files(str(place))
               for _ in (_members(path) if path.suffix == ".tar" else [path]))


def decode_picture(body: bytes) -> np.ndarray:
    """The pixels of a JPEG, PNG, GIF (first frame) or WebP file: uint8 [height, width, 3], upright, in sRGB.

    A JPEG that convert would store unchanged decodes to the same pixels as its record. Raises Undecodable for a file
    of another format, or a damaged one.
    """
    picture = ImageFile(body)
    if picture.is_upright_jpeg and picture.is_srgb and picture.is_flawless():
        return decode(body).copy()
    pixels = picture.pixels(1.0)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _read_place(place: str) -> Iterator[NamedPicture]:
    for path in _files(place):
        if path.suffix == ".tar":
            yield from _read_tar(path)
            continue
        try:
            with path.open("rb") as file:
                yield NamedPicture(str(path), file.read(MAX_BYTES))
        except OSError as error:
            raise read_error(path, error) from None


def _files(place: str) -> Iterator[Path]:
    """The files of one place, sorted by name."""
    path = Path(place)
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    elif path.exists():
        yield path
    elif glob.has_magic(place):
        for match in sorted(glob.glob(place, recursive=True)):
            yield from _files(match)
    else:
        raise UserError(f"{place} does not exist; expected a picture, a folder, a tar file or a glob pattern")


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    yield tar, member
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{path} cannot be read as a tar file: {error}") from None


def _read_tar(path: Path) -> Iterator[NamedPicture]:
    for tar, member in _members(path):
        file = tar.extractfile(member)
        yield NamedPicture(f"{path}/{member.name}", file.read(MAX_BYTES) if file else b"")


def to_pixels(picture: PictureLike) -> np.ndarray:
    """The pixels of a file, of the bytes of a file, of an array or of a PIL image: uint8 [height, width, 3].

    Raises Undecodable for bytes that do not decode, and UserError for anything else that is no picture.
    """
    if isinstance(picture, str | Path):
        [(_, picture)] = read_pictures([picture])
    if isinstance(picture, Image.Image):
        data = io.BytesIO()
        picture.save(data, "PNG")
        picture = data.getvalue()
    if isinstance(picture, bytes):
        return decode_picture(picture)
    if not isinstance(picture, np.ndarray):
        raise UserError(f"found {type(picture).__name__}, expected a file name, bytes, an array or a PIL image")
    image = picture[..., None] if picture.ndim == 2 else picture
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise UserError(f"found an array {picture.dtype} {list(picture.shape)}, expected uint8 [height, width, 3]")
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
