"""The hash of a stage's code covers all modules that it imports, but no comments, docstrings and line breaks."""

import shutil
from pathlib import Path

import pytest

from mlimages.core.scratch import PACKAGE, SOURCE, code_hash, imported_files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of this project's code, for changes."""
    shutil.copytree(SOURCE / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def of_stage(stage: str, source: Path) -> str:
    return code_hash(imported_files(f"{PACKAGE}.{stage}.run", source), source)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


STAGES = ["acquire", "convert", "train", "evaluate"]


@pytest.mark.parametrize("stage", STAGES)
def test_comments_docstrings_and_line_breaks_do_not_change_the_hash(source: Path, stage: str) -> None:
    before = of_stage(stage, source)
    for path in imported_files(f"{PACKAGE}.{stage}.run", source):
        change(path, '"""', '"""Other words. ')  # every module begins with its docstring
        path.write_text(f"{path.read_text()}\n\n# A comment.\nif __name__ == '__main__':\n    print('a command')\n")
    change(source / PACKAGE / "core" / "errors.py", '"""The commands that', '"""The very commands that')
    assert of_stage(stage, source) == before


@pytest.mark.parametrize(("file", "old", "new", "changed"), [
    ("training/distribution.py", "total / self._replicas", "total * self._replicas", {"train"}),
    ("training/result.py", "INPUT_STEPS = ", "INPUT_STEPS = 1 + ", {"train"}),
    ("training/run_record.py", "A pre-activation ResNet", "A ResNet", {"train"}),  # a text that is published
    ("training/loop.py", "LOGGED_STEPS = ", "LOGGED_STEPS = 1 + ", {"train"}),  # imported inside a function
    ("inputs/preprocess.py", "", "MORE = 1\n", {"train", "evaluate"}),
    ("acquire/formats.py", "", "MORE = 1\n", set(STAGES)),
    ("acquire/selection.py", "", "MORE = 1\n", {"acquire"}),
    ("convert/shard_writer.py", "", "MORE = 1\n", {"convert"}),
    ("evaluate/tables.py", "", "MORE = 1\n", {"evaluate"}),
    ("core/tuning.py", 'environment[ONEDNN] = "1"', 'environment[ONEDNN] = "0"', set(STAGES)),
    ("plots/training.py", "SMOOTHED_ROWS = ", "SMOOTHED_ROWS = 1 + ", set()),
])
def test_a_change_of_code_changes_the_hash_of_the_stages_that_import_it(source: Path, file: str, old: str, new: str,
                                                                        changed: set[str]) -> None:
    before = {stage: of_stage(stage, source) for stage in STAGES}
    change(source / PACKAGE / file, old, new)
    assert {stage for stage in STAGES if of_stage(stage, source) != before[stage]} == changed


def test_a_new_import_and_the_names_of_a_package_change_the_hash(source: Path) -> None:
    before = of_stage("evaluate", source)
    (source / PACKAGE / "more").mkdir()
    (source / PACKAGE / "more" / "__init__.py").write_text("from mlimages.more.inner import value\n")
    (source / PACKAGE / "more" / "inner.py").write_text("value = 1\n")
    assert of_stage("evaluate", source) == before
    change(source / PACKAGE / "evaluate" / "run.py", "import ", "from mlimages.more import value\nimport ")
    first = of_stage("evaluate", source)
    (source / PACKAGE / "more" / "inner.py").write_text("value = 2\n")
    assert len({before, first, of_stage("evaluate", source)}) == 3
