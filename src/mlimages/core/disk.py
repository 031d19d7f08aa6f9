"""A disk that is full, or fails, told as something that a user can mend."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mlimages.core.errors import UserError

FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class DiskError(UserError):
    """A disk that did not take what was to be written."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes `path`; DiskError, with what is free there, where the disk does not take it."""
    try:
        yield
    except OSError as error:
        if error.errno not in FAULTS:
            raise
        raise DiskError(f"{path}: {error.strerror}; {_free(path)}. What was finished is kept: make room there, or set "
                        f"machine.scratch to another disk, and run the same command again") from None


@contextlib.contextmanager
def room(folder: Path, needed: float, what: str) -> Iterator[None]:
    """A block that writes about `needed` bytes: `check_room` before it, and a DiskError of it says so, too."""
    check_room(folder, needed, what)
    try:
        yield
    except DiskError as error:
        raise DiskError(f"{error}; {what} needs about {needed / 1e9:,.1f} GB") from None


def say_room(folder: Path, needed: float, what: str) -> None:
    """Say what a stage is likely to need, in bytes, before it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{what}: about {needed / 1e9:,.1f} GB; {_free(folder)}")


def check_room(folder: Path, needed: float, what: str) -> None:
    """`say_room`, where the need is known: UserError where `folder` has less than `needed` bytes free."""
    say_room(folder, needed, what)
    if needed > shutil.disk_usage(folder).free:
        raise UserError(f"{what} needs about {needed / 1e9:,.1f} GB, but {_free(folder)}; make room there, or set "
                        f"machine.scratch to another disk")


def _free(path: Path) -> str:
    """The room on the disk of a path, whether or not the path exists yet."""
    while not path.exists():
        path = path.parent
    facts = os.statvfs(path)
    return f"{facts.f_bavail * facts.f_frsize / 1e9:,.1f} GB and {facts.f_favail:,} inodes are free at {path.resolve()}"
