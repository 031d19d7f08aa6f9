"""Images that wait for their shard: bodies in spool files, and a journal of what came of every line.

A download of which nothing but the journal and the spools is left goes on where it stopped, and fetches nothing
twice. Each worker process appends to spools of its own.
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


class SpooledImage(NamedTuple):
    """An image in a spool: `bytes` from `offset` on in the file named `spool`."""

    spool: str
    offset: int
    bytes: int
    sha256: str
    width: int
    height: int
    extension: str


class LineResult(NamedTuple):
    """What came of a list line; see ledger.LedgerRow."""

    line: int
    reason: Reason
    http_status: int
    mirror: int
    image: SpooledImage | None
    detail: str = ""


class Spools:
    """A worker's spools inside `folder`, under names that no other worker has, on this machine or another."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._own = folder, secrets.token_hex(8)
        self._lock = threading.Lock()

    def append(self, name: str, picture: CheckedImage, sha256: str) -> SpooledImage:
        """Append an image to this worker's spool of a shard."""
        spool, size = f"{name}.{self._own}.spool", len(picture.body)
        path = self._folder / spool
        with self._lock, explain_disk_errors(path):
            offset = _append(path, picture.body)
        return SpooledImage(spool, offset, size, sha256, picture.width, picture.height, picture.extension)

    def read(self, stored: SpooledImage) -> bytes:
        return read_at(self._folder / stored.spool, stored.offset, stored.bytes)


class Journal:
    """The outcomes of a shard's lines, appended as they come."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.journal"
        self._folder, self._name = folder, name

    def add(self, entries: list[LineResult]) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        with explain_disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def read(self) -> Iterator[LineResult]:
        """All entries, in order of arrival, up to one that a kill or a power failure damaged: that is cut off."""
        if not self.path.exists():
            return
        at = 0
        with self.path.open("rb+") as file:
            for line in file:
                if (entry := _entry(line)) is None:
                    file.truncate(at)
                    return
                at += len(line)
                yield entry

    def remove(self) -> None:
        """The journal, and then the spools of its shard: a journal never names a spool that is gone."""
        self.path.unlink(missing_ok=True)
        for path in self._folder.glob(f"{self._name}.*.spool"):
            path.unlink()


def remove_orphans(folder: Path) -> None:
    """Remove the spools that no journal names, which a killed run left. No worker may be writing."""
    for path in folder.glob("*.spool"):
        if not Journal(folder, path.name.partition(".")[0]).path.exists():
            path.unlink()


def _append(path: Path, content: bytes) -> int:
    """Where in the file it begins, with few system calls: at each of them threads wait for each other."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        begin = at = os.lseek(descriptor, 0, os.SEEK_END)
        while at < begin + len(content):
            at += os.write(descriptor, content[at - begin:])
    finally:
        os.close(descriptor)
    return begin


def _entry(line: bytes) -> LineResult | None:
    """The entry of a journal's line; None where it is no whole one."""
    try:
        number, reason, status, mirror, image, *detail = json.loads(line)  # older journals have no detail
        whole = LineResult(number, Reason(reason), status, mirror, SpooledImage(*image) if image else None, *detail)  # type: ignore[call-arg]
    except (ValueError, TypeError):
        return None
    return whole if line.endswith(b"\n") else None
