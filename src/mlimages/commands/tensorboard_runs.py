"""TensorBoard with the trainings of scratch/train, named by their experiments and changed parameters.

    python -m mlimages.commands.tensorboard_runs [OPTION OF tensorboard ...]
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from mlimages.commands.scratch_folders import changed, committed_sections
from mlimages.core import scratch
from mlimages.core.errors import command
from mlimages.core.params import Machine, load

TENSORBOARD = "tensorboard"  # the program, and the folder of its files in that of a training
UNCHANGED = "as committed"
MOST_CHARACTERS = 200  # of a name; file systems allow 255 bytes
REFRESH_SECONDS = 10.0


def runs(machine: Machine) -> dict[str, Path]:
    """The folder of TensorBoard's files of each training, by a name such as `fast learning_rate=0.01`.

    A name has the experiment of `dvc exp run`, if any, and the parameters that differ from those of the last commit. Of
    trainings with equal names, as of other data or code, the earlier ones have their last day and time in addition.
    """
    committed = committed_sections()["train"]
    records = [folder / scratch.SETTINGS for folder in (scratch.root(machine) / "train").glob("*/")
               if (folder / TENSORBOARD).is_dir() and (folder / scratch.SETTINGS).exists()]
    found: dict[str, Path] = {}
    for record in sorted(records, key=lambda record: record.stat().st_mtime, reverse=True):
        params = json.loads(record.read_text(encoding="utf-8"))["params"]
        changes = [f"{name}={json.dumps(value)}" for name, value in changed(params, committed).items()]
        experiment = record.with_name(scratch.EXPERIMENT)
        words = [experiment.read_text(encoding="utf-8")] if experiment.exists() else []
        name = " ".join([*words, *(changes or [UNCHANGED])]).replace("/", "_")[:MOST_CHARACTERS]
        if name in found:
            name += time.strftime(" %Y-%m-%d %H:%M:%S", time.localtime(record.stat().st_mtime))
        found[name] = record.parent / TENSORBOARD
    return found


def link(folder: Path, targets: Mapping[str, Path]) -> None:
    """Make a link in `folder` for each name, and remove all others."""
    for path in folder.iterdir():
        if path.name not in targets or path.readlink() != targets[path.name].resolve():
            path.unlink()
    for name, target in targets.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target.resolve(), target_is_directory=True)


@command
def main(*arguments: str) -> int:
    machine = load().machine
    with tempfile.TemporaryDirectory() as links, contextlib.suppress(KeyboardInterrupt):
        link(Path(links), runs(machine))
        with subprocess.Popen([TENSORBOARD, "--logdir", links, *arguments]) as process:  # noqa: S603
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(REFRESH_SECONDS)
                link(Path(links), runs(machine))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
