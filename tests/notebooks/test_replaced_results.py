"""A user is warned before results are replaced, in a notebook and after a failed experiment."""

import json
import re
import shlex
from pathlib import Path

import nbclient
import nbformat
import pytest
from tests.pipeline import hashes, make_copy, run

from mlimages.run_notebook import experiment_hint


@pytest.fixture(scope="module")
def acquired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the stage acquire has run, committed."""
    copy = make_copy(tmp_path_factory.mktemp("replaced"))
    run(copy, "dvc", "repro", "acquire")
    run(copy, "git", "add", "-A")
    run(copy, "git", "commit", "-qm", "acquired")
    return copy


def execute(copy: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> str:
    """What 1_acquire.ipynb prints on standard output, run by hand with this `limit`."""
    monkeypatch.setenv("PYTHONPATH", str(copy / "src"))
    notebook = nbformat.read(copy / "data/reports/1_acquire.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:3]
    notebook.cells[0].source = re.sub(r"^limit = \w+", f"limit = {limit}", notebook.cells[0].source, flags=re.M)
    nbclient.NotebookClient(notebook, kernel_name="python3",
                            resources={"metadata": {"path": str(copy / "notebooks")}}).execute()
    return "".join(output.text for cell in notebook.cells for output in cell.outputs
                   if output.output_type == "stream" and output.name == "stdout")


def named_commands(text: str) -> list[list[str]]:
    """The commands in backticks, split at `&&`."""
    return [shlex.split(command) for span in re.findall(r"`([^`]+)`", text) for command in span.split("&&")]


def test_a_notebook_with_other_parameters_names_what_it_replaces_and_the_command_brings_it_back(
        acquired: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (acquired / "data/lists/statistics.json").read_text()
    assert "NOTE" not in execute(acquired, monkeypatch, None), "the same parameters"
    assert (acquired / "data/lists/statistics.json").read_text() == before
    note = execute(acquired, monkeypatch, 20)
    assert "acquire.limit = 20 (was None)" in note and "replaces data/lists" in note
    assert json.loads((acquired / "data/lists/statistics.json").read_text()) != json.loads(before)
    [command] = named_commands(note)
    run(acquired, *command)
    assert (acquired / "data/lists/statistics.json").read_text() == before
    assert "up to date" in run(acquired, "dvc", "status", "acquire").stdout


@pytest.mark.parametrize(("setting", "error"), [
    ("acquire.classes=[n99999999]", "is not among the WordNet ids"),  # in a cell of the notebook
    ("acquire.sample=7", "`acquire.sample` is 7")])  # before the notebook runs
def test_a_failed_experiment_says_what_stays_changed_and_the_commands_bring_it_back(acquired: Path, setting: str,
                                                                                    error: str) -> None:
    locked = hashes(acquired)
    failed = run(acquired, "dvc", "exp", "run", "acquire", "-S", setting, check=False)
    assert failed.returncode and not (acquired / "data/lists").exists()
    assert error in failed.stdout + failed.stderr
    commands = named_commands((failed.stdout + failed.stderr).partition("NOTE")[2])
    assert commands[0] == ["dvc", "exp", "run"]
    for command in commands[1:]:
        run(acquired, *command, *(["acquire"] if command[0] == "dvc" else []))  # no other stage has run here
    assert hashes(acquired) == locked
    assert (acquired / "data/lists/manifest.json").exists()
    assert run(acquired, "git", "status", "--porcelain").stdout == ""
    assert "up to date" in run(acquired, "dvc", "status", "acquire").stdout


@pytest.mark.parametrize(("folder", "environment", "hinted"), [
    ("/home/me/repository", {"DVC_EXP_NAME": "late-dusk"}, True), ("/home/me/repository", {}, False),
    ("/home/me/repository/.dvc/tmp/exps/standalone/tmp1", {"DVC_EXP_NAME": "late-dusk"}, False)])
def test_only_an_experiment_in_the_workspace_leaves_something_changed(folder: str, environment: dict[str, str],
                                                                      hinted: bool) -> None:
    assert bool(experiment_hint(Path(folder), environment)) == hinted
