"""The folder in which a stage works and from which it resumes. Its key covers everything that determines the result.

DVC deletes a stage's outs before it runs. What must survive a kill is in `scratch/STAGE/KEY`, which DVC and git ignore.
`dvc exp run --temp` runs a copy of the repository. The copy uses the original repository's scratch folder (DVC_ROOT).
"""

import ast
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mlimages.core.errors import UserError, explain_disk_errors
from mlimages.core.params import Machine
from mlimages.core.publish import MANIFEST, PARTIAL_FILES, sha256, write_json

PACKAGE = "mlimages"
SETTINGS = "params.json"  # in a workspace
EXPERIMENT = "experiment.txt"  # the name that `dvc exp run` gave
SOURCE = Path(__file__).parents[2]
# The conditions of blocks that an import does not run.
NOT_IMPORTED = ("__name__ == '__main__'", "TYPE_CHECKING")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def key(params: Any, *, inputs: Iterable[str | Path] = (), files: Iterable[str | Path] = (), stage: str | None = None,
        code: Iterable[ModuleType] = ()) -> str:
    """A hash of parameters, the manifests of `inputs` folders, the bytes of `files`, and code. Returns 16 hex digits.

    `stage`, such as train, adds all code that mlimages.STAGE.run imports: after a change of its meaning the stage
    starts from nothing. `code` adds single modules without their imports. Work that must survive changes of the code
    uses neither, and has a format version in `params`.
    """
    return settings_key(settings(params, inputs=inputs, files=files), stage=stage, code=code)


def settings_key(settings: Mapping[str, Any], *, stage: str | None = None, code: Iterable[ModuleType] = ()) -> str:
    """The `key` of `settings`, which are already hashed."""
    parts = [json.dumps(settings["params"], sort_keys=True), *settings["inputs"], *settings["files"]]
    parts += [code_hash(imported_files(f"mlimages.{stage}.run"))] if stage else []
    parts += [code_hash([Path(str(module.__file__))], Path(str(module.__file__)).parent) for module in code]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def settings(params: Any, *, inputs: Iterable[str | Path] = (), files: Iterable[str | Path] = ()) -> dict[str, Any]:
    """The parts of a key that are not code, as JSON stores them: parameters and the sha256 of inputs and files."""
    return {"params": json.loads(json.dumps(params, default=dataclasses.asdict)),
            "inputs": [sha256(Path(folder) / MANIFEST) for folder in inputs],
            "files": [sha256(Path(file)) for file in files]}


@contextlib.contextmanager
def workspace(stage: str, machine: Machine, key: str, out: str | Path,
              settings: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Create and lock the folder of a stage's `key`, and lock its output folder `out`, until the block ends.

    The folder keeps `settings`, if any, as params.json, and the name of the last `dvc exp run` that used it. Raises
    UserError, with the process id, if another process makes the same result or the same `out`. Raises DiskError if the
    disk is full or fails in the block.
    """
    target = hashlib.sha256(str(Path(out).resolve()).encode()).hexdigest()[:16]
    with (explain_disk_errors(root(machine) / stage / key), _lock(_locks(machine) / f"{stage}-{target}", out),
          persistent_folder(stage, machine, key) as folder):
        if settings is not None:
            write_json(folder / SETTINGS, settings)
        if name := os.environ.get("DVC_EXP_NAME"):
            (folder / EXPERIMENT).write_text(name, encoding="utf-8")
        yield folder


@contextlib.contextmanager
def persistent_folder(stage: str, machine: Machine, name: str, *, wait: bool = False) -> Iterator[Path]:
    """Create and lock the folder `name` of a stage until the block ends. It stays when the parameters change.

    If another process has locked the folder, `wait` waits for its end instead of raising UserError. Removes files that
    killed processes left half-written. Raises DiskError if the disk is full or fails in the block.
    """
    folder = root(machine) / stage / name
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(_locks(machine) / f"{stage}-{name}", folder, wait=wait):
            for leftover in folder.rglob(PARTIAL_FILES):
                if leftover.is_file():
                    leftover.unlink()
            yield folder


def remove(stage: str, machine: Machine, name: str) -> None:
    """Remove a folder of a stage. Raises UserError if a process uses it."""
    with _lock(_locks(machine) / f"{stage}-{name}", root(machine) / stage / name):
        shutil.rmtree(root(machine) / stage / name)


def root(machine: Machine) -> Path:
    """The scratch folder, which holds STAGE/KEY."""
    return Path(os.environ.get("DVC_ROOT", ".")) / machine.scratch


def stamps(machine: Machine) -> Path:
    """The folder for the stamps of `verify`: which published files were found undamaged."""
    return root(machine) / "sound"


def _locks(machine: Machine) -> Path:
    locks = root(machine) / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return locks


@contextlib.contextmanager
def _lock(path: Path, locked: str | Path, *, wait: bool = False) -> Iterator[None]:
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{locked} is being made by process {file.read().strip() or 'unknown'}; wait until it "
                            f"ends, or end it with `kill`, then run the same command again") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def imported_files(module: str, source: Path = SOURCE) -> list[Path]:
    """The files below `source` that a module, such as mlimages.train.run, imports, directly or indirectly.

    Returns sorted paths, with the module's own file and the `__init__.py` of mlimages. Imports inside functions count.
    The `__init__.py` of another package counts only if a name that is no module is imported from the package.
    """
    seen: set[Path] = set()
    waiting = [PACKAGE, module]
    while waiting:
        path = _file(waiting.pop(), source)
        if path is not None and path not in seen:
            seen.add(path)
            waiting += [full if _file(full, source) else name
                        for name, full in _read_module(path.read_bytes()).imports]
    return sorted(seen)


def code_hash(files: Iterable[Path], source: Path = SOURCE) -> str:
    """The sha256 of the syntax trees of files below `source`, without comments and docstrings.

    Versions of Python that parse the files to the same tree give the same hash.
    """
    trees = [(str(path.relative_to(source)), _read_module(path.read_bytes()).tree) for path in files]
    return hashlib.sha256(repr(trees).encode()).hexdigest()


def _file(module: str, source: Path) -> Path | None:
    """The file of a module of this project; None for a name that is no module."""
    base = source.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


class _Module(NamedTuple):
    """The sha256 of a module's syntax tree, and its imports from this project, at the top and inside functions.

    An import is the name of a module and this name with that of what is imported from it, which may be a module too.
    """

    tree: str
    imports: list[tuple[str, str]]


@functools.cache
def _read_module(text: bytes) -> _Module:
    """Parse a module, without docstrings and the blocks of NOT_IMPORTED."""
    tree = ast.parse(text)
    imports = []
    tree.body = [node for node in tree.body
                 if not (isinstance(node, ast.If) and ast.unparse(node.test) in NOT_IMPORTED)]
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        elif isinstance(node, ast.Import):
            imports += [(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports += [(node.module, f"{node.module}.{alias.name}") for alias in node.names]
    return _Module(hashlib.sha256(repr(_as_tuples(tree)).encode()).hexdigest(),
                   [pair for pair in imports if pair[0].partition(".")[0] == PACKAGE])


def _as_tuples(node: Any) -> Any:
    """A syntax tree as tuples: the text of `ast.dump` depends on the version of Python."""
    if isinstance(node, ast.AST):
        return (type(node).__name__, *((name, _as_tuples(value)) for name, value in ast.iter_fields(node)
                                       if value is not None and value != []))
    return [_as_tuples(child) for child in node] if isinstance(node, list) else node
