"""Experiments side by side, as DVC keeps them."""

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from tests.pipeline import run

from mlimages.core.errors import UserError
from mlimages.plots.explore import runs

STAGE = '''
import csv, json
from pathlib import Path
import yaml

train = yaml.safe_load(open("params.yaml"))["train"]
rate = train["learning_rate"]


def write(name, *rows):
    Path("data", name).parent.mkdir(parents=True, exist_ok=True)
    with open(Path("data", name), "w") as file:
        csv.writer(file, lineterminator="\\n").writerows(rows)


write("model/training.csv", ("step", "loss"), *((step, 3 * (1 - rate) ** step) for step in range(1, 6)))
write("model/validation.csv", ("step", "mean_average_precision"), (2, rate / 2), (4, rate))
write("evaluation/per_class.csv", ("class", "name", "average_precision"), (0, "cat", rate), (1, "12", 0.5),
      (2, "dog", ""), (3, "fox", 1 - rate))
Path("data/evaluation/metrics.json").write_text(json.dumps({"mean_average_precision_macro": rate}))
'''


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a stage that takes no time, its result at a learning rate of 0.1, and the experiment `fast`."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "stage.py").write_text(STAGE)
    (folder / "params.yaml").write_text("train: {learning_rate: 0.1, seed: 0}\n")
    (folder / "dvc.yaml").write_text(json.dumps({
        "stages": {"train": {"cmd": "python stage.py", "params": ["train"], "deps": ["stage.py"],
                             "outs": ["data/model", "data/evaluation"]}},
        "metrics": ["data/evaluation/metrics.json"]}))
    (folder / ".gitignore").write_text("data\n")
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "git", "config", "user.name", "tester")
    run(folder, "git", "config", "user.email", "tester@example.org")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "repro", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "base")
    run(folder, "dvc", "exp", "run", "-q", "-n", "fast", "-S", "train.learning_rate=0.5")
    return folder


@pytest.fixture(autouse=True)
def inside(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(plt, "show", lambda: None)


def test_the_changed_parameters_and_the_metrics_of_all_experiments_are_side_by_side() -> None:
    table = runs.comparison_table()
    assert list(table.columns) == ["train.learning rate", "mean average precision macro"]
    assert table.loc["main"].tolist() == ["0.1", "0.1"]
    assert table.loc["fast"].tolist() == ["0.5", "0.5"]
    assert set(table.index) == {"workspace", "main", "fast"}


def test_curves_are_those_that_each_experiment_made() -> None:
    runs.plot_curves(["main", "fast"])
    lines = {(ax.get_title(), line.get_label()): line.get_ydata() for ax in plt.gcf().axes for line in ax.get_lines()}
    assert len(lines) == 4
    assert lines["training loss", "main"] == pytest.approx([3 * 0.9**step for step in range(1, 6)])
    assert lines["training loss", "fast"] == pytest.approx([3 * 0.5**step for step in range(1, 6)])
    assert lines["validation: mean average precision (macro)", "fast"] == pytest.approx([0.25, 0.5])
    plt.close("all")


def test_gains_by_class_are_sorted_and_leave_out_classes_without_images() -> None:
    frame = runs.class_differences("main", "fast")
    assert frame["name"].tolist() == ["cat", "12", "fox"]
    assert frame["gain"].tolist() == pytest.approx([0.4, 0, -0.4])
    table = runs.difference_table("main", "fast", count=2)
    assert table.index.tolist() == ["cat", "fox"] and table.columns.tolist() == ["A: main", "B: fast", "gain"]
    assert set(runs.difference_table("main", "main")["gain"]) == {"0.0000"}, "an experiment beside itself"
    runs.plot_differences("main", "fast")
    assert [text.get_text() for text in plt.gca().get_yticklabels()] == ["cat", "12", "fox"]
    plt.close("all")


def test_an_unknown_experiment_and_a_missing_repository_name_what_to_run(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="of the experiment slow is missing.*`dvc exp list`"):
        runs.plot_curves(["slow"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no experiments"):
        runs.experiments()


def test_a_commit_whose_results_are_on_another_machine_is_left_out(repository: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the first run in a clone, if its results differ from those of the committed dvc.lock."""
    run(tmp_path, "git", "clone", "-q", str(repository), "clone")
    shutil.copytree(repository / "data", tmp_path / "clone/data")
    monkeypatch.chdir(tmp_path / "clone")
    assert runs.experiments_with_results() == ["workspace"]
    assert runs.comparison_table()["mean average precision macro"].to_dict() == {"workspace": "0.5", "main": ""}


def test_an_experiment_without_results_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.experiments_with_results() == ["workspace", "main", "fast"]
    known = {**runs.experiments(), "elsewhere": {}}
    monkeypatch.setattr(runs, "experiments", lambda: known)
    assert runs.experiments_with_results() == ["workspace", "main", "fast"]
