"""The errors that a user can mend: mistakes, damaged data, files that cannot be read, and full disks."""

import contextlib
import errno
import os
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

DETAIL_CHARACTERS = 120
NOT_PRINTABLE = re.compile("[^ -~]+")  # the same in every version of Unicode
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # in the text of an object: another one in every run

DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


def one_line(text: str) -> str:
    """What a decoder, a host or a file said, fit to be published: the same in every run, and short.

    One line of printable ASCII, at most DETAIL_CHARACTERS long, without addresses of objects.
    """
    line = " ".join(NOT_PRINTABLE.sub(" ", ADDRESS.sub("", text)).split())
    return line if len(line) <= DETAIL_CHARACTERS else f"{line[:DETAIL_CHARACTERS - 3]}..."


def rebuild_hint(stage: str) -> str:
    """The command that makes the data of a stage again, without what it would resume from."""
    return f"remove scratch/{stage} and run `dvc repro --force {stage}`"


class UserError(Exception):
    """A mistake or a damage outside the code.

    The message says what was found, what was expected, where, and what to run. In a
    notebook it is shown as its message alone, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def read_error(path: Path, error: OSError) -> UserError:
    """What to raise for a file that the system does not open, or of which its disk does not give all."""
    if error.errno == errno.EMFILE:
        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = "unlimited" if most == resource.RLIM_INFINITY else most
        return UserError(f"{path} cannot be read: {error.strerror}; this process may have {limit} open: raise that "
                         f"(`ulimit -n {highest}` is the most) and run the same command again")
    if error.errno == errno.ENFILE:
        return UserError(f"{path} cannot be read: {error.strerror}; all processes of this machine together have as "
                         f"many open as `sysctl fs.file-max` says: end some of them and run the same command again")
    return UserError(f"{path} cannot be read: {error.strerror}; see to its disk and its permissions, or put a sound "
                     f"copy there, and run the same command again")


class DiskError(UserError):
    """A disk that is full or that fails."""


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Run a block that writes `path`. Raises DiskError, with the free space, if the disk is full or fails."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise DiskError(f"{path}: {error.strerror}; {_free(path)}. What was finished is kept: make room there, or set "
                        f"machine.scratch to another disk, and run the same command again") from None


@contextlib.contextmanager
def required_space(folder: Path, needed: float, what: str) -> Iterator[None]:
    """Run a block that writes about `needed` bytes, after `check_space`. Its DiskError says what is needed."""
    check_space(folder, needed, what)
    try:
        yield
    except DiskError as error:
        raise DiskError(f"{error}; {what} needs about {needed / 1e9:,.1f} GB") from None


def report_space(folder: Path, needed: float, what: str) -> None:
    """Print what a stage is likely to need, in bytes, before it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{what}: about {needed / 1e9:,.1f} GB; {_free(folder)}")


def check_space(folder: Path, needed: float, what: str) -> None:
    """`report_space` for a known need. Raises UserError if `folder` has less than `needed` bytes free."""
    report_space(folder, needed, what)
    if needed > shutil.disk_usage(folder).free:
        raise UserError(f"{what} needs about {needed / 1e9:,.1f} GB, but {_free(folder)}; make room there, or set "
                        f"machine.scratch to another disk")


def _free(path: Path) -> str:
    """The free space on the disk of a path, which need not exist."""
    while not path.exists():
        path = path.parent
    facts = os.statvfs(path)
    return f"{facts.f_bavail * facts.f_frsize / 1e9:,.1f} GB and {facts.f_favail:,} inodes are free at {path.resolve()}"
