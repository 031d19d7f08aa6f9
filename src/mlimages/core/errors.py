"""The errors that a user can repair: mistakes, damaged data, files that cannot be read, and full disks."""

import contextlib
import errno
import functools
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

DETAIL_CHARACTERS = 120
NOT_PRINTABLE = re.compile("[^ -~]+")  # not `str.isprintable`, which depends on the version of Unicode
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of an object in memory; it differs between runs

Arguments = ParamSpec("Arguments")

INODES_FREE = "inodes are free at"  # in every line about free space
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
DUCKDB_NO_SPACE = "No space left"  # in the message of DuckDB, which has no error of its own for a full disk


def one_line(text: str) -> str:
    """Turn a message of a decoder, a host or a file into text that can be published: it is the same in every run.

    Returns one line of printable ASCII without addresses of objects, at most DETAIL_CHARACTERS long.
    """
    line = " ".join(NOT_PRINTABLE.sub(" ", ADDRESS.sub("", text)).split())
    return line if len(line) <= DETAIL_CHARACTERS else f"{line[:DETAIL_CHARACTERS - 3]}..."


def rebuild_hint(stage: str) -> str:
    """The commands that make a stage's data again from nothing. `--single-item` leaves the stages before it alone."""
    return f"remove scratch/{stage} and run `dvc repro --single-item --force {stage}`"


class UserError(Exception):
    """A mistake or damage outside the code.

    The message says what was found, what was expected, where, and which command helps. A notebook shows the message
    without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def command(main: Callable[Arguments, int | None]) -> Callable[Arguments, int]:
    """Decorate the main function of a command, so that it returns an exit code.

    The code is what `main` returns, with 0 for None. After a UserError, whose message it prints, the code is 2.
    """

    @functools.wraps(main)
    def run(*arguments: Arguments.args, **options: Arguments.kwargs) -> int:
        try:
            return main(*arguments, **options) or 0
        except UserError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            return 2

    return run


def read_error(path: Path, error: OSError) -> UserError:
    """The error to raise for a file that cannot be opened or read."""
    if error.errno == errno.EMFILE:
        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = "unlimited" if most == resource.RLIM_INFINITY else most
        return UserError(f"{path} cannot be read: {error.strerror}; this process may have {limit} open: raise that "
                         f"limit (`ulimit -n {highest}` is the highest) and run the same command again")
    if error.errno == errno.ENFILE:
        return UserError(f"{path} cannot be read: {error.strerror}; the processes of this machine have as many open "
                         f"as `sysctl fs.file-max` allows: end some of them and run the same command again")
    return UserError(f"{path} cannot be read: {error.strerror}; check its disk and its permissions, or replace it "
                     f"with an undamaged copy, and run the same command again")


@contextlib.contextmanager
def explain_read_errors(path: Path, stage: str) -> Iterator[None]:
    """Run a block that reads `path`, which a stage made. Raises UserError if it is missing, unreadable or damaged."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {rebuild_hint(stage)}") from None
    except OSError as error:
        raise read_error(path, error) from None
    except (EOFError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {rebuild_hint(stage)}") from None


class DiskError(UserError):
    """A disk that is full or that fails."""


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Run a block that writes `path`. Raises DiskError, which states the free space, if the disk is full or fails."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise DiskError(f"{path}: {error.strerror}; {_free_space(path)}. Finished work is kept: make room there, "
                        f"or set machine.scratch to another disk, and run the same command again") from None


@contextlib.contextmanager
def required_space(folder: Path, needed: float, what: str) -> Iterator[None]:
    """Call `check_space`, then run a block that writes about `needed` bytes. Its DiskError states that number."""
    check_space(folder, needed, what)
    try:
        yield
    except DiskError as error:
        raise DiskError(f"{error}; {what} needs about {needed / 1e9:,.1f} GB") from None


def report_space(folder: Path, needed: float, what: str) -> None:
    """Print how many bytes `what` is likely to need in `folder`, and how many are free."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{what}: about {needed / 1e9:,.1f} GB; {_free_space(folder)}")


def check_space(folder: Path, needed: float, what: str) -> None:
    """Call `report_space`. Raises UserError if fewer than `needed` bytes are free in `folder`."""
    report_space(folder, needed, what)
    if needed > shutil.disk_usage(folder).free:
        raise UserError(f"{what} needs about {needed / 1e9:,.1f} GB, but {_free_space(folder)}; make room there, "
                        f"or set machine.scratch to another disk")


def _free_space(path: Path) -> str:
    """The free space on the disk of `path`, which need not exist."""
    while not path.exists():
        path = path.parent
    disk = os.statvfs(path)
    return f"{disk.f_bavail * disk.f_frsize / 1e9:,.1f} GB and {disk.f_favail:,} {INODES_FREE} {path.resolve()}"
