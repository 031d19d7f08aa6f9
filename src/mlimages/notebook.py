"""The first call of every notebook, and the parameters cells of the stages' notebooks.

    python -m mlimages.notebook

writes the sections of params.yaml into the parameters cells of notebooks/, and removes outputs and what an editor
added.
"""

import ast
import dataclasses
import itertools
import json
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlimages.core.errors import UserError, command
from mlimages.core.param_errors import checked, read_yaml
from mlimages.core.params import SECTIONS, Machine, load
from mlimages.core.publish import MANIFEST
from mlimages.quick_import import quick_jsonschema

with quick_jsonschema():
    import nbformat

PARAMS, LOCK = "params.yaml", "dvc.lock"
REPORTS = "data/reports/"
DVC_STAGE = "DVC_STAGE"  # the environment variable that DVC sets for the commands of its stages
PARAMETERS_TAG = "parameters"
INJECTED = "# Parameters"  # the first line of the cell that papermill adds
COMMENT_COLUMN = 26
KEY_LINE = re.compile(r"  (?P<key>\w+):.*?\s(?P<comment># .*)")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}
EDITORS_KEYS = ("collapsed", "editable", "execution", "jupyter", "scrolled", "slideshow", "vscode")  # of a cell


def enter_repository() -> None:
    """Change to the repository's folder, the nearest one with a params.yaml. Raises UserError outside of one."""
    folder = next((folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / PARAMS).exists()), None)
    if folder is None:
        raise UserError(f"no {PARAMS} in {Path.cwd()} or above, expected the repository's; open the notebook in the "
                        f"repository's folder `notebooks`")
    os.chdir(folder)


def published(*names: str) -> list[Path]:
    """Enter the repository and return the folders data/NAME. Raises UserError for a folder that is not published."""
    enter_repository()
    folders = [Path("data", name) for name in names]
    for folder in folders:
        if not (folder / MANIFEST).exists():
            raise UserError(f"{folder} holds no results yet; run `make repro`, then this cell again")
    return folders


def stage_parameters(stage: str, namespace: Mapping[str, Any]) -> tuple[Any, Machine]:
    """Enter the repository and return a stage's parameters, from its notebook's cells, and those of the machine.

    `namespace` is the notebook's `globals()`. Prints a note if the notebook will replace results of other parameters.
    Raises UserError for a parameter that is unknown, missing, or not allowed by
    `mlimages.core.params`.
    """
    enter_repository()
    known = [field.name for field in dataclasses.fields(SECTIONS[stage])]
    # Programs that test notebooks run cells without a history. Then only known names are found.
    names = cell_parameters(namespace["In"], known) or known
    values = {name: namespace[name] for name in names if name in namespace}
    params = checked(SECTIONS[stage], values, "the notebook's parameters cell", f"{stage}.", known)
    if DVC_STAGE not in os.environ:
        print(replacement_note(stage, dataclasses.asdict(params)), end="")
    return params, load(PARAMS).machine


def replacement_note(stage: str, params: Mapping[str, Any]) -> str:
    """A note that a stage will replace the results of other parameters, which dvc.lock records, and how to undo that.

    Empty if the parameters are those of dvc.lock, or if nothing is published.
    """
    locked = read_yaml(LOCK)["stages"].get(stage) if Path(LOCK).exists() else None
    if locked is None:
        return ""
    [folder] = [out["path"] for out in locked["outs"] if not out["path"].startswith(REPORTS)]
    before = locked["params"][PARAMS][stage]
    now = json.loads(json.dumps(params))  # tuples become lists
    changed = [f"{stage}.{name} = {value!r} (was {before.get(name)!r})" for name, value in now.items()
               if name not in before or before[name] != value]
    if not changed or not (Path(folder) / MANIFEST).exists():
        return ""
    return (f"NOTE: with {', '.join(changed)} this notebook replaces {folder}. `dvc checkout --force {stage}` brings "
            f"back the results that dvc.lock names.\n")


def cell_parameters(cells: Sequence[str], known: Collection[str]) -> list[str]:
    """The names that the parameters cell assigns: the last of `cells` (sources) that assigns a known parameter.

    They include the names of the cell that papermill adds after it for its option `-p`.
    """
    names: list[str] = []
    for cell in reversed(cells):
        assigned = _assigned_names(cell)
        if set(assigned) & set(known):
            names = [*assigned, *names]
            if not cell.startswith(INJECTED):
                break
    return list(dict.fromkeys(names))


def parameters_cell(stage: str, path: str | Path = PARAMS) -> str:
    """A section of params.yaml as the source of a parameters cell: an assignment for each key, with its comment.

    Raises UserError for a missing or damaged file.
    """
    values, comments = read_yaml(path)[stage], _comments(Path(path), stage)
    assignments = {name: f"{name} = {_literal(value)}" for name, value in values.items()}
    return "\n".join(f"{line:{COMMENT_COLUMN}}  {comments[name]}" if name in comments else line
                     for name, line in assignments.items())


def with_parameters(path: Path, stage: str) -> nbformat.NotebookNode:
    """The notebook in `path` with the stage's section of params.yaml as its parameters cell."""
    notebook = nbformat.read(path, as_version=4)
    [cell] = [cell for cell in notebook.cells if PARAMETERS_TAG in cell.metadata.get("tags", [])]
    cell.source = parameters_cell(stage)
    return notebook


def clean(notebook: dict[str, Any]) -> None:
    """Remove outputs, execution counts and an editor's metadata from a notebook, given as the content of its file.

    DVC hashes the files in notebooks/, so opening and saving a notebook must not change its bytes.
    """
    for cell in notebook["cells"]:
        for key in EDITORS_KEYS:
            cell["metadata"].pop(key, None)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    notebook["metadata"] = {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}


@command
def main() -> None:
    load(PARAMS)
    for path in sorted(Path("notebooks").glob("*.ipynb")):
        number, _, stage = path.stem.partition("_")
        notebook = with_parameters(path, stage) if number.isdigit() else nbformat.read(path, as_version=4)
        clean(notebook)
        nbformat.write(notebook, path)


def _assigned_names(cell: str) -> list[str]:
    """The names that assignments at the top level of a cell bind; none for a cell that is not valid Python."""
    try:
        statements = ast.parse(cell).body
    except SyntaxError:
        return []
    targets = [target for statement in statements if isinstance(statement, ast.Assign | ast.AnnAssign)
               for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])]
    return [node.id for target in targets for node in ast.walk(target)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _comments(path: Path, section: str) -> dict[str, str]:
    """The comments behind the keys of a section of a YAML file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = lines.index(next(line for line in lines if line.startswith(f"{section}:"))) + 1
    inside = itertools.takewhile(lambda line: line.startswith((" ", "#")) or not line, lines[start:])
    matches = filter(None, map(KEY_LINE.match, inside))
    return {match["key"]: match["comment"] for match in matches}


def _literal(value: Any) -> str:
    """Python source of a value from YAML, with double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    sys.exit(main())
