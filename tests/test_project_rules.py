"""The rules of this project that a test can check: layout, imports, names, notebooks and parameters."""

import ast
import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlimages.core.params import SECTIONS, load
from mlimages.core.scratch import imported_files

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mlimages"
STAGES = ["acquire", "download", "convert", "train", "evaluate", "transfer"]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The modules of a stage's package that other packages may import: readers of its file formats.
FORMATS = {"acquire.formats", "acquire.hierarchy", "download.ledger", "download.shards", "convert.archives",
            "convert.check_records", "convert.encode_image", "convert.example", "convert.records",
            "convert.shard_writer"}
# The packages that each package may import; those of `plots` are not restricted.
IMPORTS = {
    "core": set(), "commands": {"core"}, "images": {"core"}, "metrics": {"core"}, "demo": {"core"},
    "acquire": {"core", "demo"}, "download": {"core", "images", "demo", "acquire"},
    "convert": {"core", "images", "acquire", "download"},
    "inputs": {"core", "images", "convert"}, "network": {"core", "images", "acquire", "inputs"},
    "training": {"core", "metrics", "convert", "inputs", "network"}, "launch": {"core", "network", "training"},
    "train": {"core", "network", "training", "launch"},
    "evaluate": {"core", "metrics", "acquire", "convert", "inputs", "network"},
    "transfer": {"core", "images", "demo", "acquire", "convert", "inputs", "network", "training", "launch"},
}
# Packages that are no stages and use a stage's parameters.
ALSO_USED_IN = {"train": ("inputs", "network", "training", "launch"), "evaluate": ("inputs",)}
# The stage transfer trains with the parameters of train, some of which its own section replaces.
SECTIONS_OF = {stage: [stage] for stage in STAGES} | {"transfer": ["transfer", "train"]}
ARGUMENTS = dict.fromkeys(STAGES, "params, machine") | {"transfer": "params, machine, base=load().train"}
MAX_FILES = 12  # in a folder, without `__init__.py` and `conftest.py`
MAX_LINES = 400
# Words with a private meaning, and the plain ones: worker pool, received, reported, again, stage, barrier, pair.
PRIVATE_WORDS = ("anew", "course", "crew", "hear", "heard", "knock", "meet", "so many", "staff", "told", "twin")
IS_COMMAND = "__name__ == '__main__'"


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def imported_modules(path: Path) -> Iterator[str]:
    """The modules that a file imports, without `mlimages.` and without those that only its command uses."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == IS_COMMAND)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "mlimages":
            base = node.module.removeprefix("mlimages").removeprefix(".")
            for name in (alias.name for alias in node.names):
                inner = f"{base}.{name}".strip(".")
                found = SOURCE.joinpath(*inner.split("."))
                yield inner if found.with_suffix(".py").exists() or found.is_dir() else base


def package_of(module: str) -> str:
    """The first part of a module's name; empty for a module outside of packages, such as mlimages.notebook."""
    return module.partition(".")[0] if (SOURCE / module.partition(".")[0]).is_dir() else ""


def packages_used_by(stage: str) -> set[str]:
    """The packages that a stage imports, directly or indirectly, and its own."""
    names = (module_name(path) for path in imported_files(f"mlimages.{stage}.run") if path.name != "__init__.py")
    return {package_of(name) for name in names} - {""}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_thin_and_committed_without_outputs(path: Path) -> None:
    for cell in code_cells(path):
        source = "".join(cell["source"])
        assert cell["outputs"] == [], "saved with outputs"
        assert cell["execution_count"] is None, "saved with execution counts"
        nodes = list(ast.walk(ast.parse(source)))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.Lambda | ast.For
                                  | ast.While) for node in nodes), f"code that belongs in src: {source}"


@pytest.mark.parametrize("number, stage", list(enumerate(STAGES, start=1)))
def test_each_stage_has_a_notebook_a_package_tests_and_an_output_of_its_name(number: int, stage: str) -> None:
    entry, name = PIPELINE[stage], f"{number}_{stage}.ipynb"
    assert list(PIPELINE) == STAGES
    assert (SOURCE / stage / "run.py").exists()
    assert (ROOT / "tests" / stage).is_dir()
    assert entry["params"] == SECTIONS_OF[stage]
    assert entry["cmd"] == f"PYTHONPATH=src python -m mlimages.run_notebook {stage} data/reports/{name}"
    assert {f"data/reports/{name}", f"data/reports/{number}_{stage}"} < set(entry["outs"]) and len(entry["outs"]) == 3
    calls = [node for cell in code_cells(ROOT / "notebooks" / name)
             for node in ast.walk(ast.parse("".join(cell["source"])))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == stage]
    assert [ast.unparse(call) for call in calls] == [f"{stage}({ARGUMENTS[stage]})"]


