"""Finds by URL what earlier downloads fetched, in whatever list, sample, order and size of shards.

The images stay in the shards and spools of the work folders in scratch/download. An SQLite database, one for all work
folders whose images the same parameters made, says where. It is derived from ledgers, shards and journals alone: an
update adds what is new, and builds it from the start if it is damaged or an indexed file is gone. It need not be true:
whoever reads an image compares its sha256.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlimages.acquire.formats import LOCAL
from mlimages.core import scratch
from mlimages.core.errors import UserError, explain_disk_errors
from mlimages.core.params import Download, Machine
from mlimages.core.publish import write_json
from mlimages.download.build import read_account
from mlimages.download.check_image import Limits, limits_of
from mlimages.download.ledger import LedgerRow, Reason, read_ledger
from mlimages.download.shards import ledger_path, named_places
from mlimages.download.spool import LineResult, StoredImage, read_journal

FETCHED_WITH = "fetched_with.json"
# The parameters that change an image or whether a response counts as one, and with which it is found again.
DECISIVE = ("shorter_side", "quality", "ports", "respect_opt_out")
# A failure for one of these reasons counts unless the limit is looser now.
LIMITS = {Reason.TOO_LARGE: "max_bytes", Reason.TOO_MANY_PIXELS: "max_pixels", Reason.TOO_FEW_BYTES: "min_bytes",
          Reason.TOO_SMALL: "min_side", Reason.ASPECT_RATIO: "max_aspect_ratio"}
ACCEPTED = (Reason.OK, "")
SCHEMA = 1
FILES_IN_A_TRANSACTION = 1000
CACHE_KIB = 65_536
NO_DATABASE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
TABLES = """
CREATE TABLE shards (id INTEGER PRIMARY KEY AUTOINCREMENT, content TEXT UNIQUE, source TEXT);
CREATE TABLE files (path TEXT PRIMARY KEY, stamp TEXT, shard INTEGER);
CREATE TABLE lines (url BLOB PRIMARY KEY, shard INTEGER, reason TEXT, http_status INTEGER, mirror INTEGER,
    detail TEXT, spool TEXT, offset INTEGER, bytes INTEGER, sha256 BLOB, width INTEGER, height INTEGER,
    extension TEXT) WITHOUT ROWID;
