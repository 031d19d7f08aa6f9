"""Import nbformat, and what needs it, without what makes its import slow."""

import contextlib
import sys
from collections.abc import Iterator

IRI_GRAMMAR = "rfc3987_syntax"


@contextlib.contextmanager
def quick_jsonschema() -> Iterator[None]:
    """Import nbformat, papermill or nbconvert in this block, which saves most of a second of each process's start.

    They import jsonschema, which builds a grammar of IRIs if that package is installed. Notebooks hold no IRIs.
    """
    if IRI_GRAMMAR in sys.modules:
        yield
        return
    sys.modules[IRI_GRAMMAR] = None  # type: ignore[assignment]  # an import of it raises ImportError
    try:
        yield
    finally:
        del sys.modules[IRI_GRAMMAR]
