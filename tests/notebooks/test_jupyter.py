"""JupyterLab changes no notebook that is opened and saved, and no file of data/."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.conftest import PATIENCE_SECONDS
from tests.notebooks.lab import HEADERS, Jupyter, jupyter_server
from tornado.web import HTTPError

from mlimages import jupyter_contents
from mlimages.jupyter_contents import RepositoryContents

ROOT = Path(__file__).parents[2]
REPORT = "data/reports/4_train.ipynb"


def edited(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook as JupyterLab holds it after `Run All`."""
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py",
                          "name": "python", "version": "3.11.7"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}}}
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] |= {"editable": True, "slideshow": {"slide_type": ""}, "trusted": True}
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "42\n"}]
            cell["execution_count"] = number
            cell["metadata"] |= {"execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}, "scrolled": True}
    return notebook


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what Jupyter needs, with a report, in a folder of its own."""
    copy = tmp_path / "here" / "repository"
    for name in ("notebooks", "src"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "jupyter_server_config.py", copy / "jupyter_server_config.py")
    (copy / REPORT).parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "notebooks/4_train.ipynb", copy / REPORT)
    return copy


@pytest.fixture
def server(repository: Path) -> Iterator[Jupyter]:
    """Jupyter's server, as `make lab` configures it, but with the folder above the repository as its root."""
    with jupyter_server(repository, repository.parent, repository.parents[1]) as server:
        yield server


def test_a_notebook_that_is_opened_run_and_saved_keeps_its_bytes_and_a_report_is_read_only(
        server: Jupyter, repository: Path) -> None:
    contents = f"{server.url}api/contents/repository"
    for path in sorted((repository / "notebooks").glob("*.ipynb")):
        before = path.read_bytes()
        address = f"{contents}/notebooks/{path.name}"
        opened = requests.get(address, headers=HEADERS, timeout=PATIENCE_SECONDS).json()
        assert opened["writable"]
        saved = {"type": "notebook", "format": "json", "content": edited(opened["content"])}
        requests.put(address, headers=HEADERS, json=saved, timeout=PATIENCE_SECONDS).raise_for_status()
        assert path.read_bytes() == before == (ROOT / "notebooks" / path.name).read_bytes()
    before = (repository / REPORT).read_bytes()
    opened = requests.get(f"{contents}/{REPORT}", headers=HEADERS, timeout=PATIENCE_SECONDS).json()
    assert not opened["writable"]
    saved = {"type": "notebook", "format": "json", "content": edited(opened["content"])}
    answer = requests.put(f"{contents}/{REPORT}", headers=HEADERS, json=saved, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 403 and "outside of data/" in answer.json()["message"]
    assert (repository / REPORT).read_bytes() == before
    assert "Overriding" not in server.output.read_text()


@pytest.mark.parametrize("root", [".", "notebooks", "..", "/"])
def test_files_are_recognized_whatever_the_root_is(root: str, repository: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jupyter_contents, "REPOSITORY", repository)
    folder = (repository / root).resolve()
    manager = RepositoryContents(root_dir=str(folder), allow_hidden=True)

    def save(path: Path, content: Any, kind: str = "notebook") -> None:
        model = {"type": kind, "format": "json" if kind == "notebook" else "text", "content": content}
        asyncio.run(manager.save(model, str(path.relative_to(folder))))

    notebook = repository / "notebooks/4_train.ipynb"
    clean = notebook.read_bytes()
    save(notebook, edited(json.loads(clean)))
    assert notebook.read_bytes() == clean
    if root == "notebooks":
        return  # what lies beside the root cannot be opened
    with pytest.raises(HTTPError, match="403"):
        save(repository / "data/reports/notes.txt", "42", "file")
    assert not (repository / "data/reports/notes.txt").exists()
    other = repository.parent / ("other.ipynb" if root in ("..", "/") else "repository/other.ipynb")
    save(other, edited(json.loads(clean)))
    assert b"42" in other.read_bytes(), "another notebook keeps its outputs"


def test_loading_the_configuration_twice_names_src_once(repository: Path) -> None:
    code = ("import os, runpy; from types import SimpleNamespace as N\n"
            "for _ in range(2): runpy.run_path('jupyter_server_config.py', {'get_config': lambda: N(ServerApp=N())})\n"
            "print(os.environ['PYTHONPATH'])")
    ended = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True,
                           env={**os.environ, "PYTHONPATH": "elsewhere"})
    assert ended.stdout.split() == [f"{repository / 'src'}{os.pathsep}elsewhere"]
