"""From a shard's journal and spools to its tar, its ledger and its account, in list order."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlimages.acquire.formats import read_list
from mlimages.core.errors import UserError, rebuild_hint
from mlimages.core.publish import fsync, sha256, write_json
from mlimages.download.ledger import LedgerRow, Reason, read_ledger, write_ledger
from mlimages.download.lines import Shard
from mlimages.download.shards import Member, Sample, index_shard, key_of, ledger_path, shard_path, write_shard
from mlimages.download.spool import Journal, LineResult, Spools


class BuildRequest(NamedTuple):
    """Make one shard in `finished` from its journal in `spools`; lines that are not there stay as they were."""

    shard: Shard
    list: Path
    classes: int
    finished: Path
    spools: Path
    accounts: Path


class BuildResult(NamedTuple):
    """The shard of that name is finished."""

    name: str


def account_path(accounts: Path, shard: Shard) -> Path:
    """Where a finished shard's account lies: its existence says that the shard is finished."""
    return accounts / f"{shard.name}.json"


def build(job: BuildRequest) -> BuildResult:
    """Write the tar, the ledger, and last the account: reasons, bytes, and the sha256 of both files.

    An account of an earlier build is removed first: while the files change, the shard is not finished. UserError where
    a spool does not hold what was put there: its lines are to be fetched again.
    """
    path = shard_path(job.finished, job.shard.part, job.shard.number)
    account = account_path(job.accounts, job.shard)
    if account.exists():
        account.unlink()
        fsync(job.accounts)
    rows: list[LedgerRow] = []
    digest = write_shard(path, _samples(job, path, rows))
    write_ledger(ledger_path(path), rows)
    write_json(account, {
        "lines": len(rows), "images": sum(row.reason is Reason.OK for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "reasons": Counter(row.reason for row in rows),
        "sha256": {"tar": digest, "ledger": sha256(ledger_path(path))},
    })
    return BuildResult(job.shard.name)


def read_account(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {rebuild_hint('download')}") from None


def _samples(job: BuildRequest, path: Path, rows: list[LedgerRow]) -> Iterator[Sample]:
    """The shard's images in list order; fills `rows` with a ledger row for each line on the way."""
    shard, spools = job.shard, Spools(job.spools)
    fetched = {entry.line: entry for entry in Journal(job.spools, shard.name).read()}
    before = {row.line: row for row in read_ledger(ledger_path(path))} if ledger_path(path).exists() else {}
    members = {member.key: member for member in index_shard(path)} if before else {}
    lines = read_list(job.list, "openimages", job.classes, first=shard.first, offset=shard.offset)
    for line in itertools.islice(lines, shard.lines):
        key = key_of(shard.part, line.line)
        entry = fetched.get(line.line)
        row = _row(entry, line.source, key) if entry else before[line.line]
        rows.append(row)
        if row.reason is Reason.OK:
            body, extension = _body(job, spools, row, entry, members)
            yield Sample(key, extension, body, line.source, line.labels)


def _row(entry: LineResult, url: str, key: str) -> LedgerRow:
    row = LedgerRow(entry.line, url, key, entry.reason, entry.http_status, mirror=entry.mirror, detail=entry.detail)
    if image := entry.image:
        row = row._replace(bytes=image.bytes, sha256=image.sha256, width=image.width, height=image.height)
    return row


def _body(job: BuildRequest, spools: Spools, row: LedgerRow, entry: LineResult | None,
          members: dict[str, Member]) -> tuple[bytes, str]:
    """An image's bytes and extension, from the spool or from the shard as it was."""
    if entry and entry.image:
        body = spools.read(entry.image)
        if hashlib.sha256(body).hexdigest() != row.sha256:
            Journal(job.spools, job.shard.name).remove()
            raise UserError(f"{job.spools / entry.image.spool} does not hold the image of list line {row.line} that "
                            f"was put there, maybe since the power failed; the {job.shard.lines} lines of the shard "
                            f"{job.shard.name} are forgotten: run the same command again, which fetches them")
        return body, entry.image.extension
    member = members[row.key]
    return member.read(), member.extension
