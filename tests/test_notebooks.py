"""The notebooks find the repository and `src`, take their parameters from one cell, and explain what they show."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbclient
import nbformat
import pytest
from tests.faults import environment

from mlimages.core.errors import UserError
from mlimages.core.params import SECTIONS, load
from mlimages.notebook import cell_parameters, main, parameters_cell, published, stage_parameters

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGES = [path for path in NOTEBOOKS if path.name[0].isdigit()]
EXPLORING = [path for path in NOTEBOOKS if path.name.startswith("explore_")]
CALL = 'from mlimages.notebook import stage_parameters\n\nparams, machine = stage_parameters("train", globals())'


def stage_of(path: Path) -> str:
    return path.stem.partition("_")[2]


def cells_of(path: Path, kind: str) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def parameters_source(path: Path) -> str:
    [cell] = [cell for cell in cells_of(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


def run_cells(*sources: str) -> dict[str, Any]:
    """The namespace of a notebook in which these cells ran, as IPython keeps it."""
    namespace: dict[str, Any] = {"In": ["", *sources]}
    for source in sources:
        exec(source, namespace)  # noqa: S102 - it is ours
    return namespace


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the notebooks and params.yaml, and nothing that a stage published."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Execute a notebook in a real kernel, in a folder, with a PYTHONPATH."""

    def run(notebook: Any, folder: Path, source: str) -> Any:
        monkeypatch.setenv("PYTHONPATH", source)
        nbclient.NotebookClient(notebook, kernel_name="python3", allow_errors=True,
                                resources={"metadata": {"path": str(folder)}}).execute()
        return notebook

    return run


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.name)
def test_the_parameters_cell_is_the_section_of_params_yaml_with_its_comments(path: Path) -> None:
    stage = stage_of(path)
    source = parameters_source(path)
    assert source == parameters_cell(stage, ROOT / "params.yaml"), "run `python -m mlimages.notebook`"
    values: dict[str, Any] = {}
    exec(source, {}, values)  # noqa: S102 - it is ours
    assert list(values) == [field.name for field in dataclasses.fields(SECTIONS[stage])]


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.name)
def test_the_parameters_of_a_notebook_are_those_of_params_yaml(path: Path, copy: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy / "notebooks")
    params, machine = stage_parameters(stage_of(path), run_cells(parameters_source(path)))
    assert params == getattr(load(ROOT / "params.yaml"), stage_of(path))
    assert machine == load(ROOT / "params.yaml").machine
    assert Path.cwd() == copy


