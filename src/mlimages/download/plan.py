"""Which shards there are, which are finished, and which lines remain to be fetched."""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mlimages.acquire.formats import PARTS, ListEntry, Part, line_offsets, list_file, read_list
from mlimages.core.errors import UserError
from mlimages.core.params import Download
from mlimages.core.publish import write_json
from mlimages.download.build import BuildRequest, account_path, local_pictures, read_account, source_digest
from mlimages.download.http.local_files import stamp
from mlimages.download.kept import KeptImages
from mlimages.download.ledger import LedgerRow, Reason, read_ledger
from mlimages.download.lines import PendingLine, Shard
from mlimages.download.mirrors import Mirrors
from mlimages.download.shards import ledger_path, shard_path
from mlimages.download.spool import Journal, LineResult, remove_orphans

ROUND = "round.json"
PUBLISHED = "published"


class Remaining(NamedTuple):
    """The list lines to fetch, and the number and the bytes of the images to copy from other downloads."""

    lines: int
    copies: int
    copied_bytes: int


class Plan:
    """The work folder of a download: `finished` shards, their `accounts`, and the `spools` of unfinished ones.

    A shard is finished when its account exists. A journal holds results that no build has used yet, so its shard is
    built again. A round of retries is a folder with the reasons to retry and a mark for each shard that is done. It
    begins only after everything was published.
    """

    def __init__(self, work: Path, lists: Path, manifest: Mapping[str, Any], params: Download) -> None:
        self.finished, self.accounts, self.spools = work / "out", work / "accounts", work / "spools"
        for folder in (self.accounts, self.spools):
            folder.mkdir(exist_ok=True)
        self._round, self._published = work / "round", work / PUBLISHED
        self._lists, self._manifest, self._params = lists, manifest, params
        self.shards = [shard for part in PARTS for shard in self._shards(part)]
        remove_orphans(self.spools)
        for shard in self.shards:
            self._forget_lost(shard)
        self._retried = self._begin_round() if params.retry and self._published.exists() else set()
        self.todo = self._find_todo()

    def reuse(self, kept: KeptImages) -> Iterator[int]:
        """Take over what other downloads have fetched, shard by shard. Yields the number of lines of each.

        Shards of the same list lines become hard links. Other lines get their results in the journal; their images are
        copied when the shard is built.
        """
        for shard in self.todo:
            if not self._params.files and self._link(shard, kept):
                yield shard.lines
            else:
                found = [result._replace(line=entry.line) for entry in self._unknown(shard)
                         if (result := kept.find(entry.source))
                         and self._accepts(result.reason, result.image.sha256 if result.image else "")]
                if found:
                    self._journal(shard).add(found)
                yield len(found)
        self.todo = self._find_todo()

    def remaining(self) -> Remaining:
        """What remains to be done. Reads each journal once."""
        lines, sizes = 0, []
        for shard in self.todo:
            results = self._journal(shard).results()
            lines += shard.lines - len(self._known(shard, results))
            sizes += [result.image.bytes for result in results.values() if result.image and "/" in result.image.path]
        return Remaining(lines, len(sizes), sum(sizes))

    def to_fetch(self, shard: Shard, mirrors: Mirrors, numbers: Iterator[int],
                 again: Collection[int] | None = None) -> Iterator[PendingLine]:
        """The shard's lines without a final result, in list order, or those with the numbers in `again`."""
        for entry in self._unknown(shard) if again is None else self._entries(shard):
            if again is None or entry.line in again:
                yield PendingLine(next(numbers), shard, entry.line, entry.source, mirrors.addresses(entry.source),
                                  self._params.deadline_seconds, stamp(self._params.files, entry.source))

    def images(self, shard: Shard) -> int:
        """How many of the shard's lines have an image, in the shard or stored for it."""
        ledger = ledger_path(shard_path(self.finished, shard.part, shard.number))
        have = {row.line: row.reason is Reason.OK for row in read_ledger(ledger)} if ledger.exists() else {}
        have |= {line: result.image is not None for line, result in self._journal(shard).results().items()}
        return sum(have.values())

    def request(self, shard: Shard) -> BuildRequest:
        """The request that builds the shard once its lines have ended."""
        return BuildRequest(self._placed(shard), self._list(shard.part), self._manifest["classes"], self.finished,
                            self.spools, self.accounts)

    def done(self, name: str) -> None:
        """The shard `name` is built: remove its journal and spools."""
        if self._retried:
            (self._round / name).touch()
        Journal(self.spools, name).remove()

    def end_round(self) -> None:
        """Everything is published: the next run with `download.retry` begins a new round."""
        self._published.touch()
        shutil.rmtree(self._round, ignore_errors=True)

    def _shards(self, part: Part) -> Iterator[Shard]:
        lines, each = self._manifest["files"][list_file(part, "openimages")]["records"], self._params.images_per_shard
        for number, first in enumerate(range(1, lines + 1, each)):
            yield Shard(part, number, first, min(each, lines + 1 - first))

    def _list(self, part: Part) -> Path:
        return self._lists / list_file(part, "openimages")

    def _placed(self, shard: Shard) -> Shard:
        """The shard with its position in the list."""
        begin, end = self._offsets[shard.part][shard.number: shard.number + 2]
        return shard._replace(offset=begin, bytes=end - begin)

    @cached_property
    def _offsets(self) -> dict[Part, list[int]]:
        """The offsets of the shards in each list, and the list's size."""
        return {part: [*line_offsets(self._list(part), self._params.images_per_shard), self._list(part).stat().st_size]
                for part in PARTS}

    def _entries(self, shard: Shard) -> Iterator[ListEntry]:
        entries = read_list(self._list(shard.part), "openimages", self._manifest["classes"], first=shard.first,
                            offset=self._placed(shard).offset)
        return itertools.islice(entries, shard.lines)

    def _unknown(self, shard: Shard) -> Iterator[ListEntry]:
        """The list lines of the shard without a final result."""
        known = self._known(shard, self._journal(shard).results())
        return (entry for entry in self._entries(shard) if entry.line not in known)

    def _journal(self, shard: Shard) -> Journal:
        return Journal(self.spools, shard.name)

    def _known(self, shard: Shard, results: Mapping[int, LineResult]) -> set[int]:
        """The lines with a final result, in `results` of the shard's journal or in its ledger."""
        known = {line for line, result in results.items() if self._is_current(result.url, result.stamp)}
        ledger = ledger_path(shard_path(self.finished, shard.part, shard.number))
        if ledger.exists():
            stamps = local_pictures(account_path(self.accounts, shard)) if self._params.files else {}
            known |= {row.line for row in read_ledger(ledger) if row.line not in results and not self._again(row)
                      and self._is_current(row.url, stamps.get(row.url, ""))}
        return known

    def _is_current(self, url: str, known: str) -> bool:
        """Whether a local picture is the one that was read, which had the stamp `known`; true for other URLs."""
        return stamp(self._params.files, url) == known

    def _forget_lost(self, shard: Shard) -> None:
        """Make a finished shard unfinished if its tar or its ledger is missing."""
        tar = shard_path(self.finished, shard.part, shard.number)
        if not (tar.exists() and ledger_path(tar).exists()):
            account_path(self.accounts, shard).unlink(missing_ok=True)
            ledger_path(tar).unlink(missing_ok=True)

    def _begin_round(self) -> set[Reason]:
        """The reasons to retry. The marks of a round for other reasons are removed."""
        reasons = sorted(self._params.retry)
        marker = self._round / ROUND
        if not marker.exists() or json.loads(marker.read_text()) != reasons:
            shutil.rmtree(self._round, ignore_errors=True)
            write_json(marker, reasons)
        return {Reason(reason) for reason in reasons}  # type: ignore[call-arg]

    def _find_todo(self) -> list[Shard]:
        return [shard for shard in self.shards if self._unfinished(shard) or self._to_retry(shard)]

    def _unfinished(self, shard: Shard) -> bool:
        account = account_path(self.accounts, shard)
        if not account.exists() or self._journal(shard).path.exists():
            return True
        return self._params.files is not None and not all(
            self._is_current(url, known) for url, known in local_pictures(account).items())

    def _to_retry(self, shard: Shard) -> bool:
        if not self._retried or (self._round / shard.name).exists():
            return False
        return any(map(self._again, read_ledger(ledger_path(shard_path(self.finished, shard.part, shard.number)))))

    def _again(self, row: LedgerRow) -> bool:
        """Whether this round retries a line: also one whose image is a known placeholder by now."""
        return row.reason in self._retried or (
            Reason.PLACEHOLDER in self._retried and row.sha256 in self._params.placeholders)

    def _accepts(self, reason: Reason, sha256: str) -> bool:
        """Whether a result of another download counts: no placeholders, and no failures that are to be retried."""
        if reason is Reason.OK:
            return sha256 not in self._params.placeholders
        return not self._retried and reason not in self._params.retry

    def _link(self, shard: Shard, kept: KeptImages) -> bool:
        """Take over a finished shard of the same list lines from another download, if there is one."""
        tar, account = shard_path(self.finished, shard.part, shard.number), account_path(self.accounts, shard)
        if ledger_path(tar).exists() or self._journal(shard).path.exists() or self._params.placeholders:
            return False
        tar.parent.mkdir(parents=True, exist_ok=True)
        for other in kept.accounts(source_digest(self._placed(shard), self._list(shard.part))):
            other_tar = shard_path(other.parents[1] / "out", shard.part, shard.number)
            with contextlib.suppress(OSError, UserError):  # gone or damaged, or a disk without hard links
                reasons = [Reason(name) for name in read_account(other)["reasons"]]  # type: ignore[call-arg]
                if (all(self._accepts(reason, "") for reason in reasons)
                        and kept.keeps(other.parents[1].name, reasons, ledger_path(other_tar))):
                    for source, target in ((other_tar, tar), (ledger_path(other_tar), ledger_path(tar)),
                                           (other, account)):
                        target.unlink(missing_ok=True)
                        os.link(source, target)
                    return True
            self._forget_lost(shard)
        return False
