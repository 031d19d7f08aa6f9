"""README.md and docs/: their commands run, their options are allowed, and what they name exists.

A block of code that a test cannot run has a mark in front of it: an HTML comment `<!-- needs: GPUs -->`.
"""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tests.pipeline import environment

from mlimages.core.param_errors import checked
from mlimages.core.params import SECTIONS, Params

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/mlimages"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"the network", "pictures of your own", "JupyterLab in a browser", "ImageNet", "GPUs", "several machines",
         "a SLURM cluster", "a Ray cluster", "a Kubernetes cluster", "a released checkpoint", "minutes of training",
         "an hour"}
RUN, SHOWN = {"sh", "python"}, {"yaml", "text", "mermaid"}
BLOCK = re.compile(r"(?:^<!-- needs: (?P<needs>[^\n>]*) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
SPAN = re.compile(r"(`+)(.+?)\1")
PARAMETER = re.compile(rf"(?<![\w./])(?:{'|'.join(SECTIONS)})\.[a-z]\w*(?:\.[a-z]\w*)*")
FILE = re.compile(r"(?<![\w./-])(?:(?:src|tests|docs|notebooks|cluster|benchmarks)/[\w./*-]*"
                  r"|[\w-]+\.(?:py|yaml|ipynb|slurm|toml|lock)|(?:requirements|params)[\w-]*\.txt)(?![\w*])")
MODULE = re.compile(r"(?<![\w./])mlimages(?:\.[a-z_]\w*)+")
MADE = re.compile(r"(?<![\w./-])data/[\w./-]+")
CHAIN = re.compile(r"^\| (?P<call>\d*) ?\| `(?P<function>[\w.]+)` \| `(?P<file>src/[\w/.]+)` \|$", re.M)
MOST_CALLS = 8


class Block(NamedTuple):
    """A fenced block of a page: the line of its code, its language, what it needs, and its code."""

    page: Path
    line: int
    language: str
    needs: str | None
    code: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(page, text.count("\n", 0, found.start("code")) + 1, found["language"], found["needs"], found["code"])
            for found in BLOCK.finditer(text)]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
EXECUTED = [block for block in BLOCKS if block.language in RUN and not block.needs]


def prose(page: Path) -> str:
    """The text of a page without its blocks."""
    return BLOCK.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    """What stands in backticks in the text of a page."""
    return [found[2] for line in prose(page).replace("\n", " ").split("\0") for found in SPAN.finditer(line)]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def changed(values: Any, settings: list[str]) -> Any:
    """Parameters after the settings KEY=VALUE of a command."""
    values = deepcopy(values)
    for setting in settings:
        key, _, value = setting.partition("=")
        section, *path, name = key.split(".")
        place = values[section]
        for part in path:
            place = place[part]
        assert name in place, f"{key} is no parameter"
        place[name] = yaml.safe_load(value)
    return values


def params_yaml() -> Any:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@cache
def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_known_language_and_every_mark_a_block(page: Path) -> None:
    text, blocks = page.read_text(), blocks_of(page)
    assert text.count("```") == 2 * len(blocks)
    assert text.count("<!-- needs:") == len([block for block in blocks if block.needs])
    for block in blocks:
        assert block.language in RUN | SHOWN, block.name
        assert block.needs is None or (block.needs in NEEDS and block.language in RUN), block.name


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in RUN], ids=lambda block: block.name)
def test_a_block_parses(block: Block) -> None:
    if block.language == "python":
        ast.parse(block.code)
    else:
        ended = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True)
        assert ended.returncode == 0 and not ended.stderr, ended.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=lambda block: block.name)
def test_the_settings_of_a_command_are_allowed_parameters(block: Block) -> None:
    for words in commands(block):
        settings = [after for word, after in zip(words, words[1:], strict=False) if word == "-S"]
        checked(Params, changed(params_yaml(), settings), " ".join(words), "", SECTIONS)


def test_the_full_datas_settings_are_allowed_parameters() -> None:
    words = shlex.split((ROOT / "params-full.txt").read_text())
    assert words[::2] == ["-S"] * (len(words) // 2)
    checked(Params, changed(params_yaml(), words[1::2]), "params-full.txt", "", SECTIONS)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=lambda block: block.name)
