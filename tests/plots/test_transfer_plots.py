"""The pictures of data/transfer show its numbers."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mlimages.core.publish import write_csv
from mlimages.demo import world
from mlimages.network.model_files import ClassTable, Preprocessing
from mlimages.network.resnet import build
from mlimages.network.serving import save_network
from mlimages.plots import transfer as plots
from mlimages.transfer.scores import CONFUSION, PREDICTIONS, example_file, mistake_file


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Two classes; three cats are right, one is predicted as a dog, and a dog as a cat."""
    save_network(build("tiny", 2, stock=True), ClassTable(["", ""], [-1, -1], ["cat", "dog"]),
                 Preprocessing(64, "central", 1.0, "softmax"), tmp_path / "model")
    for folder, values in (("model/validation.csv", [0.5, 0.6]), ("from_nothing.csv", [0.1, 0.2])):
        write_csv(tmp_path / folder, ("step", "loss", "mean_average_precision", "top_1"),
                  [(step, 1, 1, value) for step, value in zip((10, 20), values, strict=True)])
    write_csv(tmp_path / CONFUSION, ("class", "predicted", "images"),
              [("cat", "cat", 3), ("cat", "dog", 1), ("dog", "cat", 1)])
    write_csv(tmp_path / PREDICTIONS, ("image", "class", "predicted", "probability", "top_5", "file"), [
        ("a", "cat", "cat", 0.9, 1, ""), ("b", "cat", "dog", 0.7, 1, mistake_file(1)),
        ("c", "dog", "cat", 0.8, 1, mistake_file(0))])
    for name in (mistake_file(0), mistake_file(1), example_file(0), example_file(1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        wnid = world.CLASSES[world.INDEX[world.LEAVES[0]]].wnid
        (tmp_path / name).write_bytes(world.draw(f"{wnid}_{len(name)}", 64))
    (tmp_path / "metrics.json").write_text(json.dumps(
        {"top_1": 0.6, "top_5": 1.0, "top_1_from_nothing": 0.2, "top_1_linear": None, "images": 5}))
    return tmp_path


def test_the_table_has_a_row_for_each_network(published: Path) -> None:
    table = plots.accuracy_table(published)
    assert table.loc["fine-tuned"].tolist() == ["60.0%", "100.0%", "5"]
    assert table.loc["from random weights"].tolist() == ["20.0%", "", "5"]
    assert table.loc["features and a linear classifier"].tolist() == ["", "", "5"]


def test_both_curves_are_drawn_and_the_accuracy_of_guessing(published: Path) -> None:
    plots.accuracy_curves(published)
    drawn = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in plt.gca().lines}
    assert drawn == {"from the trained network": [0.5, 0.6], "from random weights": [0.1, 0.2],
                     "guessing among 2 classes": [0.5, 0.5]}
    plt.close("all")


def test_the_matrix_has_the_shares_of_each_true_class(published: Path) -> None:
    plots.confusions(published)
    [image] = [ax.images[0] for ax in plt.gcf().axes if ax.images]
    assert np.asarray(image.get_array()).tolist() == [[0.75, 0.25], [1, 0]]
    plt.close("all")


def test_of_many_classes_those_with_most_mistakes_are_shown(published: Path) -> None:
    write_csv(published / CONFUSION, ("class", "predicted", "images"),
              [("a", "a", 9), ("b", "b", 9), ("c", "d", 2), ("d", "d", 1)])
    plots.confusions(published, max_classes=2)
    ax = plt.gcf().axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["c", "d"]
    plt.close("all")


@pytest.mark.parametrize("pixels", [64, 32])
def test_mistakes_come_with_a_map_and_the_most_confident_first(published: Path, pixels: int) -> None:
    Preprocessing(pixels, "central", 1.0, "softmax").write(published / "model")
    plots.mistakes(published)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
    assert titles == ["is dog", "cat, 80%", "is cat", "dog, 70%"]
    assert [len(ax.images) for ax in plt.gcf().axes[:4]] == [1, 2, 1, 2]
    plt.close("all")


def test_without_a_mistake_a_sentence_says_so(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(published / PREDICTIONS, ("image", "class", "predicted", "probability", "top_5", "file"),
              [("a", "cat", "cat", 0.9, 1, "")])
    plots.mistakes(published)
    assert "no mistake" in capsys.readouterr().out


def test_the_examples_are_named(published: Path) -> None:
    plots.examples(published)
    assert [text.get_text() for ax in plt.gcf().axes for text in ax.texts] == ["cat", "dog"]
    plt.close("all")
