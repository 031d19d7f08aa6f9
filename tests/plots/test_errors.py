"""The error browser finds the worst mistakes of a class, and shows every true label."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.fixtures import SmallStages

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import read_tree
from mlimages.core.publish import publish, read_manifest
from mlimages.evaluate.predictions import open_prediction_writer
from mlimages.inputs.pipeline import Records
from mlimages.metrics.decisions import top_classes
from mlimages.plots.explore.errors import ClassErrors, best_thresholds
from mlimages.plots.explore.predictions import ErrorBrowser

CLASSES, KEPT = 6, 4


def published(folder: Path, scores: np.ndarray, confidences: np.ndarray, kept: int = KEPT) -> Path:
    with open_prediction_writer(folder / "work", 1, kept) as writer:
        writer.add(np.full(len(scores), b"k"), top_classes(scores, kept), scores, confidences)
    publish(folder / "work", folder / "evaluation", stage="evaluate", records={}, threshold=0.5, score_threshold=0.4)
    return folder / "evaluation"


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Scores with equal ones, and confidences with unknown ones, float32 [images, classes]."""
    rng = np.random.default_rng(3)
    scores = rng.integers(1, 9, (60, CLASSES)).astype(np.float32) / 10
    return scores, rng.choice([-1, 0, 0, 0.2, 0.7], scores.shape).astype(np.float32)


def kept_scores(scores: np.ndarray) -> np.ndarray:
    """The scores as they are published: 0 for a class that is none of the best."""
    result = np.zeros_like(scores)
    order = top_classes(scores, KEPT)
    np.put_along_axis(result, order, np.take_along_axis(scores, order, axis=1), axis=1)
    return result


def test_the_worst_mistakes_come_first(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    errors = ClassErrors(published(tmp_path, *arrays))
    scores, confidences = kept_scores(arrays[0]), arrays[1]
    for index in range(CLASSES):
        wrong = [image for image in range(60) if 0 <= confidences[image, index] < 0.5 and scores[image, index] > 0]
        true = [image for image in range(60) if confidences[image, index] >= 0.5]
        found = errors.scores(index)
        assert found.false_positives().tolist() == sorted(wrong, key=lambda image: -scores[image, index])
        assert found.misses().tolist() == sorted(true, key=lambda image: scores[image, index])
        assert found.found().tolist() == sorted(true, key=lambda image: -scores[image, index])
    pair = [image for image in range(60) if confidences[image, 1] >= 0.5 and 0 <= confidences[image, 2] < 0.5
            and scores[image, 2] > 0]
    assert pair and errors.confused(1, 2).tolist() == sorted(pair, key=lambda image: -scores[image, 2])


def test_the_best_threshold_has_the_highest_f1_of_all_thresholds(arrays: tuple[np.ndarray, np.ndarray],
                                                                 tmp_path: Path) -> None:
    evaluation = published(tmp_path, *arrays)
    errors, table = ClassErrors(evaluation), best_thresholds(evaluation).set_index("class")
    scores, confidences = kept_scores(arrays[0]), arrays[1]
    assert table.index.tolist() == list(range(CLASSES))
    for index, row in table.iterrows():
        known = confidences[:, index] >= 0
        true = confidences[:, index] >= 0.5
        f1 = {}
        for threshold in np.unique(scores[known & (scores[:, index] > 0), index]):
            predicted = known & (scores[:, index] >= threshold)
            precision, recall = (predicted & true).sum() / predicted.sum(), (predicted & true).sum() / true.sum()
            assert errors.scores(index).precision_recall(threshold) == pytest.approx((precision, recall))
            f1[threshold] = 2 * precision * recall / (precision + recall)
        assert row["f1"] == pytest.approx(max(f1.values())) == pytest.approx(f1[np.float32(row["threshold"])])
        assert (row["precision"], row["recall"]) == pytest.approx(
            errors.scores(index).precision_recall(row["threshold"]))
        assert row["images"] == true.sum()


def test_every_true_label_of_every_image_is_on_some_page(small_stages: SmallStages, tmp_path: Path) -> None:
    records = Records(small_stages.tfrecords, read_manifest(small_stages.tfrecords, "convert"), "val")
    tree = read_tree(small_stages.lists / DICTIONARY)
    confidences = records.reader.read(records.positions(), lambda index, jpeg: None).dense(len(tree))
    scores = np.random.default_rng(0).random(confidences.shape, np.float32)
    browser = ErrorBrowser(published(tmp_path, scores, confidences, kept=3), small_stages.tfrecords,
                           small_stages.lists)
    captions: dict[int, list[str]] = {}
    for page in range(browser.pager.pages):
        browser.pager.go(page)
        for figure in re.findall(r"<figcaption>(.*?)</figcaption>", browser.pager.shown):
            lines = [html.unescape(line) for line in re.findall(r"<div[^>]*>(.*?)</div>", figure)]
            captions[int(lines[0].partition(":")[0])] = lines[1:]
    assert sorted(captions) == list(range(len(records)))
    assert browser.pager.shown.count('alt="') == browser.pager.shown.count("<img") > 0
    for image, lines in captions.items():
        true = tree.specific(np.flatnonzero(confidences[image] >= 0.5).tolist())
        shown = [re.sub(r" (\d\.\d\d|not published)$", "", line[2:]) for line in lines if line[0] in "✓○"]
        assert sorted(shown) == sorted(tree.label(index) for index in true)
    assert any("○" in line and line.endswith("not published") for lines in captions.values() for line in lines)


def test_a_class_and_a_pair_are_chosen_by_name(small_stages: SmallStages, tmp_path: Path) -> None:
    records = Records(small_stages.tfrecords, read_manifest(small_stages.tfrecords, "convert"), "val")
    tree = read_tree(small_stages.lists / DICTIONARY)
    confidences = records.reader.read(records.positions(), lambda index, jpeg: None).dense(len(tree))
    scores = np.random.default_rng(0).random(confidences.shape, np.float32)
    evaluation = published(tmp_path, scores, confidences, kept=len(tree))
    browser = ErrorBrowser(evaluation, small_stages.tfrecords, small_stages.lists)
    index = int(np.argsort(-(confidences >= 0.5).sum(axis=0))[5])
    browser.chosen_class.value = browser.chosen_class.options[index]
    browser.kind.value = "worst misses"
    [first] = re.findall(r"<figcaption><div[^>]*>(\d+):", browser.pager.shown)[:1]
    assert int(first) == ClassErrors(evaluation).scores(index).misses()[0]
    browser.threshold.value = 0.3
    precision, recall = ClassErrors(evaluation).scores(index).precision_recall(0.3)
    assert f"precision of {precision:.3f} and a recall of {recall:.3f}" in browser.facts
    assert browser.pair.label == "(choose a confused pair)"
    _, pair = browser.pair.options[1]
    browser.pair.value = pair
    assert browser.chosen_class.value == "" and tree.label(pair[1]) in browser.pager.shown
    assert f"({len(ClassErrors(evaluation).confused(*pair)):,} images)" in browser.pager.position
