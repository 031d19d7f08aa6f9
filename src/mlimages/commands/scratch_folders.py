"""Lists the folders from which stages resume, and removes those that no saved parameters need.

    python -m mlimages.commands.scratch_folders list             # each folder, its size, and which parameters need it
    python -m mlimages.commands.scratch_folders prune            # remove those that none needs, except downloads
    python -m mlimages.commands.scratch_folders prune download   # remove those of the named stages
"""

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mlimages.core import scratch
from mlimages.core.errors import UserError, command
from mlimages.core.params import STAGES, Machine, load

COSTLY = ("acquire", "download")  # the stages that download from other people's servers
KEY = re.compile("[0-9a-f]{16}(-[0-9a-f]+)?")
SAVED = ("refs/heads", "refs/tags", "refs/exps")
CURRENT = "params.yaml"


class ScratchFolder(NamedTuple):
    """A folder of a stage: its size in bytes, the time of its last use, and the names of the parameters that need it.

    `changed` are its parameters that differ from params.yaml; None if the folder does not record its parameters.
    """

    stage: str
    path: Path
    bytes: int
    used: float
    needed_by: list[str]
    changed: dict[str, Any] | None


def folders(machine: Machine) -> Iterator[ScratchFolder]:
    """Yield every folder of every stage. All parameters need a folder whose name is no key."""
    saved = saved_sections()
    for stage in STAGES:
        for path in sorted((scratch.root(machine) / stage).glob("*/")):
            record = path / scratch.SETTINGS
            params = json.loads(record.read_text(encoding="utf-8"))["params"] if record.exists() else None
            needed = [name for name, sections in saved.items() if not KEY.fullmatch(path.name) or (
                params is not None and not changed(params, sections.get(stage)))]
            yield ScratchFolder(stage, path, _size(path), (record if record.exists() else path).stat().st_mtime, needed,
                                None if params is None else changed(params, saved[CURRENT][stage]))


def prune(machine: Machine, stages: Collection[str]) -> Iterator[ScratchFolder]:
    """Remove and yield the folders of these stages that no saved parameters need. A folder in use stays."""
    for folder in folders(machine):
        if folder.stage in stages and not folder.needed_by:
            with contextlib.suppress(UserError):
                scratch.remove(folder.stage, machine, folder.path.name)
                yield folder


def saved_sections() -> dict[str, dict[str, Any]]:
    """The sections of params.yaml in this folder and in each branch, tag and DVC experiment, by the name of each."""
    saved = {CURRENT: _sections(Path(CURRENT))}
    git = shutil.which("git")
    if git is None:
        return saved
    for ref in _output(git, "for-each-ref", "--format=%(refname)", *SAVED).decode().split():
        if sections := _sections_of(git, ref):
            saved[ref.removeprefix("refs/")] = sections
    return saved


def committed_sections() -> dict[str, Any]:
    """The sections of params.yaml in the last commit; outside of a git repository those of this folder."""
    git = shutil.which("git")
    return (_sections_of(git, "HEAD") if git else {}) or _sections(Path(CURRENT))


def _sections_of(git: str, revision: str) -> dict[str, Any]:
    """The sections of params.yaml in a revision; empty for one without that file."""
    content = _output(git, "show", f"{revision}:./{CURRENT}")
    if not content:
        return {}
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(content)
        file.flush()
        try:
            return _sections(Path(file.name))
        except UserError:  # of another version: its parameters are compared as they are written
            return yaml.safe_load(content)


def _sections(path: Path) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(load(path))))


def _output(*command: str) -> bytes:
    """The output of a git command; empty if it fails, as outside of a repository."""
    return subprocess.run(command, capture_output=True, check=False).stdout  # noqa: S603


def changed(params: Mapping[str, Any], section: Any) -> dict[str, Any]:
    """The parameters of a folder that are not in a section of params.yaml, or have other values there."""
    written = section if isinstance(section, dict) else {}
    return {name: value for name, value in params.items() if name not in written or written[name] != value}


def _size(folder: Path) -> int:
    """The bytes of all files in a folder; a file with several names counts once."""
    states = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({state.st_ino: state.st_size for state in states}.values())


@command
def main(*arguments: str) -> None:
    action, *stages = arguments or ("",)
    if action not in ("list", "prune") or not set(stages) <= set(STAGES) or (action == "list" and stages):
        raise UserError(f"the arguments {' '.join(arguments)!r}, expected `list`, `prune`, or `prune` with some of "
                        f"{', '.join(STAGES)}")
    machine = load().machine
    chosen = stages or [name for name in STAGES if name not in COSTLY]
    for folder in folders(machine) if action == "list" else prune(machine, chosen):
        needed = "removed" if action == "prune" else ", ".join(folder.needed_by) or "not needed"
        differences = "no params.json" if folder.changed is None else ", ".join(
            f"{name}: {json.dumps(value)}" for name, value in folder.changed.items())
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.used))
        print(f"{folder.path}  {folder.bytes / 1e6:,.1f} MB  {day}  {needed}  {differences}".rstrip())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
