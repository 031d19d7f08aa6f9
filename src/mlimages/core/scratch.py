"""The folder in which a stage works and from which it resumes, keyed by all that determines its result.

DVC deletes a stage's outs before it runs, so what must survive a kill lives here: `scratch/STAGE/KEY`, unknown to
DVC and to git, under the original repository also when `dvc exp run --temp` runs a copy (DVC_ROOT says where).

    python -m mlimages.core.scratch list               # every folder, its size, and which parameters need it
    python -m mlimages.core.scratch prune              # remove those that none needs, except of acquire and download
    python -m mlimages.core.scratch prune download     # remove those of the named stages
"""

import ast
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mlimages.core.errors import UserError, explain_disk_errors
from mlimages.core.params import Machine
from mlimages.core.publish import MANIFEST, PARTIAL_FILES, sha256, write_json

PACKAGE = "mlimages"
SETTINGS = "params.json"  # in a workspace
SOURCE = Path(__file__).parents[2]
# What runs only where a file is a command, and what never runs.
UNREACHED = ("__name__ == '__main__'", "TYPE_CHECKING")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def key(params: Any, *, inputs: Iterable[str | Path] = (), files: Iterable[str | Path] = (), stage: str | None = None,
        code: Iterable[ModuleType] = ()) -> str:
    """16 hex digits: a hash of parameters, of the manifests of `inputs` folders, of the bytes of `files`, and of code.

    `stage`, such as train, stands for what the code that mlimages.STAGE.run reaches by imports means: after a change of
    that nothing old is resumed. `code` are single modules, of which nothing follows, for what is kept across stages. A
    stage whose work must outlive its code names neither, and has a version of its format among `params`.
    """
    parts = [json.dumps(params, sort_keys=True, default=dataclasses.asdict)]
    parts += [sha256(Path(folder) / MANIFEST) for folder in inputs]
    parts += [sha256(Path(file)) for file in files]
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
    """The stage's own folder, locked, and its `out` locked with it, until the block ends.

    Raises UserError, naming the process, where another one is making the same result or the same `out`, and where the
    disk is full, or fails, in the block. The folder keeps `settings`, if any, as params.json.
    """
    place = hashlib.sha256(str(Path(out).resolve()).encode()).hexdigest()[:16]
    with (explain_disk_errors(root(machine) / stage / key), _lock(_locks(machine) / f"{stage}-{place}", out),
          persistent_folder(stage, machine, key) as folder):
        if settings is not None:
            write_json(folder / SETTINGS, settings)
        yield folder


@contextlib.contextmanager
def persistent_folder(stage: str, machine: Machine, name: str) -> Iterator[Path]:
    """A folder of a stage, locked until the block ends: its content outlives every change of the parameters.

    What killed processes left half-written there is removed. DiskError where the disk is full, or fails, in the block.
    """
    folder = root(machine) / stage / name
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(_locks(machine) / f"{stage}-{name}", folder):
            for left in folder.rglob(PARTIAL_FILES):
                if left.is_file():
                    left.unlink()
            yield folder


def remove(stage: str, machine: Machine, name: str) -> None:
    """Remove a folder of a stage. Raises UserError if a process uses it."""
    with _lock(_locks(machine) / f"{stage}-{name}", root(machine) / stage / name):
        shutil.rmtree(root(machine) / stage / name)


def root(machine: Machine) -> Path:
    """Where all stages keep theirs: scratch/STAGE/KEY."""
    return Path(os.environ.get("DVC_ROOT", ".")) / machine.scratch


def stamps(machine: Machine) -> Path:
    """Where stages note which published files they found to be sound, for `verify`."""
    return root(machine) / "sound"


def _locks(machine: Machine) -> Path:
    locks = root(machine) / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return locks


@contextlib.contextmanager
def _lock(path: Path, guarded: str | Path) -> Iterator[None]:
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{guarded} is being made by process {file.read().strip() or 'unknown'}; wait until it "
                            f"ends, or end it with `kill`, then run the same command again") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def imported_files(module: str, source: Path = SOURCE) -> list[Path]:
    """The files of this project in `source` that a module, such as mlimages.train.run, reaches by its imports.

    Sorted, with its own and that of the package mlimages itself, which is always imported first. Imports inside of
    functions count. Of another package its `__init__` counts where something is imported from it that is no module:
    else it only names what the package has to offer.
    """
    seen: set[Path] = set()
    waiting = [PACKAGE, module]
    while waiting:
        path = _file(waiting.pop(), source)
        if path is not None and path not in seen:
            seen.add(path)
            waiting += _imported(_parsed(path), source)
    return sorted(seen)


def code_hash(files: Iterable[Path], source: Path = SOURCE) -> str:
    """The sha256 of the syntax trees of some files in `source`, without comments and docstrings.

    The same on every Python, as far as that gives the same tree.
    """
    trees = [(str(path.relative_to(source)), _plain(_parsed(path))) for path in files]
    return hashlib.sha256(repr(trees).encode()).hexdigest()


def _file(module: str, source: Path) -> Path | None:
    """Where a module of this project is; None for what is none, such as a function."""
    place = source.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _imported(tree: ast.Module, source: Path) -> Iterator[str]:
    """The modules of this project that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == PACKAGE:
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                yield name if _file(name, source) else node.module


def _parsed(path: Path) -> ast.Module:
    """The tree of a file, without docstrings and without what an import does not run."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    tree.body = [node for node in tree.body
                 if not (isinstance(node, ast.If) and ast.unparse(node.test) in UNREACHED)]
    return tree


def _plain(node: Any) -> Any:
    """A syntax tree as tuples. `ast.dump` gives other texts on other versions of Python."""
    if isinstance(node, ast.AST):
        return (type(node).__name__, *((name, _plain(value)) for name, value in ast.iter_fields(node)
                                       if value is not None and value != []))
    return [_plain(one) for one in node] if isinstance(node, list) else node


if __name__ == "__main__":
    from mlimages.scratch_folders import main

    sys.exit(main(*sys.argv[1:]))
