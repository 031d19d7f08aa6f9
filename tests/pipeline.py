"""Copies of the repository in which a small pipeline runs, or has run, by real dvc."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TINY: dict[str, dict[str, object]] = {
    "acquire": {"demo": {"seed": 0, "train_images": 120, "val_images": 40, "pixels": 48}},
    "download": {"images_per_shard": 20},
    "train": {"architecture": "tiny", "pixels": 32, "batch": 16, "epochs": 3.0, "checkpoint_steps": 5},
    "transfer": {"pixels": [24], "demo": {"seed": 0, "train_images": 3, "val_images": 2, "pixels": 24},
                 "training": {"epochs": None, "steps": 2, "warmup": 0.0, "checkpoint_steps": 1}},
    "machine": {"logical_devices": 2},
}

# For a copy that need not train on two replicas again: they take twice the time to build. DVC ignores this section.
ONE_REPLICA: dict[str, dict[str, object]] = {"machine": {"logical_devices": 1}}

# The first experiment of the README. When its block runs once more, DVC finds the stages in its cache.
EXPERIMENT, EXPERIMENTS_RATE = "faster", 0.002


def run(copy: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(command, cwd=copy, env=environment(), capture_output=True, text=True)
    assert not check or ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-6000:]
    return ended


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "PYTEST_", "GIT_"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}", "PYTHONPATH": ""}


def change(copy: Path, changes: dict[str, dict[str, object]]) -> None:
    path = copy / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for name, values in changes.items():
        params[name].update(values)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def make_copy(folder: Path) -> Path:
    """A git repository with this one's files and tiny parameters, committed."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    change(folder, TINY)
    run(folder, "git", "init", "-q")
    run(folder, "git", "config", "user.name", "tester")
    run(folder, "git", "config", "user.email", "tester@example.org")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "copy")
    return folder


def branch(finished: Path, folder: Path) -> Path:
    """A copy of a finished repository, without what long stages would resume from."""
    return Path(shutil.copytree(finished, folder / "copy", symlinks=True,
                                ignore=shutil.ignore_patterns("scratch", "remote")))


def hashes(copy: Path) -> dict[str, str]:
    """The md5 of every out by dvc.lock."""
    stages = yaml.safe_load((copy / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def made_once(name: str, make: Callable[[Path], object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `make` fills, once for all processes of pytest-xdist. Tests leave it as it is."""
    base = tmp_path_factory.getbasetemp()
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = place / name, place / f"{name}.done"
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the whole pipeline has run."""

    def make(folder: Path) -> None:
        folder.mkdir()
        run(make_copy(folder), "dvc", "repro")

    return made_once("built", make, tmp_path_factory)


@pytest.fixture(scope="session")
def experimented(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished copy with its results committed, from which the experiment EXPERIMENT has started and ended."""

    def make(folder: Path) -> None:
        shutil.copytree(built, folder, symlinks=True)
        change(folder, ONE_REPLICA)
        run(folder, "git", "add", "-A")
        run(folder, "git", "commit", "-qm", "run the pipeline")
        run(folder, "dvc", "exp", "run", "-n", EXPERIMENT, "-S", f"train.learning_rate={EXPERIMENTS_RATE}")
        run(folder, "git", "restore", "params.yaml", "dvc.lock")
        run(folder, "dvc", "checkout", "--force")

    return made_once("experimented", make, tmp_path_factory)


@pytest.fixture(scope="module")
def finished(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the whole pipeline has run, which the tests of a module may change."""
    return Path(shutil.copytree(built, tmp_path_factory.mktemp("pipeline") / "copy", symlinks=True))


@pytest.fixture(scope="module")
def committed(experimented: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished copy with committed results and an experiment, which the tests of a module may change."""
    return Path(shutil.copytree(experimented, tmp_path_factory.mktemp("committed") / "copy", symlinks=True))
