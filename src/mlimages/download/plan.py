"""Which shards there are, which are finished, and which lines are still to fetch."""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mlimages.acquire.formats import PARTS, Part, line_offsets, list_file, read_list
from mlimages.core.params import Download
from mlimages.core.publish import write_json
from mlimages.download.build import BuildRequest, account_path
from mlimages.download.ledger import LedgerRow, Reason, read_ledger
from mlimages.download.lines import PendingLine, Shard
from mlimages.download.mirrors import Mirrors
from mlimages.download.shards import ledger_path, shard_path
from mlimages.download.spool import Journal, remove_orphans

ROUND = "round.json"
PUBLISHED = "published"
UNVERIFIED = "unverified"


class Plan:
    """The work folder of a download: `finished` shards, their `accounts`, and the `spools` of those under way.

    A round of retries is a folder with the reasons to retry and a mark for each shard that it is done with. It begins
    only once all has been published. A shard is finished when its account exists. A journal holds results that no
    build has used yet, so its shard is built again.
    """

    def __init__(self, work: Path, lists: Path, manifest: Mapping[str, Any], params: Download) -> None:
        self.finished, self.accounts, self.spools = work / "out", work / "accounts", work / "spools"
        self.spools.mkdir(exist_ok=True)
        self._round, self._published, self._unverified = work / "round", work / PUBLISHED, work / UNVERIFIED
        self._lists, self._manifest, self._params = lists, manifest, params
        self.shards = [shard for part in PARTS for shard in self._shards(part)]
        remove_orphans(self.spools)
        for shard in self.shards:
            self._forget_lost(shard)
        self._retried = self._begin_round() if params.retry and self._published.exists() else set()
        self.todo = [shard for shard in self.shards if self._unfinished(shard) or self._to_retry(shard)]

    def begin_fetching(self) -> None:
        """Note for good where certificates are not verified."""
        if not self._params.verify:
            self._unverified.touch()

    @property
    def verified(self) -> bool:
        """Whether the certificates of all hosts had to hold, in every run that fetched something."""
        return not self._unverified.exists()

    def lines_of(self, part: Part) -> int:
        """How many lines the part's list has."""
        return self._manifest["files"][list_file(part, "openimages")]["records"]

    def to_fetch(self, shard: Shard, mirrors: Mirrors, tickets: Iterator[int]) -> Iterator[PendingLine]:
        """The shard's lines of which nothing final is known, in list order."""
        known = self._known(shard)
        job = self.job(shard)
        entries = read_list(job.list, "openimages", job.classes, first=job.shard.first, offset=job.shard.offset)
        for entry in itertools.islice(entries, shard.lines):
            if entry.line not in known:
                yield PendingLine(next(tickets), shard, entry.line, mirrors.addresses(entry.source),
                           self._params.deadline_seconds)

    def left(self, shard: Shard) -> int:
        """How many lines `to_fetch` yields."""
        return shard.lines - len(self._known(shard))

    def images(self, shard: Shard) -> int:
        """How many of the shard's lines have an image by now, in the shard or waiting for it."""
        ledger = ledger_path(shard_path(self.finished, shard.part, shard.number))
        have = {row.line: row.reason is Reason.OK for row in read_ledger(ledger)} if ledger.exists() else {}
        have |= {entry.line: entry.image is not None for entry in Journal(self.spools, shard.name).read()}
        return sum(have.values())

    def job(self, shard: Shard) -> BuildRequest:
        """What makes the shard once its lines have ended."""
        placed = shard._replace(offset=self._offsets[shard.part][shard.number])
        return BuildRequest(placed, self._lists / list_file(shard.part, "openimages"), self._manifest["classes"],
                     self.finished, self.spools, self.accounts)

    def done(self, name: str) -> None:
        """The shard of that name is built: forget what it was built from."""
        if self._retried:
            (self._round / name).touch()
        Journal(self.spools, name).remove()

    def end_round(self) -> None:
        """All is published: the next run with `download.retry` begins a new round."""
        self._published.touch()
        shutil.rmtree(self._round, ignore_errors=True)

    def _shards(self, part: Part) -> Iterator[Shard]:
        lines, each = self.lines_of(part), self._params.images_per_shard
        for number, first in enumerate(range(1, lines + 1, each)):
            yield Shard(part, number, first, min(each, lines + 1 - first), 0)

    def _forget_lost(self, shard: Shard) -> None:
        """A finished shard without its tar or its ledger counts as unfinished, and is fetched again."""
        tar = shard_path(self.finished, shard.part, shard.number)
        if not (tar.exists() and ledger_path(tar).exists()):
            account_path(self.accounts, shard).unlink(missing_ok=True)
            ledger_path(tar).unlink(missing_ok=True)

    @cached_property
    def _offsets(self) -> dict[Part, list[int]]:
        return {part: list(line_offsets(self._lists / list_file(part, "openimages"), self._params.images_per_shard))
                for part in PARTS}

    def _begin_round(self) -> set[Reason]:
        """The reasons to retry; marks of a round for other reasons are forgotten."""
        reasons = sorted(self._params.retry)
        marker = self._round / ROUND
        if not marker.exists() or json.loads(marker.read_text()) != reasons:
            shutil.rmtree(self._round, ignore_errors=True)
            write_json(marker, reasons)
        return {Reason(reason) for reason in reasons}  # type: ignore[call-arg]

    def _unfinished(self, shard: Shard) -> bool:
        return not account_path(self.accounts, shard).exists() or Journal(self.spools, shard.name).path.exists()

    def _to_retry(self, shard: Shard) -> bool:
        if not self._retried or (self._round / shard.name).exists():
            return False
        return any(map(self._again, read_ledger(ledger_path(shard_path(self.finished, shard.part, shard.number)))))

    def _again(self, row: LedgerRow) -> bool:
        """Whether this round asks for a line again: also for an image that is called a placeholder by now."""
        return row.reason in self._retried or (
            Reason.PLACEHOLDER in self._retried and row.sha256 in self._params.placeholders)

    def _known(self, shard: Shard) -> set[int]:
        known = {entry.line for entry in Journal(self.spools, shard.name).read()}
        ledger = ledger_path(shard_path(self.finished, shard.part, shard.number))
        if ledger.exists():
            known |= {row.line for row in read_ledger(ledger) if not self._again(row)}
        return known