def test_yaml_is_a_part_of_params_yaml(block: Block) -> None:
    values = params_yaml()
    for section, part in yaml.safe_load(block.code).items():
        assert set(part) <= set(values[section]), section
        values[section].update(part)
    checked(Params, values, block.name, "", SECTIONS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?://", target):
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            assert other.exists(), target
            assert not anchor or anchor in slugs(other), target


def test_the_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", PAGES[0].read_text()))
    assert linked == {f"docs/{page.name}" for page in PAGES[1:]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_modules_and_parameters_that_are_named_exist(page: Path) -> None:
    files = {path.name for path in ROOT.rglob("*") if not {".venv", ".git", "scratch"} & set(path.parts)}
    values = params_yaml()
    for span in spans(page):
        for name in FILE.findall(span):
            known = bool(list(ROOT.glob(name.rstrip("/")))) if "/" in name else name in files
            assert known, f"{name} in `{span}`"
        for name in MODULE.findall(span):
            *parents, last = name.split(".")[1:]
            assert module_file([*parents, last]) or last in names_defined(module_file(parents)), name
        for name in PARAMETER.findall(span):
            place = values
            for part in name.split("."):
                assert part in place, f"{name} is no parameter"
                place = place[part]


def module_file(parts: list[str]) -> Path | None:
    path = SOURCE.joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def names_defined(module: Path | None) -> set[str]:
    """The names that a module defines or imports; none where there is no such module."""
    tree = ast.parse(module.read_text() if module else "")
    defined = {getattr(node, "name", "") for node in tree.body}
    return defined | {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                      for alias in node.names}


def test_the_chain_of_calls_to_the_optimizer_is_that_of_the_code() -> None:
    rows = list(CHAIN.finditer((ROOT / "docs/architecture.md").read_text()))
    assert [row["call"] for row in rows] == ["", *map(str, range(1, len(rows)))]
    assert 1 < len(rows) <= MOST_CALLS + 1
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        place: Any = ast.parse((ROOT / row["file"]).read_text())
        for name in row["function"].split("."):
            owner, place = place, next((node for node in place.body if getattr(node, "name", None) == name), None)
            assert place is not None, row["function"]
        if following:
            # A method may call another one by an attribute that its class sets.
            names = names_in(place) | (names_in(owner) if isinstance(owner, ast.ClassDef) else set())
            assert following["function"].split(".")[-1] in names, f"{row['function']} calls no {following['function']}"


def names_in(tree: ast.AST) -> set[str]:
    """The names and attributes that a part of the code uses."""
    return {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(tree)}


def test_the_errors_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    texts = [(ROOT / "Makefile").read_text(), *literals()]
    tables = (ROOT / "docs/troubleshooting.md").read_text().split("\n\n")
    rows = [row for table in tables if table.startswith("| message ") for row in table.splitlines()[2:]]
    messages = [found[2].strip() for row in rows for found in SPAN.finditer(row.split(" | ")[0])]
    assert len(messages) > 30
    patterns = {message: re.compile(".*".join(map(re.escape, message.split("..."))), re.S) for message in messages}
    assert [message for message, pattern in patterns.items()
            if not any(pattern.search(text.replace("`", "")) for text in texts)] == []


def literals() -> list[str]:
    """The strings of the code; what a formatted one inserts is left out."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_results_that_are_named_exist(committed: Path, page: Path) -> None:
    for span in spans(page):
        for name in MADE.findall(span):
            assert "NNNNN" in name or (committed / name).exists(), name


@pytest.mark.slow
@pytest.mark.parametrize("block", EXECUTED, ids=lambda block: block.name)
def test_a_block_runs(committed: Path, block: Block) -> None:
    """In the order of the pages, in one copy of the repository."""
    command = {"python": [sys.executable, "-c"], "sh": ["bash", "-euo", "pipefail", "-c"]}[block.language]
    source = {"PYTHONPATH": str(committed / "src")} if block.language == "python" else {}
    ended = subprocess.run([*command, block.code], cwd=committed, env={**environment(), **source}, capture_output=True,
                           text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
