"""Read local pictures from the folder `download.files`, and nothing outside of it."""

import errno
import os
import stat
from pathlib import Path

from mlimages.acquire.formats import LOCAL
from mlimages.core.errors import UserError
from mlimages.download.http.address_guard import Failure
from mlimages.download.ledger import Reason

OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}


class LocalFiles:
    """Reads files of up to `max_bytes` bytes below `folder`. Links are followed if they stay below it."""

    def __init__(self, folder: str, max_bytes: int) -> None:
        self._folder = os.path.realpath(folder)
        self._max_bytes = max_bytes

    def read(self, source: str) -> bytes:
        """The bytes of the file of a list's source, LOCAL and a path.

        Raises Failure NO_FILE or TOO_LARGE, and UserError if this process has too many files open.
        """
        path = os.path.join(self._folder, source.removeprefix(LOCAL))
        try:
            path = os.path.realpath(path)
            if not Path(path).is_relative_to(self._folder):
                raise Failure(Reason.NO_FILE, detail="it lies outside of download.files")
            descriptor = self._open(os.path.relpath(path, self._folder))
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Failure(Reason.NO_FILE, detail="it is no regular file")
                with open(descriptor, "rb", closefd=False) as file:
                    body = file.read(self._max_bytes + 1)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
                raise UserError(f"{path} cannot be read: {error.strerror}; raise the limit (`ulimit -n`), or lower "
                                f"machine.threads") from None
            detail = (error.strerror or "") if isinstance(error, OSError) else "no valid path"
            raise Failure(Reason.NO_FILE, detail=detail) from None
        if len(body) > self._max_bytes:
            raise Failure(Reason.TOO_LARGE, detail=f"more than {self._max_bytes} bytes")
        return body

    def _open(self, path: str) -> int:
        """Open a path without links in it, from folder to folder, so that no link can take a part's place meanwhile."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        *folders, name = path.split(os.sep)
        parent = os.open(self._folder, flags | os.O_DIRECTORY)
        try:
            for folder in folders:
                child = os.open(folder, flags | os.O_DIRECTORY, dir_fd=parent)
                os.close(parent)
                parent = child
            return os.open(name, flags | os.O_NONBLOCK, dir_fd=parent)
        finally:
            os.close(parent)


def stamp(folder: str | None, source: str) -> str:
    """The size and the modification time of a local picture; "" for a URL, and if there is no such file."""
    if folder is None or not source.startswith(LOCAL):
        return ""
    try:
        state = os.stat(os.path.join(folder, source.removeprefix(LOCAL)))
    except (OSError, ValueError):
        return ""
    return f"{state.st_size}-{state.st_mtime_ns}"


def check_folder(folder: str | None, needed: bool) -> None:
    """Raise UserError if the folder is missing, or if it is null although a list names local pictures."""
    if folder is None and needed:
        raise UserError("the lists name local pictures, but download.files is null; expected the folder of which their "
                        "paths are part. If they are no pictures but damaged URLs, mend acquire.table.image")
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"download.files is {folder}, which is no folder in {Path.cwd()}; expected the folder of the "
                        f"local pictures")
