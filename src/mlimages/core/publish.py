"""Write files and folders atomically, and verify them by manifests.

Every published folder has a manifest.json: the sha256, byte count and record count of each file. The next stage checks
it before it starts, so that a damaged, missing or swapped file stops it instead of shrinking the data set.

    python -m mlimages.core.publish data/tfrecords     # reads every file, and compares it with the manifest
"""

import codecs
import contextlib
import csv
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from mlimages.core.errors import (
    UserError,
    check_space,
    command,
    explain_disk_errors,
    explain_read_errors,
    read_error,
    rebuild_hint,
)

MANIFEST = "manifest.json"
STAGE = "verb"  # the key of the stage in a manifest. Under another name, no folder of scratch/ would be found again
SLOW_BYTES = 10**9  # reading this much takes seconds or more, so a line announces it
PARTIAL_FILES = ".*.partial"  # of `atomic_write`, while it writes or after a kill


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing. It gets the name `path` when the block ends without an exception.

    Two processes can write the same file at the same time, as when a lost node of a cluster still works for a while.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with explain_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                yield file
            move_into_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def move_into_place(partial: Path, path: Path) -> None:
    """Rename a finished file to `path`, in the same folder, after it is on the disk."""
    with explain_disk_errors(path):
        fsync(partial)
        partial.rename(path)
        fsync(path.parent)


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file with a header line and `\\n` line ends."""
    with atomic_write(path) as file:
        writer = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex. Raises UserError if it cannot be read."""
    with path.open("rb") as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise read_error(path, error) from None


def publish(folder: Path, out: str | Path, *, stage: str, records: Mapping[str, int],
            digests: Mapping[str, str] | None = None, **facts: Any) -> None:
    """Replace `out` by a folder of hard links to all files of `folder`, and a manifest.

    `records` maps paths inside `folder` to their number of records, and `digests` to their sha256 if it is known.
    `facts` are what the next stage must know beside the files. The manifest holds all of them, and nothing about the
    machine or the time: equal results have equal manifests.

    On another disk the links are copies. Raises UserError if they do not fit there, or if a file of `records` or
    `digests` is missing.
    """
    out = Path(out)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                   if path.is_file() and not path.match(PARTIAL_FILES))
    if missing := sorted({*records, *(digests or {})}.difference(names)):
        raise UserError(f"{folder / missing[0]} is missing, but {stage} had finished it ({len(missing)} such files); "
                        f"run the same command again, which makes it again")
    partial, old = (out.with_name(f".{out.name}.{state}") for state in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with explain_disk_errors(out):
        partial.mkdir(parents=True)
        if partial.stat().st_dev != folder.stat().st_dev:
            check_space(partial.parent, sum((folder / name).stat().st_size for name in names),
                       f"the copy of {folder}, which lies on another disk than {out},")
        for name in names:
            _link(folder / name, partial / name)
        for parent in {(partial / name).parent for name in names}:
            fsync(parent)
        sums = dict(digests or {})
        unread = [name for name in names if name not in sums]
        sums.update(zip(unread, _sha256s([folder / name for name in unread]), strict=True))
        files = {name: {"sha256": sums[name], "bytes": (folder / name).stat().st_size, "records": records.get(name)}
                 for name in names}
        write_json(partial / MANIFEST, {STAGE: stage, "files": files, **facts})
        if out.exists():
            out.rename(old)
        partial.rename(out)
        fsync(out.parent)
        shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: str | Path, stage: str) -> dict[str, Any]:
    """Read the manifest of `stage` in `folder`. Raises UserError if it is missing, damaged or another stage's."""
    path = Path(folder) / MANIFEST
    with explain_read_errors(path, stage):
        if not path.exists():
            raise UserError(f"{path} is missing: the stage {stage} has not finished; run `dvc repro {stage}`")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, _ = manifest[STAGE], manifest["files"]
    if found != stage:
        raise UserError(f"{path} was written by {found}, expected {stage}; {rebuild_hint(stage)}")
    return manifest


def verify(folder: str | Path, stage: str, *, stamps: Path | None = None,
           select: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """Check the size and sha256 of every file that `select` accepts by name. Returns the manifest.

    With a folder `stamps`, it stores there the sha256, size, modification time and inode of every undamaged file. A
    file for which they are unchanged is not read again.

    Raises UserError for a missing or damaged file, and as `read_manifest` does.
    """
    folder, manifest = Path(folder), read_manifest(folder, stage)
    advice = f"it was damaged since; {rebuild_hint(stage)}"
    files = {name: fact for name, fact in manifest["files"].items() if select(name)}
    stamp = stamps and stamps / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"
    known, found = _read_stamp(stamp), {}
    for name, fact in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing, but {folder / MANIFEST} lists it; {advice}")
        state = path.stat()
        if state.st_size != fact["bytes"]:
            raise UserError(f"{path} has {state.st_size} bytes, {folder / MANIFEST} says {fact['bytes']}; {advice}")
        found[name] = [fact["sha256"], state.st_size, state.st_mtime_ns, state.st_ino]
    unread = [name for name in files if found[name] != known.get(name)]
    size = sum(files[name]["bytes"] for name in unread)
    if stamp and size >= SLOW_BYTES:
        print(f"{folder}: reading {len(unread):,} files of {size / 1e9:,.1f} GB to check their sha256, once for each "
              f"change of a file", flush=True)
    for name, digest in zip(unread, _sha256s([folder / name for name in unread]), strict=True):
        if digest != files[name]["sha256"]:
            raise UserError(f"{folder / name} has the sha256 {digest}, {folder / MANIFEST} says "
                            f"{files[name]['sha256']}; {advice}")
    if stamp and unread:
        write_json(stamp, known | found)
    return manifest


def _read_stamp(stamp: Path | None) -> dict[str, Any]:
    """The state of each file when it was last read; empty without a stamp or with a damaged one."""
    try:
        found = json.loads(stamp.read_text(encoding="utf-8")) if stamp else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sha256s(paths: list[Path]) -> Iterator[str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(sha256, paths)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
        fsync(target)


@command
def main(*arguments: str) -> None:
    if len(arguments) != 1:
        raise UserError(f"{len(arguments)} arguments, expected a folder that a stage published: run "
                        f"`python -m mlimages.core.publish data/tfrecords`")
    [folder] = arguments
    files = verify(folder, _publisher(Path(folder)))["files"]
    print(f"{folder}: {len(files):,} undamaged files of {sum(fact['bytes'] for fact in files.values()):,} bytes")


def _publisher(folder: Path) -> str:
    """The stage that published a folder."""
    try:
        return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))[STAGE])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / MANIFEST} is missing or damaged; expected a folder that a stage published, such as "
                        f"data/tfrecords") from None


def fsync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