@pytest.mark.parametrize("package", sorted({path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}))
def test_a_package_imports_only_the_packages_that_it_may(package: str) -> None:
    if package == "plots":
        return
    for path in (SOURCE / package).rglob("*.py"):
        for name in imported_modules(path):
            other = package_of(name)
            if other not in ("", package):
                assert other in IMPORTS[package], f"{path.relative_to(SOURCE)} imports {name}"
                assert other not in STAGES or name in FORMATS, f"{path.relative_to(SOURCE)} imports {name}, no format"


def test_imports_have_no_cycles() -> None:
    imports = {module_name(path).removesuffix(".__init__"): set(imported_modules(path))
               for path in SOURCE.rglob("*.py")}
    for module in imports:
        seen, waiting = set[str](), list(imports[module])
        while waiting:
            if (name := waiting.pop()) not in seen:
                seen.add(name)
                waiting += imports.get(name, set())
        assert module not in seen, f"{module} reaches itself by imports"


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_names_exactly_the_packages_that_a_stage_imports(stage: str) -> None:
    """A missing package leaves a stale result; an unused one runs the stage without need."""
    named = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("src/")]
    assert named == [f"src/mlimages/{package}" for package in sorted(packages_used_by(stage))]


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_a_folder_has_few_files(folder: str) -> None:
    for place in [ROOT / folder, *(path for path in (ROOT / folder).rglob("*") if path.is_dir())]:
        files = [path for path in place.glob("*.py") if path.name not in ("__init__.py", "conftest.py")]
        assert len(files) <= MAX_FILES, f"{place.relative_to(ROOT)} has {len(files)} files"


def test_every_parameter_is_used_by_its_stage() -> None:
    for stage, kind in SECTIONS.items():
        packages = {stage, "demo", *ALSO_USED_IN.get(stage, ())} if stage != "machine" else {"."}
        folder = [SOURCE / package for package in packages]
        text = "\n".join(path.read_text() for place in folder for path in place.rglob("*.py"))
        for name in (field.name for field in dataclasses.fields(kind)):
            assert re.search(rf"\.{name}\b", text), f"{stage}.{name} has no effect"


def test_no_parameter_has_a_name_that_dvcs_run_cache_ignores() -> None:
    def names(kind: Any) -> Iterator[str]:
        for field in dataclasses.fields(kind):
            yield field.name
            if dataclasses.is_dataclass(field.type):
                yield from names(field.type)

    assert {name for kind in SECTIONS.values() for name in names(kind)}.isdisjoint({"size", "nfiles"})


def test_params_yaml_has_a_section_for_each_stage_and_the_machine() -> None:
    assert list(SECTIONS) == [*STAGES, "machine"]
    load(ROOT / "params.yaml")


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_a_file_is_short(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= MAX_LINES, f"{path.relative_to(ROOT)} is too long"


def test_nothing_in_git_is_large_or_made_by_the_pipeline() -> None:
    files = tracked_files()
    if not files:
        pytest.skip("no git repository here, as in an unpacked archive")
    assert all(path.stat().st_size < 1_000_000 for path in files)
    made = [path for path in files if path.is_relative_to(ROOT / "data") and path.name != ".gitignore"]
    assert made == []


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_requirements_are_pinned_and_name_no_index(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert lines
    assert all(re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==", line) for line in lines)


def test_no_private_word_is_used() -> None:
    """In names, a word may stand between underscores."""
    words = "|".join(word.replace(" ", "[ _]") for word in PRIVATE_WORDS)
    pattern = re.compile(rf"(?<![^\W_])({words})(?![^\W_])", re.IGNORECASE)
    code = [path for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    texts = [*code, *NOTEBOOKS, *(ROOT / "docs").glob("*.md"), *(ROOT / name for name in (
        "params.yaml", "dvc.yaml", "Makefile", "README.md"))]
    found = [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}" for path in texts if path != Path(__file__)
             for number, line in enumerate(path.read_text().splitlines(), start=1) if pattern.search(line)]
    assert found == []


def test_every_parameter_is_documented_in_params_yaml() -> None:
    """Each has one line with a comment."""
    bare = [line.strip() for line in (ROOT / "params.yaml").read_text().splitlines()
            if re.match(r" +\w+:", line) and not line.endswith(":") and "# " not in line]
    assert bare == []


def test_a_class_name_exists_once() -> None:
    places: dict[str, list[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
