"""Builds a shard: from its journal and the stored images to its tar, its ledger and its account."""

import errno
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlimages.acquire.formats import LOCAL, read_list
from mlimages.core.errors import explain_read_errors
from mlimages.core.publish import fsync, sha256, write_json
from mlimages.download.ledger import LedgerRow, Reason, read_ledger, write_ledger
from mlimages.download.lines import Shard
from mlimages.download.shards import Sample, key_of, ledger_path, named_places, read_at, shard_path, write_shard
from mlimages.download.spool import Journal, LineResult, Spools

LOCAL_PICTURES = "files"  # in an account
UNREADABLE = {errno.ENOENT, errno.EIO}


class BuildRequest(NamedTuple):
    """Build one shard in `finished` from its journal in `spools`. Lines without a result there stay as they were."""

    shard: Shard
    list: Path
    classes: int
    finished: Path
    spools: Path
    accounts: Path


class BuildResult(NamedTuple):
    """The shard `name` is finished, or the images of the `damaged` lines must be fetched again first."""

    name: str
    damaged: tuple[int, ...] = ()


class _Damaged(Exception):
    """Stored images are missing or have another sha256."""


def account_path(accounts: Path, shard: Shard) -> Path:
    """The account of a shard. The shard is finished if this file exists."""
    return accounts / f"{shard.name}.json"


def source_digest(shard: Shard, list_path: Path) -> str:
    """The sha256 of the list lines of a shard and of their place, which decide its keys, URLs and labels."""
    with list_path.open("rb") as file:
        file.seek(shard.offset)
        return hashlib.sha256(f"{shard.name} {shard.first}\n".encode() + file.read(shard.bytes)).hexdigest()


def build(request: BuildRequest) -> BuildResult:
    """Write the tar, the ledger and, last, the account: reasons, bytes, sha256s of both files, and `source_digest`.

    The account of an earlier build is removed first, so that the shard is unfinished while its files change. If stored
    images are damaged, the tar and the ledger are not written.
    """
    shard, path = request.shard, shard_path(request.finished, request.shard.part, request.shard.number)
    account = account_path(request.accounts, shard)
    stamps = local_pictures(account)
    if account.exists():
        account.unlink()
        fsync(request.accounts)
    rows: list[LedgerRow] = []
    damaged: list[int] = []
    try:
        digest = write_shard(path, _samples(request, path, rows, damaged, stamps))
    except _Damaged:
        return BuildResult(shard.name, tuple(damaged))
    write_ledger(ledger_path(path), rows)
    write_json(account, {
        "lines": len(rows), "images": sum(row.reason is Reason.OK for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "reasons": Counter(row.reason for row in rows),
        "sha256": {"tar": digest, "ledger": sha256(ledger_path(path))},
        "source": source_digest(shard, request.list),
        **({LOCAL_PICTURES: stamps} if stamps else {}),
    })
    return BuildResult(shard.name)


def read_account(path: Path) -> dict[str, Any]:
    with explain_read_errors(path, "download"):
        return json.loads(path.read_text())


def local_pictures(account: Path) -> dict[str, str]:
    """The stamps of the local pictures of a finished shard, by their sources; empty without an account."""
    return read_account(account).get(LOCAL_PICTURES, {}) if account.exists() else {}


def _samples(request: BuildRequest, path: Path, rows: list[LedgerRow], damaged: list[int],
             stamps: dict[str, str]) -> Iterator[Sample]:
    """Yield the shard's images in list order. Add a ledger row for each line to `rows`, and new `stamps`.

    Raises _Damaged at the end if images are damaged, with their lines in `damaged`.
    """
    shard, spools = request.shard, Spools(request.spools)
    results = Journal(request.spools, shard.name).results()
    before = {row.line: row for row in read_ledger(ledger_path(path))} if ledger_path(path).exists() else {}
    built = {name.partition(".")[0]: (name, place) for name, place in named_places(path)} if before else {}
    lines = read_list(request.list, "openimages", request.classes, first=shard.first, offset=shard.offset)
    for entry in itertools.islice(lines, shard.lines):
        key = key_of(shard.part, entry.line)
        result = results.get(entry.line)
        row = _row(result, entry.source, key) if result else before[entry.line]
        rows.append(row)
        if result and entry.source.startswith(LOCAL):
            stamps[entry.source] = result.stamp
        if row.reason is not Reason.OK:
            continue
        try:
            if result and result.image:
                body, extension = spools.read(result.image), result.image.extension
            else:
                name, place = built[key]
                body, extension = read_at(path, place.offset, place.size), name.partition(".")[2]
        except KeyError:
            body, extension = b"", ""
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            body, extension = b"", ""
        if hashlib.sha256(body).hexdigest() == row.sha256:
            yield Sample(key, extension, body, entry.source, entry.labels)
        else:
            damaged.append(entry.line)
    if damaged:
        raise _Damaged


def _row(result: LineResult, url: str, key: str) -> LedgerRow:
    row = LedgerRow(result.line, url, key, result.reason, result.http_status, mirror=result.mirror,
                    detail=result.detail)
    if image := result.image:
        row = row._replace(bytes=image.bytes, sha256=image.sha256, width=image.width, height=image.height)
    return row
