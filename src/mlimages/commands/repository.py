"""Checks that DVC can work in a folder, before any stage runs.

    python -m mlimages.commands.repository
"""

import os
import subprocess
import sys
from pathlib import Path

from mlimages.core.errors import UserError, command

DATA = "data"


def check(folder: Path) -> list[str]:
    """Return notes about features that will not work in a repository. Raises UserError if no stage can run."""
    if not (folder / ".dvc").is_dir():
        raise UserError(f"{folder} has no folder .dvc, and DVC needs it: run in the repository's own "
                        f"folder, or get it back with `git checkout .dvc`")
    if not any((place / ".git").exists() for place in (folder, *folder.parents)) and \
            _dvc(folder, "config", "core.no_scm") != "true":
        raise UserError(f"{folder} is no git repository, and DVC needs one: clone it, or, where it was "
                        f"unpacked from an archive, run `git init && git add --all && git commit -m start`")
    check_data(folder)
    if not str(folder).isascii() and not (cache := _dvc(folder, "cache", "dir")).isascii():
        return [f"{cache} is no ASCII text: `dvc exp run` fails with --temp and --queue, and everything else works. "
                f"Move the repository, or run `dvc cache dir --local FOLDER` with a folder whose path is ASCII"]
    return []


def check_data(folder: Path) -> None:
    """Raise UserError if `data` or a folder in it is a link, or if no file can be created there."""
    places = [folder / DATA, *(sorted((folder / DATA).glob("*")) if (folder / DATA).is_dir() else [])]
    for place in places:
        shown = place.relative_to(folder)
        if place.is_symlink():
            raise UserError(f"{shown} is a symbolic link to {os.readlink(place)}, expected a folder: DVC tracks "
                            f"nothing behind a link. Remove it; to use another disk, clone there, or set "
                            f"machine.scratch and `dvc cache dir --local` to folders there")
    for place in (folder / DATA, folder / DATA / "reports"):
        shown = place.relative_to(folder)
        if place.exists() and not place.is_dir():
            raise UserError(f"{shown} is a file, expected a folder: remove it and run the same command again")
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"{shown} cannot be written by this user or lies on a read-only disk: see to its owner and "
                            f"permissions (`ls -ld {shown}`) and run the same command again")


def _dvc(folder: Path, *command: str) -> str:
    """The output of a DVC command; empty if it fails, as for a value that is not configured."""
    return subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, capture_output=True,  # noqa: S603
                          text=True).stdout.strip()


@command
def main() -> None:
    for note in check(Path.cwd()):
        print(f"NOTE: {note}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