def test_a_cell_has_a_comment_for_each_key_that_has_one(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("first:\n  seed: 1    # not this section\ntrain:      # nor this\n  seed: 2      # draws: a # b\n"
                    "  text: 'a'\n  nothing: null   # or a number\n\n  nested:\n    inner: true\n    seed: 3   # x\n"
                    "evaluate:\n  seed: 4  # nor this\n")
    assert parameters_cell("train", path).splitlines() == [
        "seed = 2                    # draws: a # b", 'text = "a"', "nothing = None              # or a number",
        'nested = {"inner": True, "seed": 3}']


def test_the_command_writes_params_yaml_into_the_notebooks(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    before = {path.name: path.read_text() for path in (copy / "notebooks").glob("*.ipynb")}
    assert main() == 0
    assert {path.name: path.read_text() for path in (copy / "notebooks").glob("*.ipynb")} == before
    params = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(re.sub("learning_rate: 0.001.*", "learning_rate: 0.5  # higher", params))
    explore = copy / "notebooks/explore_dataset.ipynb"
    dirty = json.loads(explore.read_text())
    dirty["cells"][1] |= {"execution_count": 3, "metadata": {"vscode": {"languageId": "python"}}}
    dirty["metadata"]["kernelspec"]["display_name"] = ".venv"
    explore.write_text(json.dumps(dirty))
    assert main() == 0
    assert explore.read_text() == before[explore.name], "as an editor without a hook for saving leaves it"
    lines = parameters_source(copy / "notebooks" / "4_train.ipynb").splitlines()
    assert "learning_rate = 0.5         # higher" in lines
    (copy / "params.yaml").write_text("train: 3\n")
    assert main() == 2


@pytest.mark.parametrize(("old", "new", "message"), [
    ("", "\nlerning_rate = 0.1", r"unknown key `train\.lerning_rate` \(0\.1\); .* is `train\.learning_rate`"),
    ("", "\ndrop_rate: float = 0.5", r"unknown key `train\.drop_rate`"),
    ("learning_rate =", "learning_rat =", r"`train\.learning_rate` is missing"),
    ("batch = 32 ", "batch = 0 ", r"parameters cell: `train\.batch` is 0")])
def test_a_misspelt_or_wrong_parameter_in_the_cell_is_an_error(copy: Path, monkeypatch: pytest.MonkeyPatch, old: str,
                                                               new: str, message: str) -> None:
    monkeypatch.chdir(copy)
    source = parameters_source(copy / "notebooks" / "4_train.ipynb")
    changed = source.replace(old, new, 1) if old else source + new
    with pytest.raises(UserError, match=message):
        stage_parameters("train", run_cells(source, "", changed, "rows = 3"))


def test_parameters_are_found_without_a_history_of_cells(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    namespace = {**run_cells(parameters_source(copy / "notebooks" / "4_train.ipynb")), "In": [""]}
    assert stage_parameters("train", namespace)[0] == load().train


@pytest.mark.parametrize(("cells", "expected"), [
    (["import os", "batch = 1\nseed = 2", "rows = [batch]"], ["batch", "seed"]),
    (["batch = 1\nsede = 2", "batch = 1\nseed = 2"], ["batch", "seed"]),
    (["batch = 1\nsede = 2", "# Parameters\nbatch = 3\n", "%matplotlib"], ["batch", "sede"]),
    (["batch, seed = 1, 2; other = [row for row in ()]", "def batch(): seed = 3"], ["batch", "seed", "other"]),
    (["rows = 3"], [])])
def test_parameters_are_the_names_that_the_parameters_cell_assigns(cells: list[str], expected: list[str]) -> None:
    assert cell_parameters(cells, {"batch", "seed"}) == expected


def vscode_path() -> str:
    """PYTHONPATH of the file that VS Code reads."""
    return (ROOT / ".env").read_text().strip().removeprefix("PYTHONPATH=")


def jupyterlab_path() -> str:
    """PYTHONPATH of kernels that JupyterLab starts."""
    runpy.run_path(str(ROOT / "jupyter_server_config.py"),
                   {"get_config": lambda: SimpleNamespace(ServerApp=SimpleNamespace())})
    return os.environ["PYTHONPATH"]


@pytest.mark.parametrize(("folder", "path"), [
    ("", lambda: "src"), ("", vscode_path), ("notebooks", vscode_path), ("notebooks", jupyterlab_path)],
    ids=["dvc", "vscode", "vscode-notebooks", "jupyterlab"])
def test_a_kernel_finds_src_and_the_repository(copy: Path, execute: Callable[..., Any], folder: str,
                                               path: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    (copy / "src").symlink_to(ROOT / "src")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (
        parameters_source(copy / "notebooks" / "4_train.ipynb"), "batch = 64", f"{CALL}\nparams.batch, machine.threads",
        "import os\nos.getcwd()")])
    *_, last = execute(notebook, copy / folder, path()).cells
    assert last.outputs[0]["data"]["text/plain"] == repr(str(copy))
    assert "missing" in str(notebook.cells[2].outputs), "the last cell with a known name is the parameters cell"


@pytest.mark.parametrize("path", EXPLORING, ids=lambda path: path.name)
def test_exploring_without_data_says_what_to_run(path: Path, copy: Path, execute: Callable[..., Any]) -> None:
    notebook = nbformat.read(copy / "notebooks" / path.name, as_version=4)
    if path.name != "explore_scale.ipynb":
        notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:1]
    outputs = [output for cell in execute(notebook, copy / "notebooks", str(ROOT / "src")).cells
               for output in cell.get("outputs", [])]
    assert "run `make repro`" in json.dumps(outputs)
    errors = [output for output in outputs if output.output_type == "error"]
    assert all(len(error.traceback) == 1 and error.ename == "UserError" for error in errors)
    assert bool(errors) == (path.name != "explore_scale.ipynb")


def test_nbformat_is_imported_without_a_grammar_of_iris() -> None:
    code = ("import sys, mlimages.notebook, mlimages.commands.report, mlimages.run_notebook\n"
            "assert 'jsonschema' in sys.modules\n"
            "print({'lark', 'rfc3987_syntax'} & set(sys.modules))")
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_outside_of_the_repository_a_notebook_says_where_to_open_it(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no params.yaml in {tmp_path} or above.*`notebooks`"):
        published("lists")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_heading_says_what_is_shown_and_what_a_bad_one_looks_like(path: Path) -> None:
    texts = [cell.source for cell in cells_of(path, "markdown")]
    headings = [text for text in texts if text.startswith("#")]
    assert len(headings) >= 4
    for text in headings:
        assert text.partition("\n")[2], f"a bare heading: {text}"
    shown = re.compile(r"^(The|Each) [\w ]+ shows? ", re.MULTILINE)
    short = [text for text in headings[1:] if len(text.splitlines()) == 3]
    for text in (text for text in texts if shown.search(text) or text in short):
        assert "bad " in text.lower() or text.startswith("## Parameters"), text
