"""What the code of a stage means: a hash that changes with what the code does, not with how it is written down.

Comments, docstrings, line breaks and what a file does as a command of its own do not count. Which files count follows
from the imports; there is no list to keep.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = "mlimages"
SOURCE = Path(__file__).parents[1]
# What runs only where a file is a command, and what never runs.
UNREACHED = ("__name__ == '__main__'", "TYPE_CHECKING")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def reached(module: str, source: Path = SOURCE) -> list[Path]:
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


def meaning(files: Iterable[Path], source: Path = SOURCE) -> str:
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
