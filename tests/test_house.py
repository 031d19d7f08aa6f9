"""The law of the house, as far as a machine can check it."""

import ast
import dataclasses
import json
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mlimages.params import SECTIONS, load, section

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mlimages"
VERBS = ["acquire", "download", "convert", "train", "evaluate"]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What a verb may know of the verbs before it: how to read what they published.
FORMATS = {"acquire.formats", "acquire.hierarchy", "download.ledger", "download.shards", "convert.checking",
           "convert.example", "convert.images", "convert.records", "train.augment", "train.inputs"}
MAX_LINES = 250
COMMAND = "__name__ == '__main__'"


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def imported_modules(path: Path) -> Iterator[str]:
    """The modules of this project that a file imports, without the package's name; not those of its command alone."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == COMMAND)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "mlimages":
            base = node.module.removeprefix("mlimages").removeprefix(".")
            for name in (alias.name for alias in node.names):
                inner = f"{base}.{name}".strip(".")
                found = SOURCE.joinpath(*inner.split("."))
                yield inner if found.with_suffix(".py").exists() or found.is_dir() else base


def modules_used_by(verb: str) -> set[Path]:
    """Every file that a verb's code comes to by imports, pictures aside."""
    seen: set[Path] = set()
    waiting = list((SOURCE / verb).rglob("*.py"))
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported_modules(path):
            found = SOURCE.joinpath(*name.split(".")).with_suffix(".py")
            if found.exists():
                waiting.append(found)
    return seen


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_thin_and_committed_without_outputs(path: Path) -> None:
    for cell in code_cells(path):
        source = "".join(cell["source"])
        assert cell["outputs"] == [], "saved with outputs"
        assert cell["execution_count"] is None, "saved with execution counts"
        nodes = list(ast.walk(ast.parse(source)))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.Lambda | ast.For
                                  | ast.While) for node in nodes), f"code that belongs in src: {source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_notebook_starts_by_finding_this_copy_of_the_repository(path: Path) -> None:
    assert code_cells(path)[0]["source"] == code_cells(NOTEBOOKS[0])[0]["source"]


@pytest.mark.parametrize("number, verb", list(enumerate(VERBS, start=1)))
def test_the_parameters_cell_holds_exactly_the_sections_keys(number: int, verb: str) -> None:
    cells = [cell for cell in code_cells(ROOT / "notebooks" / f"{number}_{verb}.ipynb")
             if "parameters" in cell["metadata"].get("tags", [])]
    assert len(cells) == 1
    values: dict[str, Any] = {}
    exec(compile("".join(cells[0]["source"]), verb, "exec"), {}, values)  # noqa: S102 - it is ours
    assert list(values) == [field.name for field in dataclasses.fields(SECTIONS[verb])]
    section(verb, values)


@pytest.mark.parametrize("number, verb", list(enumerate(VERBS, start=1)))
def test_each_verb_owns_one_of_everything_under_its_name(number: int, verb: str) -> None:
    stage, name = STAGES[verb], f"{number}_{verb}.ipynb"
    assert list(STAGES) == VERBS
    assert (SOURCE / verb / "run.py").exists()
    assert (ROOT / "tests" / verb).is_dir()
    assert stage["params"] == [verb]
    assert stage["cmd"] == f"PYTHONPATH=src python -m mlimages.execute {verb} data/reports/{name}"
    assert f"data/reports/{name}" in stage["outs"] and len(stage["outs"]) == 2
    calls = [node for cell in code_cells(ROOT / "notebooks" / name)
             for node in ast.walk(ast.parse("".join(cell["source"])))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == verb]
    assert [ast.unparse(call) for call in calls] == [f"{verb}(params, machine)"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_knows_only_the_formats_of_the_verbs_before_it(verb: str) -> None:
    for path in (SOURCE / verb).rglob("*.py"):
        for name in imported_modules(path):
            other = name.partition(".")[0]
            if other in VERBS and other != verb:
                assert VERBS.index(other) < VERBS.index(verb), f"{path.name} looks forward to {name}"
                assert name in FORMATS, f"{path.name} imports {name}, which is no format"
            assert other != "figures", f"{path.name} draws"


def test_what_the_verbs_share_imports_no_verbs_doing() -> None:
    shared = [*SOURCE.glob("*.py"), *(SOURCE / "demo").glob("*.py")]
    for path in shared:
        for name in imported_modules(path):
            assert name.partition(".")[0] not in VERBS or name in FORMATS, f"{path.name} imports {name}"


@pytest.mark.parametrize("verb", VERBS)
def test_the_stages_deps_are_exactly_the_code_that_it_uses(verb: str) -> None:
    """A missing one would leave a stale result, a spare one (a figure, say) would train again for nothing."""
    named = {ROOT / dep for dep in STAGES[verb]["deps"] if dep.startswith("src/")}
    covered = {path for dep in named for path in ([dep] if dep.suffix else dep.rglob("*.py"))}
    used = {path for path in modules_used_by(verb) if path.name != "__init__.py"}
    folders = {SOURCE / verb, SOURCE / "demo"}
    assert used - covered == set()
    spare = {path for path in covered - used if path.name != "__init__.py"}
    assert {path for path in spare if folders.isdisjoint(path.parents)} == set()


def test_every_parameter_is_used_by_its_verb() -> None:
    for verb, kind in SECTIONS.items():
        folder = [SOURCE / verb, SOURCE / "demo"] if verb != "machine" else [SOURCE]
        text = "\n".join(path.read_text() for place in folder for path in place.rglob("*.py"))
        for name in (field.name for field in dataclasses.fields(kind)):
            assert re.search(rf"\.{name}\b", text), f"{verb}.{name} has no effect"


def test_no_parameter_has_a_name_that_dvcs_run_cache_drops() -> None:
    def names(kind: Any) -> Iterator[str]:
        for field in dataclasses.fields(kind):
            yield field.name
            if dataclasses.is_dataclass(field.type):
                yield from names(field.type)

    assert {name for kind in SECTIONS.values() for name in names(kind)}.isdisjoint({"size", "nfiles"})


def test_params_yaml_sections_are_the_verbs_and_the_machine() -> None:
    assert list(SECTIONS) == [*VERBS, "machine"]
    load(ROOT / "params.yaml")


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_a_file_can_be_read_in_one_sitting(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= MAX_LINES + 30, f"{path} has outgrown its room"


def test_nothing_in_git_is_large_or_made_by_the_pipeline() -> None:
    files = tracked_files()
    if not files:
        pytest.skip("no git repository here, as in an unpacked archive")
    assert all(path.stat().st_size < 1_000_000 for path in files)
    made = [path for path in files if path.is_relative_to(ROOT / "data") and path.name != ".gitignore"]
    assert made == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-ray.txt"])
def test_requirements_are_pinned_and_name_no_index(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert lines
    assert all(re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==", line) for line in lines)


def test_saving_a_notebook_in_jupyterlab_strips_its_outputs() -> None:
    manager = SimpleNamespace()
    config = SimpleNamespace(FileContentsManager=manager)
    runpy.run_path(str(ROOT / "jupyter_server_config.py"), {"get_config": lambda: config})
    content = json.loads(NOTEBOOKS[0].read_text())
    clean = json.dumps(content)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [{"output_type": "stream"}], 3
    manager.pre_save_hook(model={"type": "notebook", "content": content}, path="notebooks/1_acquire.ipynb")
    assert json.dumps(content) == clean
