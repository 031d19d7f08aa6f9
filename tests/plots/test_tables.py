"""The tables of the notebooks: formatted, and sorted by importance."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mlimages.acquire.hierarchy import ClassTree
from mlimages.core.publish import write_csv
from mlimages.download.run import REASONS
from mlimages.evaluate.tables import write_tables
from mlimages.metrics.measurement import MetricsAccumulator
from mlimages.plots import downloads, evaluation
from mlimages.plots.canvas import read_table
from mlimages.plots.scaling import costs, scale
from mlimages.plots.scaling.costs import DatasetVolume

NAMES = ("thing", "12", "NA", "never")
TREE = ClassTree(NAMES, (-1, 0, 0, 0), NAMES)
SCORES = np.array([[0.9, 0.1, 0.2, 0.1], [0.8, 0.3, 0.7, 0.1], [0.7, 0.2, 0.4, 0.1], [0.6, 0.4, 0.1, 0.1]])
TRUTHS = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]], float)


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """The tables of four images and four classes, the last one without a true image."""
    accumulator = MetricsAccumulator(4, parents=TREE.parents)
    accumulator.update(SCORES, TRUTHS)
    write_tables(accumulator.result(), TREE, np.array([12_000, 50, 150, 0]), [100, 1000], tmp_path)
    return tmp_path


def test_the_mean_average_precision_comes_first_beside_a_random_ranking(evaluated: Path) -> None:
    table = evaluation.metrics_table(evaluated)
    assert list(table.index[:3]) == [f"mean average precision, {mean}" for mean in ("macro", "weighted", "micro")]
    average_precision = np.mean([1, (1 / 1 + 2 / 4) / 2, 1])
    base_rate = np.mean([1, 1 / 2, 1 / 4])
    assert table.iloc[0].tolist() == [f"{average_precision:.4f}", f"{base_rate:.4f}",
                                      f"{average_precision / base_rate:.1f}"]
    assert table.loc["images"].tolist() == ["4", "", ""]
    assert r"mean average precision, macro & 0.9167 & 0.5833 & 1.6" in table.to_latex()


def test_classes_are_sorted_by_average_precision_and_named_as_they_are(evaluated: Path) -> None:
    table = evaluation.class_table(evaluated)
    assert table.index.tolist() == ["thing", "NA", "12"]
    assert table.columns[0] == "average precision"
    assert table["average precision"].tolist() == ["1.0000", "1.0000", "0.7500"]
    assert table["train records"].tolist() == ["12,000", "150", "50"]
    assert evaluation.class_table(evaluated, count=2).index.tolist() == ["thing", "12"]


def test_names_stay_text_and_empty_cells_are_missing(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", ("class", "name", "recall"), [(0, "12", 0.5), (1, "013", "")])
    table = read_table(tmp_path / "table.csv")
    assert table["name"].tolist() == ["12", "013"] and table["recall"].isna().tolist() == [False, True]


def test_groups_and_cutoffs_are_named(evaluated: Path) -> None:
    assert evaluation.depth_table(evaluated).index.tolist() == [0, 1]
    frequencies = evaluation.frequency_table(evaluated)
    assert frequencies.index.tolist() == ["under 100", "100 to 999", "1,000 or more"]
    assert frequencies.columns[0] == "average precision"
    shares = evaluation.precision_recall_table(evaluated)
    assert shares.columns.tolist() == ["at threshold", "at 1", "at 5"]
    assert shares.index.tolist()[:3] == ["micro f1", "micro precision", "micro recall"]
    assert shares.loc["micro recall", "at 5"] == "1.0000"


def test_reasons_are_sorted_by_their_list_lines(tmp_path: Path) -> None:
    write_csv(tmp_path / REASONS, ("part", "reason", "lines", "meaning"),
              [("train", "gone", 30, ""), ("train", "ok", 1000, ""), ("val", "gone", 10, ""), ("val", "ok", 960, "")])
    table = downloads.reasons_table(tmp_path)
    assert table.index.tolist() == ["ok", "gone"]
    assert table.iloc[1, :2].tolist() == ["40", "2.0%"] and "HTTP status" in table.loc["gone", "meaning"]


def test_costs_have_units_and_the_total_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = DatasetVolume(downloaded=10_000_000, archived=0, downloaded_bytes=300_000.0, archived_bytes=0.0)
    table = scale.storage_table(dataset, {"as they came": (0, None)})
    assert table.loc["as they came"].to_dict() == {"total, TB": "6.00", "records, TB": "3.00",
                                                   "download shards, TB": "3.00", "ImageNet's tars, TB": "0.00"}
    assert scale.training_table(3600.0, 24, {"slow": 1.0, "fast": 24.0})["device-hours"].to_dict() == {
        "fast": "1", "slow": "24"}
    assert scale.last_training(tmp_path) == {} and "run `make repro`" in capsys.readouterr().out


def test_links_that_are_equally_good_share_a_line_and_every_link_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    links = costs.by_link([1, 10, 100, 400], images_per_second=25.0, batch=64, gradient_bytes=260e6, hop_seconds=2e-5,
                          message_bytes=2**25, overlap=0.5, record_bytes=30e3, images_per_second_per_core=700)
    scale.plot_scaling(links)
    left, right = plt.gcf().axes
    assert [line.get_label() for line in left.get_lines()] == ["1 Gbit/s", "10 Gbit/s\n100 Gbit/s\n400 Gbit/s"]
    slow, fast = (np.asarray(line.get_ydata()) for line in left.get_lines())
    assert abs(slow - fast).max() > 0.1 and len(right.get_lines()) == 2
    plt.close("all")
