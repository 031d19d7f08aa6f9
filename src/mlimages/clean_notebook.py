"""Removes outputs and the metadata of editors from notebooks, as they are kept in git.

DVC hashes the files in notebooks/, so opening and saving a notebook must not change its bytes.
"""

from typing import Any

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}
EDITORS_KEYS = ("collapsed", "editable", "execution", "jupyter", "scrolled", "slideshow", "vscode")  # of a cell


def clean(notebook: dict[str, Any]) -> None:
    """Remove outputs, execution counts and an editor's metadata from a notebook, given as the content of its file."""
    for cell in notebook["cells"]:
        for key in EDITORS_KEYS:
            cell["metadata"].pop(key, None)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    notebook["metadata"] = {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
