"""Confusions of classes, from the published predictions."""

from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import read_tree
from mlimages.core.publish import publish
from mlimages.evaluate.predictions import open_prediction_writer
from mlimages.metrics.decisions import top_classes
from mlimages.plots import predictions

# A root with four leaves, and a leaf that is a root.
PARENTS = [-1, 0, 0, 0, 0, -1]
IMAGES = 60


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    rows = [f"{index}\tn{index:08d}\t{parent}\tclass {index}" for index, parent in enumerate(PARENTS)]
    (tmp_path / DICTIONARY).write_text("\n".join(["index\tid\tparent\tname", *rows]) + "\n")
    return tmp_path


def test_confusions_are_the_excess_of_a_score_on_images_of_another_class(
        lists: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((IMAGES, len(PARENTS)), np.float32)
    truths = rng.random(scores.shape) < 0.3
    truths[:, 4], truths[:4, 4] = False, True  # too few images
    confidences = np.where(truths, 0.7, np.where(rng.random(scores.shape) < 0.1, 0.2, 0)).astype(np.float32)
    kept = 4
    with open_prediction_writer(tmp_path / "work", 1, kept) as writer:
        writer.add(np.full(IMAGES, b"k"), top_classes(scores, kept), scores, confidences)
    publish(tmp_path / "work", tmp_path / "evaluation", stage="evaluate", records={}, threshold=0.5)
    published = np.where(scores >= np.sort(scores, axis=1)[:, -kept, None], scores, 0)
    expected = {}
    for true in (1, 2, 3, 5):
        for wrong in {1, 2, 3, 4, 5} - {true}:
            lacking = ~truths[:, wrong]
            expected[f"class {true}", f"class {wrong}"] = (published[lacking & truths[:, true], wrong].mean()
                                                           - published[lacking, wrong].mean())
    found = predictions.confusions(tmp_path / "evaluation", lists, count=99)
    assert {(true, wrong): excess for true, wrong, excess in found} == pytest.approx(expected, abs=1e-6)
    assert [excess for *_, excess in found] == sorted((excess for *_, excess in found), reverse=True)


def test_the_best_leaf_competes_with_leaves_of_its_root_that_are_not_true(
        lists: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 5, (IMAGES, len(PARENTS))).astype(np.float32) / 5  # with equal ones
    confidences = rng.choice([-1, 0, 0.2, 0.7], scores.shape).astype(np.float32)
    kept = 3
    order = top_classes(scores, kept)
    with open_prediction_writer(tmp_path / "work", 1, kept) as writer:
        writer.add(np.full(IMAGES, b"k"), order, scores, confidences)
    publish(tmp_path / "work", tmp_path / "evaluation", stage="evaluate", records={}, threshold=0.5)
    expected: Counter[tuple[int, int]] = Counter()
    for row, kept_here, confidence in zip(scores, order.tolist(), confidences, strict=True):
        for true in (leaf for leaf in (1, 2, 3, 4, 5) if confidence[leaf] >= 0.5):
            family = (5,) if true == 5 else (1, 2, 3, 4)
            rivals = [one for one in kept_here if one in family and 0 <= confidence[one] < 0.5]
            highest = max(rivals, key=lambda one: (row[one], -one), default=-1)
            if true in kept_here and (highest < 0 or row[true] > row[highest]):
                highest = true
            expected[true, highest] += 1
    images, pairs, counts = predictions.best_leaves(tmp_path / "evaluation", read_tree(lists / DICTIONARY))
    assert dict(zip(map(tuple, pairs.tolist()), counts.tolist(), strict=True)) == dict(expected)
    assert images.tolist() == [0, *(confidences[:, 1:] >= 0.5).sum(axis=0)]


def test_of_many_classes_those_that_are_confused_most_are_drawn_in_rows_that_add_up(
        lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    true = np.array([1] * 6 + [2] * 6 + [3] * 6 + [5] * 2)
    highest = np.array([2] * 5 + [3] + [2] * 2 + [4] * 4 + [3] * 6 + [5] * 2)
    scores, confidences = np.zeros((2, 20, len(PARENTS)), np.float32)
    scores[np.arange(20), highest], confidences[np.arange(20), true] = 0.9, 1.0
    with open_prediction_writer(tmp_path / "work", 1, len(PARENTS)) as writer:
        writer.add(np.full(20, b"k"), top_classes(scores, len(PARENTS)), scores, confidences)
    publish(tmp_path / "work", tmp_path / "evaluation", stage="evaluate", records={}, threshold=0.5)
    predictions.confusion_matrix(tmp_path / "evaluation", lists, max_classes=2)
    ax = plt.gcf().axes[0]
    assert ax.get_title() == "The leaf class with the highest score\n50% of 20 true leaf labels are right"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["class 1 (6)", "class 2 (6)"]
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), [[0, 5 / 6, 1 / 6], [0, 2 / 6, 4 / 6]])
    plt.close("all")
