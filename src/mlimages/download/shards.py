"""Reads and writes download shards: a tar with `KEY.jpg` and `KEY.json` for each image.

The tar follows the WebDataset convention. Equal contents give equal bytes (mtime 0, no owner, list order).
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mlimages.acquire.formats import Labels, Part
from mlimages.core.errors import explain_read_errors
from mlimages.core.publish import atomic_write

HEADER = tarfile.TarInfo().tobuf()  # with an empty name


class Sample(NamedTuple):
    """One downloaded image: key, file extension, bytes, URL and labels."""

    key: str
    extension: str
    body: bytes
    url: str
    labels: Labels


class Place(NamedTuple):
    """The position of a sample in a shard: the image's `offset` and `size`, and the size of its JSON, in bytes."""

    offset: int
    size: int
    facts: int


def key_of(part: Part, line: int) -> str:
    """The key of a list line in shards and records, such as train-00000042."""
    return f"{part}-{line:08d}"


def shard_path(folder: Path, part: Part, number: int) -> Path:
    return folder / part / f"{number:05d}.tar"


def ledger_path(shard: Path) -> Path:
    return shard.with_suffix(".ledger.csv")


def write_shard(path: Path, samples: Iterable[Sample]) -> str:
    """Write the samples as a tar; return the sha256 of its bytes."""
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for blocks in _tar(samples):
            digest.update(blocks)
            file.write(blocks)
    return digest.hexdigest()


def _tar(samples: Iterable[Sample]) -> Iterator[bytes]:
    """The bytes of the tar, sample by sample. They equal those of the ten times slower tarfile module."""
    size = 0
    for sample in samples:
        facts = {"url": sample.url, "classes": sample.labels.classes, "confidences": sample.labels.confidences}
        content = json.dumps(facts).encode()
        blocks = b"".join((_header(f"{sample.key}.{sample.extension}", len(sample.body)), sample.body,
                           _padding(sample.body), _header(f"{sample.key}.json", len(content)), content,
                           _padding(content)))
        size += len(blocks)
        yield blocks
    end = size + 2 * tarfile.BLOCKSIZE
    yield bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - size)


def _header(name: str, size: int) -> bytes:
    """A tar header. Only the name, the size and the checksum differ between files."""
    header = bytearray(HEADER)
    header[: len(name)] = name.encode()
    header[124:135] = b"%011o" % size
    header[148:154] = b"%06o" % (sum(header) - sum(header[148:156]) + 8 * ord(" "))
    return bytes(header)


def _padding(content: bytes) -> bytes:
    return bytes(-len(content) % tarfile.BLOCKSIZE)


def read_shard(path: Path) -> Iterator[Sample]:
    """Yield the samples of a shard, in order. Raises UserError if the shard is damaged."""
    return (read_sample(path, place) for place in places(path))


def places(path: Path) -> Iterator[Place]:
    """Yield the position of each sample without reading it. Raises UserError if the shard is damaged."""
    return (place for _, place in named_places(path))


def named_places(path: Path) -> Iterator[tuple[str, Place]]:
    """`places`, each with the file name of its image."""
    with explain_read_errors(path, "download"), path.open("rb", buffering=0) as file:
        at = 0
        while header := _header_at(file, at):
            name, size = header
            offset = at + tarfile.BLOCKSIZE
            facts_at = _facts_at(offset, size)
            header = _header_at(file, facts_at - tarfile.BLOCKSIZE)
            if header is None:
                raise ValueError(f"an image without its JSON ends at byte {facts_at - tarfile.BLOCKSIZE}")
            _, facts = header
            yield name, Place(offset, size, facts)
            at = facts_at + -(-facts // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _header_at(file: BinaryIO, at: int) -> tuple[str, int] | None:
    """The name and the size in the header at byte `at`; None at the end of the tar.

    This is ten times as fast as tarfile. Raises ValueError if `write_shard` has not written the header.
    """
    file.seek(at)
    header = file.read(tarfile.BLOCKSIZE)
    if header == bytes(tarfile.BLOCKSIZE):
        return None
    if len(header) < tarfile.BLOCKSIZE or int(header[148:154], 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise ValueError(f"no header of a tar at byte {at}")
    return _name(header), int(header[124:135], 8)


def _name(header: bytes) -> str:
    return header[:header.index(b"\0")].decode()


def read_sample(path: Path, place: Place) -> Sample:
    """Read the sample at one of `places`. Raises UserError if the shard has changed since."""
    header = place.offset - tarfile.BLOCKSIZE
    facts_at = _facts_at(place.offset, place.size)
    with explain_read_errors(path, "download"):
        content = read_at(path, header, facts_at + place.facts - header)
        facts = json.loads(content[facts_at - header:])
        labels = Labels(tuple(facts["classes"]), tuple(facts["confidences"]))
        key, _, extension = _name(content).partition(".")
        body = content[tarfile.BLOCKSIZE: tarfile.BLOCKSIZE + place.size]
        return Sample(key, extension, body, facts["url"], labels)


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Read bytes of a file with few system calls, since each one releases and takes the interpreter's lock."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def _facts_at(offset: int, length: int) -> int:
    """The offset of an image's JSON: after the padded image and a header."""
    return offset + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE + tarfile.BLOCKSIZE
