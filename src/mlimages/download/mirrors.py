"""The addresses of a list's URL by the rules of download.mirrors, in their order."""

import base64
import binascii
import contextlib
import csv
import errno
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from mlimages.acquire.formats import LOCAL
from mlimages.core.errors import UserError, explain_disk_errors
from mlimages.core.params import Mirror
from mlimages.core.publish import move_into_place, sha256
from mlimages.download.lines import Address

COLUMNS = ("OriginalURL", "ImageID", "Subset", "OriginalMD5")
ROTATION = "Rotation"  # an optional column: degrees by which to rotate an image counterclockwise
ORIENTATIONS = {0: 1, 90: 8, 180: 3, 270: 6}  # the EXIF orientation for each rotation


def readable_tables(mirrors: Iterable[Mirror]) -> list[str]:
    """The tables that the mirrors use. Raises UserError if one cannot be read."""
    tables = [mirror.table for mirror in mirrors if mirror.table]
    for table in tables:
        with _reading(Path(table)), Path(table).open("rb"):
            pass
    return tables


class Mirrors:
    """Finds the addresses of URLs. Tables are indexed once, on disk in `folder`."""

    def __init__(self, mirrors: list[Mirror], folder: Path) -> None:
        self._rules = [(mirror, _Table(Path(mirror.table), folder) if mirror.table else None) for mirror in mirrors]

    def addresses(self, url: str) -> list[Address]:
        """The addresses of a URL's image, each once; the URL itself if no rule matches."""
        if url.startswith(LOCAL):
            return [Address(url, 0)]
        found: dict[str, Address] = {}
        for number, (mirror, table) in enumerate(self._rules):
            names = _names(url)
            if names is None or mirror.host not in ("*", names["host"]):
                continue
            md5, orientation = "", 1
            if table:
                row = table.find(url)
                if row is None:
                    continue
                names["id"], names["subset"], md5, orientation = row
            address = mirror.template.format(**names)
            found.setdefault(address, Address(address, number, md5 if address == url else "", orientation))
        return list(found.values()) or [Address(url, 0)]


def _names(url: str) -> dict[str, str] | None:
    """The values that a template can use, or None if the URL is invalid."""
    try:
        parts = urlsplit(url)
        return {"url": url, "scheme": parts.scheme, "host": parts.hostname or "",
                "path": parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")}
    except ValueError:
        return None


class _Table:
    """An SQLite index of a CSV table such as Open Images': id, subset, MD5 and orientation by URL."""

    def __init__(self, path: Path, folder: Path) -> None:
        with _reading(path):
            index = folder / f"{sha256(path)[:16]}.turned.sqlite"
        if not index.exists():
            partial = index.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            with explain_disk_errors(index):
                _index(path, partial)
                move_into_place(partial, index)
        self._database = sqlite3.connect(f"file:{index}?mode=ro", uri=True)

    def find(self, url: str) -> tuple[str, str, str, int] | None:
        """The id, subset, MD5 (hex digits or "") and EXIF orientation of a URL's image."""
        select = "SELECT id, subset, md5, turn FROM images WHERE url = ?"
        row = self._database.execute(select, (_digest(url),)).fetchone()
        return tuple(row) if row else None


def _index(path: Path, target: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(target)) as database:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("CREATE TABLE images (url INTEGER PRIMARY KEY, id TEXT, subset TEXT, md5 TEXT, turn INT)")
            database.executemany("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)", _rows(path))
            database.commit()
    except sqlite3.OperationalError as error:  # the disk is full or fails
        raise OSError(errno.EIO, str(error)) from None


def _rows(path: Path) -> Iterator[tuple[int, str, str, str, int]]:
    with _reading(path), path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or []):
            raise UserError(f"{path} has the columns {', '.join(reader.fieldnames or [])}; expected a table of "
                            f"images with {', '.join(COLUMNS)} (download.mirrors)")
        for row in reader:
            try:
                orientation = _orientation(row.get(ROTATION))
            except ValueError:
                raise UserError(f"{path}, line {reader.line_num}: {ROTATION} is {row[ROTATION]!r}, expected "
                                f"{', '.join(map(str, ORIENTATIONS))} or nothing (download.mirrors)") from None
            yield _digest(row["OriginalURL"]), row["ImageID"], row["Subset"], _hex(row["OriginalMD5"]), orientation


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table of images: {error}; expected a CSV file with "
                        f"{', '.join(COLUMNS)} (download.mirrors)") from None


def _digest(url: str) -> int:
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), "big", signed=True)


def _orientation(degrees: str | None) -> int:
    """The EXIF orientation for a rotation; 1 if it is unknown. Raises ValueError for other than quarter turns."""
    if not degrees or degrees.lower() == "nan":
        return 1
    if (orientation := ORIENTATIONS.get(float(degrees))) is None:  # type: ignore[call-overload]
        raise ValueError
    return orientation


def _hex(md5: str) -> str:
    """Convert an MD5 from base64 to hex digits. Returns "" if it is missing or invalid."""
    try:
        return base64.b64decode(md5, validate=True).hex()
    except (binascii.Error, ValueError):
        return ""
