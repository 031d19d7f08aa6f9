"""Fetch a released file. It gets its name only when it is complete and accepted."""

from collections.abc import Callable
from pathlib import Path

import requests

from mlimages.acquire.drive import NoFile, file_url
from mlimages.core.errors import UserError, explain_disk_errors
from mlimages.core.params import Machine
from mlimages.core.progress import progress_bar
from mlimages.core.publish import atomic_write, move_into_place

# Seconds to connect, and seconds without a byte.
TIMEOUT = (15.0, 60.0)
ATTEMPTS = 5
# Much more than any released file has: a longer answer is something else.
MAX_BYTES = 8 * 10**9
FROM_A_FOLDER = ("put the lists and the dictionary into a folder by hand and set acquire.source: folder and "
                 "acquire.folder")
BY_HAND = f"run the same command again later, or {FROM_A_FOLDER}"

Accept = Callable[[Path], None]


def fetch(url: str, path: Path, accept: Accept) -> None:
    """Fetch `url` over HTTPS; `accept` raises UserError for a wrong file."""
    try:
        with atomic_write(path) as file:
            with requests.get(url, stream=True, timeout=TIMEOUT) as response:
                response.raise_for_status()
                for chunk in response.iter_content(2**20):
                    file.write(chunk)
                    _check_bytes(url, file.tell())
            file.flush()
            accept(Path(file.name))
    except requests.RequestException as error:
        raise UserError(f"{url} cannot be fetched: {error}; {BY_HAND}") from None


def fetch_from_drive(url: str, path: Path, accept: Accept, machine: Machine) -> None:
    """Fetch a large file from Google Drive. Continues the unfinished file of an earlier run."""
    import gdown  # only here, so that the later stages need not load it
    from gdown.exceptions import DownloadError

    partial = path.with_name(f".{path.name}.download")
    try:
        with explain_disk_errors(path), progress_bar(f"fetch {path.name}", total=0, unit=" MB", machine=machine) as bar:

            def show(done: int, total: int | None) -> None:
                _check_bytes(url, done)
                bar.total = total and total // 10**6
                bar.update(done // 10**6 - bar.n)

            gdown.download(file_url(url, TIMEOUT, ATTEMPTS), str(partial), quiet=True, use_cookies=False, resume=True,
                           timeout=TIMEOUT, retries=ATTEMPTS, progress=show)
    except NoFile as answer:
        raise UserError(f"{url} ({path.name}) cannot be fetched: expected a file, Google Drive answered with "
                        f"{answer.found}; {answer.advice}, or {FROM_A_FOLDER}") from None
    except (DownloadError, requests.RequestException) as error:
        reason = str(error).partition("\n")[0]  # then gdown's own advice, which is for its command line
        raise UserError(f"{url} ({path.name}) cannot be fetched: {reason}; {BY_HAND}. What was fetched is kept in "
                        f"{partial}*; remove that to start again") from None
    try:
        accept(partial)
    except UserError:
        partial.unlink()
        raise
    move_into_place(partial, path)


def _check_bytes(url: str, done: int) -> None:
    if done > MAX_BYTES:
        raise UserError(f"{url} sent more than {MAX_BYTES:,} bytes, which no released file has; {BY_HAND}")
