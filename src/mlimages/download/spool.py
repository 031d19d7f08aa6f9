"""Images that wait for their shard: bodies in spool files, and a journal with the results of the shard's lines.

A download resumes from journals and spools, and fetches nothing twice. Each worker process appends to its own spools.
"""

import json
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlimages.core.errors import explain_disk_errors
from mlimages.download.check_image import CheckedImage
from mlimages.download.ledger import Reason
from mlimages.download.shards import read_at


class StoredImage(NamedTuple):
    """An image in a spool or a shard: `bytes` bytes at `offset` of `path`, which is relative to the spools' folder."""

    path: str
    offset: int
    bytes: int
    sha256: str
    width: int
    height: int
    extension: str


class LineResult(NamedTuple):
    """The result of a list line with this `url`; the other fields are as in ledger.LedgerRow.

    `stamp` is the `local_files.stamp` of a local picture before it was read.
    """

    line: int
    reason: Reason
    http_status: int
    mirror: int
    image: StoredImage | None
    detail: str = ""
    url: str = ""
    stamp: str = ""


class Spools:
    """The spools of one worker in `folder`. Their names are unique among all workers on all machines."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._own = folder, secrets.token_hex(8)
        self._lock = threading.Lock()

    def append(self, name: str, image: CheckedImage, sha256: str) -> StoredImage:
        """Append an image to this worker's spool of the shard `name`."""
        spool, size = f"{name}.{self._own}.spool", len(image.body)
        path = self._folder / spool
        with self._lock, explain_disk_errors(path):
            offset = _append(path, image.body)
        return StoredImage(spool, offset, size, sha256, image.width, image.height, image.extension)

    def read(self, image: StoredImage) -> bytes:
        return read_at(self._folder / image.path, image.offset, image.bytes)


class Journal:
    """The results of the lines of the shard `name`, appended as they arrive."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.journal"
        self._folder, self._name = folder, name

    def add(self, results: list[LineResult]) -> None:
        lines = "".join(json.dumps(result) + "\n" for result in results)
        with explain_disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def read(self) -> Iterator[LineResult]:
        """Yield the results in order. The rest after a line that a kill or a power failure damaged is cut off."""
        if self.path.exists():
            yield from read_journal(self.path, repair=True)

    def results(self) -> dict[int, LineResult]:
        """The last result of each line."""
        return {result.line: result for result in self.read()}

    def remove(self) -> None:
        """Remove the journal and then the spools of its shard, so that no journal refers to a missing spool."""
        self.path.unlink(missing_ok=True)
        for path in self._folder.glob(f"{self._name}.*.spool"):
            path.unlink()


def read_journal(path: Path, *, repair: bool = False) -> Iterator[LineResult]:
    """Yield the results of a journal up to the first damaged line; with `repair`, the rest is cut off."""
    end = 0
    with path.open("rb+" if repair else "rb") as file:
        for line in file:
            if (result := _parse(line)) is None:
                if repair:
                    file.truncate(end)
                return
            end += len(line)
            yield result


def remove_orphans(folder: Path) -> None:
    """Remove spools without a journal, which a killed run left. No worker may be writing."""
    for path in folder.glob("*.spool"):
        if not Journal(folder, path.name.partition(".")[0]).path.exists():
            path.unlink()


def _append(path: Path, content: bytes) -> int:
    """Append to a file and return the offset of the content.

    The few system calls matter: each releases and takes the interpreter's lock.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        begin = at = os.lseek(descriptor, 0, os.SEEK_END)
        while at < begin + len(content):
            at += os.write(descriptor, content[at - begin:])
    finally:
        os.close(descriptor)
    return begin


def _parse(line: bytes) -> LineResult | None:
    """The result in a line of a journal; None if the line is incomplete or damaged."""
    try:
        number, reason, status, mirror, image, *more = json.loads(line)  # older journals lack the last fields
        result = LineResult(number, Reason(reason), status, mirror,  # type: ignore[call-arg]
                            StoredImage(*image) if image else None, *more)
    except (ValueError, TypeError):
        return None
    return result if line.endswith(b"\n") else None
