"""One HTML page of all executed notebooks, to send to others: `make report`.

    python -m mlimages.commands.report

The page needs no network and no other file. Code is folded; parameters, text, tables and pictures are shown.
"""

import html
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlimages.commands.summary import summary
from mlimages.core.errors import INODES_FREE, command
from mlimages.core.publish import atomic_write
from mlimages.notebook import PARAMETERS_TAG
from mlimages.quick_import import quick_jsonschema

with quick_jsonschema():
    import nbformat
    from nbconvert.filters import markdown2html

REPORT = "report.html"
SUMMARY_LINES = 2  # what was made, and its quality; the other lines are hints for the person who ran it
PROGRESS = re.compile(rf"\d+%\||{INODES_FREE}")  # lines of progress bars, and of free space before a work begins
ABSOLUTE_PATH = re.compile(r"(?<![\w/:.])/(?:[\w.+-]+/)+([\w.+-]*)")
SENTENCE = re.compile(r".*?[.:](?=\s|$)", re.S)
MARKUP = re.compile(r"[`*_#]")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; }
img { max-width: 100%; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: 0.7em; font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; margin: 0.7em 0; }
th, td { padding: 0.2em 0.7em; text-align: right; border-bottom: 1px solid #ddd; }
.output { overflow-x: auto; }
.anchor-link { display: none; }
details { color: #666; font-size: 13px; }
section { border-top: 3px solid #ccc; margin-top: 3em; }
"""


def report(data: str | Path = "data") -> str:
    """The page of the notebooks in `data`/reports. Raises UserError if a stage has not run."""
    paths = sorted((Path(data) / "reports").glob("[0-9]_*.ipynb"))
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    facts = "".join(f"<p>{html.escape(line)}</p>" for line in summary(data).splitlines()[:SUMMARY_LINES])
    contents = "".join(f'<li><a href="#{name}">{html.escape(_title(notebook))}</a></li>'
                       for name, notebook in notebooks.items())
    sections = "".join(f'<section id="{name}">{"".join(_cells(notebook.cells))}</section>'
                       for name, notebook in notebooks.items())
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>ML-Images: report</title>'
            f"<style>{STYLE}</style></head><body><h1>ML-Images: report</h1>{facts}<ul>{contents}</ul>{sections}</body>"
            f"</html>\n")


def _title(notebook: Any) -> str:
    return notebook.cells[0].source.partition("\n")[0].strip("# ")


def _cells(cells: Iterable[Any]) -> Iterable[str]:
    """The HTML of each cell. A picture's alternative text is the first sentence of the text before it."""
    text = ""
    for cell in cells:
        if cell.cell_type == "markdown":
            text = cell.source
            yield markdown2html(cell.source)
            continue
        code = f"<pre><code>{html.escape(cell.source)}</code></pre>"
        is_parameters = PARAMETERS_TAG in cell.metadata.get("tags", [])
        yield code if is_parameters else f"<details><summary>code</summary>{code}</details>"
        outputs = "".join(_output(output, _alternative_text(text)) for output in cell.outputs)
        yield f'<div class="output">{outputs}</div>' if outputs else ""


def _output(output: Any, text: str) -> str:
    """The HTML of an output; empty for progress lines and widgets, which a page cannot show."""
    if output.output_type == "error":
        return _preformatted(f"{output.ename}: {output.evalue}")
    if output.output_type == "stream":
        return _preformatted(output.text)
    data = output.data
    if "image/png" in data:
        return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "application/vnd.jupyter.widget-view+json" in data:
        return ""
    return without_paths(data["text/html"]) if "text/html" in data else _preformatted(data.get("text/plain", ""))


def _preformatted(text: str) -> str:
    lines = [line.rpartition("\r")[2] for line in text.splitlines()]
    kept = "\n".join(line for line in lines if not PROGRESS.search(line)).strip("\n")
    return f"<pre>{html.escape(without_paths(kept))}</pre>" if kept.strip() else ""


def without_paths(text: str) -> str:
    """The text, with only the last name of each absolute path."""
    return ABSOLUTE_PATH.sub(r"\1", text)


def _alternative_text(markdown: str) -> str:
    """The first sentence below the heading of a text, without markup."""
    paragraphs = [paragraph for paragraph in markdown.split("\n\n") if not paragraph.startswith("#")]
    first = SENTENCE.match(paragraphs[0]) if paragraphs else None
    return MARKUP.sub("", first[0] if first else markdown).replace("\n", " ").rstrip(":")


@command
def main() -> None:
    page = report()
    with atomic_write(Path(REPORT)) as file:
        file.write(page.encode())
    print(f"{REPORT}: {len(page) / 1e6:.1f} MB, one file that needs no network")


if __name__ == "__main__":
    sys.exit(main())