CREATE INDEX sources ON shards (source);
CREATE INDEX files_of_shards ON files (shard);
"""


class FetchedWith(NamedTuple):
    """With which parameters the images of a work folder were fetched: a hash, and the limits."""

    key: str
    limits: Limits


def fetched_with(params: Download, format_version: int, *, verified: bool) -> FetchedWith:
    """What these parameters make of a response; `verified` says whether certificates were checked."""
    values = {name: getattr(params, name) for name in DECISIVE}
    return FetchedWith(scratch.key({"format": format_version, "verified": verified, **values}), limits_of(params))


def record_fetched_with(work: Path, current: FetchedWith) -> None:
    """Record the parameters of a work folder if it has no record yet."""
    if _read_fetched_with(work) is None:
        write_json(work / FETCHED_WITH, {"key": current.key, **current.limits._asdict()})


def _read_fetched_with(work: Path) -> FetchedWith | None:
    """The record of a work folder; None if there is none, as in folders of older versions, or if it is damaged."""
    try:
        found = json.loads((work / FETCHED_WITH).read_text())
        return FetchedWith(found.pop("key"), Limits(**found))
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


class KeptImages:
    """The results of all downloads with the parameters `params`, for the one that runs in the work folder `work`.

    Without `params.verify`, those whose certificates were verified count too.
    """

    def __init__(self, machine: Machine, work: Path, params: Download, format_version: int) -> None:
        self._work, self._downloads, self._params = work, work.parent, params
        self._limits = limits_of(params)
        self._keys = {fetched_with(params, format_version, verified=verified).key
                      for verified in {True, params.verify}}
        name = fetched_with(params, format_version, verified=params.verify).key
        self._path = scratch.root(machine) / "fetched" / f"{name}.sqlite"
        self._folders: dict[str, FetchedWith] = {}
        self._database: sqlite3.Connection | None = None

    def update(self) -> None:
        """Bring the index up to date with the work folders. Raises DiskError if the disk is full or fails."""
        self._folders = {folder.name: record for folder in self._downloads.iterdir()
                         if (record := _read_fetched_with(folder)) and record.key in self._keys}
        if not self._path.exists() and not any(map(any, map(self._files, self._folders))):
            return
        with explain_disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time updates the index
                for _ in range(2):
                    try:
                        self._database = self._database or _open(self._path)
                        return self._update(self._database)
                    except sqlite3.DatabaseError as error:
                        _raise_disk_error(error)
                        self._discard()
        raise OSError(errno.EIO, "the index is damaged again")

    def others(self) -> bool:
        """Whether there are results of other downloads than this one."""
        return bool(self._select("SELECT path FROM files WHERE path NOT LIKE ? LIMIT 1", f"{self._work.name}/%"))

    def find(self, url: str) -> LineResult | None:
        """The result of a URL, as of line 0; the path of its image is relative to the spools of a work folder.

        There is none for a local picture, whose file may have changed.
        """
        if url.startswith(LOCAL):
            return None
        query = ("SELECT files.path, lines.* FROM lines JOIN files ON files.shard = lines.shard WHERE url = ?")
        for path, *row in self._select(query, _digest(url)):
            folder, _, shard = path.split("/")
            _, _, text, status, mirror, detail, spool, offset, size, sha256, width, height, extension = row
            try:
                reason = Reason(text)  # type: ignore[call-arg]
            except ValueError:
                continue
            stored = f"../../{folder}/spools/{spool}" if spool else f"../../{folder}/{_tar_of(shard)}"
            image = StoredImage(stored, offset, size, sha256.hex(), width, height, extension) if size else None
            if result := self._judged(folder, LineResult(0, reason, status, mirror, image, detail, url)):
                return result
        return None

    def accounts(self, source: str) -> Iterator[Path]:
        """The accounts of finished shards with this `source_digest`, the latest first."""
        query = ("SELECT files.path FROM shards JOIN files ON files.shard = shards.id WHERE source = ? "
                 "ORDER BY shards.id DESC")
        return (self._downloads / path for path, in self._select(query, source))

    def keeps(self, folder: str, reasons: Iterable[Reason], ledger: Path) -> bool:
        """Whether a download with the current limits gives the same rows as a ledger of a work folder.

        `reasons` are those of the rows. The ledger is read only if a limit is stricter now.
        """
        fetched = self._folders.get(folder)
        if fetched is None or not all(self._counts(fetched, reason) for reason in reasons):
            return False
        return not self._limits.stricter_than(fetched.limits) or all(
            row.reason is not Reason.OK or self._verdict(fetched, row) == ACCEPTED for row in read_ledger(ledger))

    def _judged(self, folder: str, result: LineResult) -> LineResult | None:
        """The result under the current limits: unchanged, refused by one of them, or None if it must be fetched again.
        """
        fetched = self._folders.get(folder)
        if fetched is None or not self._counts(fetched, result.reason):
            return None
        if result.image is None:
            return result
        verdict = self._verdict(fetched, result.image)
        if verdict is None or (verdict != ACCEPTED and len(self._params.mirrors) > 1):  # another mirror's may do
            return None
        reason, detail = verdict
        return result if reason is Reason.OK else result._replace(reason=reason, detail=detail, image=None)

    def _counts(self, fetched: FetchedWith, reason: Reason) -> bool:
        """Whether a reason still holds: that of a limit does unless the limit is looser now."""
        return LIMITS.get(reason) not in fetched.limits.stricter_than(self._limits)

    def _verdict(self, fetched: FetchedWith, image: StoredImage | LedgerRow) -> tuple[Reason, str] | None:
        """The reason and the detail that the current limits give an image; None if that is not known.

        An image that was made smaller has other sides and bytes than the one that came.
        """
        stricter = self._limits.stricter_than(fetched.limits)
        shorter, longer = sorted((image.width, image.height))
        if not stricter or shorter != self._params.shorter_side:
            return (self._limits.refusal(image.bytes, image.width, image.height) if stricter else None) or ACCEPTED
        certain = {"min_side": shorter >= (self._limits.min_side or 0),
                   "max_aspect_ratio": longer + 1 <= (self._limits.max_aspect_ratio or math.inf) * shorter}
        return ACCEPTED if all(certain.get(name) for name in stricter) else None

    def _files(self, folder: str) -> Iterator[tuple[str, str]]:
        """The accounts and then the journals of a work folder, with what changes when they do."""
        for kind, end in (("accounts", ".json"), ("spools", ".journal")):
            with contextlib.suppress(FileNotFoundError), os.scandir(self._downloads / folder / kind) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.endswith(end) and not entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):  # another process finishes the shard
                            state = entry.stat()
                            yield f"{folder}/{kind}/{entry.name}", f"{state.st_mtime_ns}-{state.st_size}-{state.st_ino}"

    def _select(self, query: str, *values: Any) -> list[Any]:
        for _ in range(2):
            if self._database is None:
                return []
            try:
                return self._database.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                with explain_disk_errors(self._path):
                    _raise_disk_error(error)
            self._discard()
            self.update()
        return []

    def _discard(self) -> None:
        if self._database:
            self._database.close()
        self._database = None
        for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
            path.unlink(missing_ok=True)

    def _update(self, database: sqlite3.Connection) -> None:
        found = {path: stamp for name in self._folders for path, stamp in self._files(name)}
        known = {path: (stamp, shard) for path, stamp, shard in database.execute("SELECT * FROM files")}
        lost = {shard for path, (_, shard) in known.items() if path not in found and not _finished(path, found)}
        if lost - {shard for path, (_, shard) in known.items() if path in found}:  # other files may have its URLs
            database.executescript("DELETE FROM files; DELETE FROM shards; DELETE FROM lines;")
            known = {}
        database.executemany("DELETE FROM files WHERE path = ?",
                             [(path,) for path, (stamp, _) in known.items() if found.get(path) != stamp])
        new = [path for path, stamp in found.items() if path not in known or known[path][0] != stamp]
        for number, path in enumerate(sorted(new, key=lambda path: int(found[path].partition("-")[0])), start=1):
            with contextlib.suppress(FileNotFoundError, UserError):  # gone in the meantime, or damaged
                self._add(database, path, found[path])
            if number % FILES_IN_A_TRANSACTION == 0:
                database.commit()
        database.execute("DELETE FROM shards WHERE id NOT IN (SELECT shard FROM files)")
        database.commit()

    def _add(self, database: sqlite3.Connection, path: str, stamp: str) -> None:
        file = self._downloads / path
        if path.endswith(".journal"):
            content, source = f"{path} {stamp}", ""
        else:
            account = read_account(file)
            content, source = "".join(account["sha256"].values()), account.get("source", "")
        row = database.execute("SELECT id FROM shards WHERE content = ?", (content,)).fetchone()
        if row is None:
            results = list(_journal_results(file) if path.endswith(".journal") else _shard_results(file))
            row = database.execute("INSERT INTO shards (content, source) VALUES (?, ?) RETURNING id",
                                   (content, source)).fetchone()
            database.executemany("INSERT OR REPLACE INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                                 [_row(result, *row) for result in results])
        database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (path, stamp, *row))


def _open(path: Path) -> sqlite3.Connection:
    """The database, with its tables. Raises sqlite3.DatabaseError if the file is damaged."""
    database = sqlite3.connect(path, timeout=600.0)
    [version] = database.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA:
        if database.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
            database.close()
            path.unlink()
            return _open(path)
        database.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return database


def _raise_disk_error(error: sqlite3.DatabaseError) -> None:
    """Return if the database is damaged; raise OSError if the disk is full or fails."""
    if (error.sqlite_errorcode & 0xFF) not in NO_DATABASE:
        raise OSError(errno.ENOSPC if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL else errno.EIO,
                      str(error)) from None


def _finished(journal: str, found: Collection[str]) -> bool:
    """Whether the shard of a journal that is gone has been finished."""
    folder, kind, name = journal.split("/")
    return kind == "spools" and f"{folder}/accounts/{name.removesuffix('.journal')}.json" in found


def _shard_results(account: Path) -> Iterator[LineResult]:
    """The results of a finished shard."""
    tar = account.parents[1] / _tar_of(account.name)
    places = dict((name.partition(".")[0], (name, place)) for name, place in named_places(tar))
    for row in read_ledger(ledger_path(tar)):
        image = None
        if row.reason is Reason.OK:
            if row.key not in places:
                continue
            name, place = places[row.key]
            image = StoredImage("", place.offset, place.size, row.sha256, row.width, row.height, name.partition(".")[2])
        yield LineResult(row.line, row.reason, row.http_status, row.mirror, image, row.detail, row.url)


def _journal_results(journal: Path) -> Iterator[LineResult]:
    """The results of an unfinished shard whose images are in its own spools."""
    for result in read_journal(journal):
        if result.url and not (result.image and "/" in result.image.path):  # else it is in another file
            yield result


def _row(result: LineResult, shard: int) -> tuple[Any, ...]:
    """A row of the table `lines`."""
    image = result.image or StoredImage("", 0, 0, "", 0, 0, "")
    return (_digest(result.url), shard, result.reason.value, result.http_status, result.mirror, result.detail,
            image.path, image.offset, image.bytes, bytes.fromhex(image.sha256), image.width, image.height,
            image.extension)


def _tar_of(account: str) -> str:
    """Where the tar of a shard lies in its work folder; `account` is the name of its account or journal."""
    part, _, number = account.partition(".")[0].partition("-")
    return f"out/{part}/{number}.tar"


def _digest(url: str) -> bytes:
    return hashlib.blake2b(url.encode(), digest_size=16).digest()
