"""`list` shows what lies in scratch, and `prune` removes what no current or saved parameters need."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

from mlimages.commands.scratch_folders import main
from mlimages.core import scratch
from mlimages.core.params import Machine, load


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-c", "user.name=Ada", "-c", "user.email=ada@university.example", *arguments],
                          check=True, capture_output=True, text=True).stdout.strip()


def write_params(**changes: str) -> None:
    """Write params.yaml with some lines of its section `evaluate` changed."""
    text = (REPOSITORY / "params.yaml").read_text().replace("scratch: scratch ", "scratch: kept ")
    for name, value in changes.items():
        text, count = re.subn(rf"(?m)^(evaluate:(?:\n  .*)*?\n  {name}: )\S+", rf"\g<1>{value}", text)
        assert count == 1
    Path("params.yaml").write_text(text)


def make(stage: str, machine: Machine, key: str) -> Path:
    """What a stage leaves with the parameters of params.yaml."""
    section = getattr(load(), stage)
    with scratch.workspace(stage, machine, key, f"out/{stage}", scratch.settings(section)) as folder:
        (folder / "made").write_bytes(bytes(3_000_000))
    return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A git repository with three commits of params.yaml, the second of which is a DVC experiment."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    for number, batch in enumerate(("16", "17", "18")):
        write_params(batch=batch)
        git("add", "params.yaml")
        git("commit", "-qm", "change")
        make("evaluate", load().machine, f"{number:016x}")
        if batch == "17":
            git("update-ref", "refs/exps/ab/cdef/wide", "HEAD")
    write_params(batch="18", predictions_kept="7")
    return load().machine


def test_each_folder_is_listed_with_size_use_need_and_changed_parameters(machine: Machine,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
    make("evaluate", machine, 16 * "f")
    os.utime(f"kept/evaluate/{0:016x}/params.json", (0, 86400))
    with scratch.persistent_folder("acquire", machine, "full"):
        pass
    assert main("list") == 0
    lines = dict(re.fullmatch(r"kept/(\S+)  (.*)", line).groups()  # type: ignore[union-attr, misc]
                 for line in capsys.readouterr().out.splitlines())
    branch = git("symbolic-ref", "HEAD").removeprefix("refs/")
    assert lines["acquire/full"].endswith(f"params.yaml, exps/ab/cdef/wide, {branch}  no params.json")
    assert re.fullmatch(r"3\.0 MB  1970-01-0\d \d\d:\d\d  not needed  predictions_kept: 100, batch: 16|"
                        r"3\.0 MB  1970-01-0\d \d\d:\d\d  not needed  batch: 16, predictions_kept: 100",
                        lines[f"evaluate/{0:016x}"])
    assert "  exps/ab/cdef/wide  batch: 17, predictions_kept: 100" in lines[f"evaluate/{1:016x}"]
    assert lines[f"evaluate/{2:016x}"].endswith(f"  {branch}  predictions_kept: 100")
    assert lines[f"evaluate/{16 * 'f'}"].endswith("  params.yaml")


def test_what_nothing_needs_is_removed_and_nothing_else(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    with scratch.persistent_folder("convert", machine, "imagenet-0123"):
        pass
    unknown = scratch.root(machine) / "convert" / (16 * "a")
    unknown.mkdir()
    assert main("prune") == 0
    left = {f"{path.parent.name}/{path.name}" for path in Path("kept").glob("*/*/")} - {"locks"}
    assert left == {f"evaluate/{1:016x}", f"evaluate/{2:016x}", "convert/imagenet-0123"}
    assert capsys.readouterr().out.count("  removed  ") == 2


def test_what_cost_other_peoples_servers_is_removed_only_when_named(machine: Machine) -> None:
    current = Path("params.yaml").read_text()
    Path("params.yaml").write_text(current.replace("shorter_side: null", "shorter_side: 99", 1))
    folder = make("download", machine, 16 * "d")
    Path("params.yaml").write_text(current)
    assert main("prune") == 0 and folder.exists()
    assert main("prune", "evaluate") == 0 and folder.exists()
    assert main("prune", "download") == 0 and not folder.exists()


def test_a_folder_in_use_stays(machine: Machine) -> None:
    with scratch.workspace("evaluate", machine, f"{0:016x}", "out/other"):
        assert main("prune") == 0
        assert Path(f"kept/evaluate/{0:016x}/made").exists()
    assert main("prune") == 0
    assert not Path(f"kept/evaluate/{0:016x}").exists()


def test_parameters_of_an_older_version_are_compared_as_they_are_written(machine: Machine) -> None:
    text = Path("params.yaml").read_text()
    write_params(batch="16")
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "\nold_section:\n  key: 1\n")
    git("add", "params.yaml")
    git("commit", "-qm", "older")
    Path("params.yaml").write_text(text)
    assert main("prune") == 0
    assert Path(f"kept/evaluate/{0:016x}").exists() and not Path(f"kept/evaluate/{2:016x}").exists()


def test_without_git_only_params_yaml_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    write_params(batch="17")
    assert main("prune") == 0
    assert [path.name for path in Path("kept/evaluate").iterdir()] == [f"{1:016x}"]


@pytest.mark.parametrize("arguments", [(), ("purge",), ("prune", "machine"), ("list", "train")])
def test_other_arguments_are_an_error(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*arguments) == 2
    assert "expected `list`, `prune`, or `prune` with some of acquire, download" in capsys.readouterr().err


def test_the_command_runs(machine: Machine) -> None:
    done = subprocess.run(["python", "-m", "mlimages.commands.scratch_folders", "list"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kept/evaluate/") == 3
