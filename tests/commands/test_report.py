"""The page of `make report` shows the notebooks' results, without progress and paths, and needs no network."""

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mlimages.commands import report as module
from mlimages.commands.report import main, report, without_paths
from mlimages.core.errors import UserError, report_space
from mlimages.run_notebook import save_pictures

PNG = base64.b64encode(b"\x89PNG picture").decode() + "\n"
WIDGET = "application/vnd.jupyter.widget-view+json"


def stream(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    return new_output("stream", name=name, text=text)


def shown(**data: str) -> nbformat.NotebookNode:
    return new_output("display_data", data={name.replace("_", "/"): value for name, value in data.items()})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Two executed notebooks with every kind of output."""
    monkeypatch.setattr(module, "summary", lambda data: "Made: 3 <images>.\nQuality: 0.5.\nLook: /home/me/x\nTry: y")
    reports = tmp_path / "data/reports"
    reports.mkdir(parents=True)
    report_space(tmp_path, 1e9, "the table")
    space = capsys.readouterr().out
    assert "inodes" in space
    notebook = new_notebook(cells=[
        new_markdown_cell("# Train: a network\n\nSome text."),
        new_code_cell("rate = 0.1  # <fast>", metadata={"tags": ["parameters"]}),
        new_code_cell("train()", outputs=[
            stream("train:  10%|#    | 1/10 [00:01<00:09]\rtrain: 100%|#####| 10/10 [00:10<00:00]\n"
                   f"{space}resumed from /home/me/scratch/step-5\n"),
            stream("/usr/lib/python3/a.py:3: odd\n", "stderr"), shown(**{WIDGET: "{}", "text_plain": "Box()"})]),
        new_markdown_cell("## Loss\n\nThe `curve` shows whether it *learns*. A bad one rises."),
        new_code_cell("plot()", outputs=[shown(**{"image_png": PNG, "text_plain": "<Figure>"})]),
        new_code_cell("table()", outputs=[shown(text_html="<table><tr><td>7</td></tr></table>", text_plain="7"),
                                          shown(text_plain="'a' & <b>")]),
        new_code_cell("fail()", outputs=[new_output("error", ename="UserError", evalue="no <data>", traceback=[])])])
    nbformat.write(notebook, reports / "4_train.ipynb")
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Acquire: lists")]), reports / "1_acquire.ipynb")
    return tmp_path / "data"


def test_text_tables_pictures_and_parameters_are_shown_and_code_is_folded(data: Path) -> None:
    page = report(data)
    assert page.index('id="1_acquire"') < page.index('id="4_train"') and 'href="#4_train">Train: a network</a>' in page
    assert "Made: 3 &lt;images&gt;." in page and "Look:" not in page
    assert '<img alt="The curve shows whether it learns." src="data:image/png;base64,' in page
    assert "<table><tr><td>7</td></tr></table>" in page and "&#x27;a&#x27; &amp; &lt;b&gt;" in page
    assert "UserError: no &lt;data&gt;" in page
    unfolded = re.sub(r"<details>.*?</details>", "", page, flags=re.S)
    assert "rate = 0.1  # &lt;fast&gt;" in unfolded
    assert not any(code in unfolded for code in ("train()", "plot()", "table()", "fail()"))
    assert page.count("<details>") == 4


def test_progress_lines_paths_and_widgets_are_left_out(data: Path) -> None:
    page = report(data)
    assert "resumed from step-5" in page and "a.py:3: odd" in page
    assert not any(text in page for text in ("0%|", "inodes", "/home", "/usr", "/scratch", "Box()", "Figure"))


def test_the_page_loads_nothing(data: Path) -> None:
    page = report(data)
    assert not re.search(r"<(script|link|iframe)|@import|url\(", page)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)', page))
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)', page))


@pytest.mark.parametrize(("text", "expected"), [
    ("at /home/me/data/x.csv, line 3", "at x.csv, line 3"), ("http://a.example/b/c.jpg", "http://a.example/b/c.jpg"),
    ("data/lists/a.txt", "data/lists/a.txt"), ("images/s 1/2", "images/s 1/2"), ("</td></tr>", "</td></tr>")])
def test_only_absolute_paths_are_shortened(text: str, expected: str) -> None:
    assert without_paths(text) == expected


def test_the_command_writes_one_file_or_says_which_stage_to_run(data: Path, monkeypatch: pytest.MonkeyPatch,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(data.parent)
    assert main() == 0
    assert (data.parent / "report.html").read_text() == report("data")

    def missing(data: str | Path) -> str:
        raise UserError("data/model is missing; run `dvc repro train`")

    monkeypatch.setattr(module, "summary", missing)
    assert main() == 2
    assert "run `dvc repro train`" in capsys.readouterr().err


def test_the_pictures_of_a_notebook_become_files_named_by_the_functions_that_drew_them(data: Path) -> None:
    path = data / "reports/4_train.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [
        new_code_cell("with plots.live_plot(params):\n    train()", outputs=[shown(image_png=PNG)] * 2),
        new_code_cell("x = 3", id="an-id", outputs=[shown(image_png=PNG)])]
    nbformat.write(notebook, path)
    (data / "reports/4_train").mkdir()
    (data / "reports/4_train/earlier.png").touch()
    save_pictures(path)
    files = {file.name: file.read_bytes() for file in (data / "reports/4_train").iterdir()}
    assert set(files) == {"plot.png", "live_plot.png", "live_plot_2.png", "an-id.png"}
    assert set(files.values()) == {base64.b64decode(PNG)}
