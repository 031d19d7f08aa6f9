"""Each label of a validation image has an outcome, and the gallery shows right and wrong ones."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tests.evaluate.fixtures import SmallStages

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.core.publish import publish, read_manifest
from mlimages.evaluate.predictions import open_prediction_writer
from mlimages.inputs.pipeline import Records
from mlimages.metrics.decisions import top_classes
from mlimages.plots.gallery import MAX_LINES, LabelOutcomes, Verdict, gallery, spread

# thing > (animal > (cat, dog), plant); red
NAMES = ("thing", "animal", "cat", "dog", "plant", "red")
TREE = ClassTree(NAMES, (-1, 0, 1, 1, 0, -1), NAMES)
THING, ANIMAL, CAT, DOG, PLANT, RED = range(6)


def published(folder: Path, confidences: np.ndarray, scores: np.ndarray) -> Path:
    """What evaluate would publish of these, the scores of all classes included."""
    with open_prediction_writer(folder / "work", 1, scores.shape[1]) as writer:
        writer.add(np.full(len(scores), b"k"), top_classes(scores, scores.shape[1]), scores, confidences)
    publish(folder / "work", folder / "evaluation", stage="evaluate", records={}, threshold=0.5, score_threshold=0.4)
    return folder / "evaluation"


def rows(*of_images: dict[int, float], classes: int = len(TREE.names)) -> np.ndarray:
    found = np.zeros((len(of_images), classes), np.float32)
    for row, values in zip(found, of_images, strict=True):
        row[list(values)] = list(values.values())
    return found


@pytest.mark.parametrize("true, scored, expected", [
    ({CAT: 1, ANIMAL: 1, RED: 1}, {CAT: 0.9, ANIMAL: 0.9}, [(CAT, "RIGHT"), (RED, "MISSED")]),
    ({CAT: 1, ANIMAL: 1}, {DOG: 0.9, ANIMAL: 0.9, CAT: 0.3}, [(DOG, "WRONG"), (CAT, "MISSED")]),
    ({ANIMAL: 1}, {ANIMAL: 0.8, PLANT: 0.9}, [(PLANT, "WRONG"), (ANIMAL, "RIGHT")]),
    ({ANIMAL: 0.4}, {ANIMAL: 0.4}, [(ANIMAL, "WRONG")]),
    ({CAT: -1, RED: 0.5}, {CAT: 0.9, RED: 0.39}, [(RED, "MISSED")]),
    ({}, {}, [])])
def test_every_label_is_right_wrong_or_missed_and_ancestors_and_the_common_are_left_out(
        tmp_path: Path, true: dict[int, float], scored: dict[int, float], expected: list[tuple[int, str]]) -> None:
    everywhere = {THING: 1.0}
    confidences = rows(everywhere | true, *[everywhere] * 9)
    outcomes = LabelOutcomes(published(tmp_path, confidences, rows({THING: 0.1} | scored, *[{}] * 9)), TREE)
    assert len(outcomes) == 10
    assert [(label, outcome.name) for label, _, outcome in outcomes[0]] == expected
    assert [label.score for label in outcomes[0]] == pytest.approx([scored.get(label, 0) for label, _ in expected])


def colours_of_texts() -> set[object]:
    return {text.get_color() for part in plt.gcf().subfigs for ax in part.axes for text in ax.texts}


def titles() -> list[str]:
    return [text.get_text() for part in plt.gcf().subfigs for text in part.texts]


@pytest.mark.parametrize("seen, right", [("truth", None), ("nothing", 0), ("everything", 0)])
def test_a_gallery_shows_right_wrong_and_missed_labels(small_stages: SmallStages, tmp_path: Path, seen: str,
                                                   right: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    records = Records(small_stages.tfrecords, read_manifest(small_stages.tfrecords, "convert"), "val")
    tree = read_tree(small_stages.lists / DICTIONARY)
    confidences = records.reader.read(records.positions(), lambda index, jpeg: None).dense(len(tree))
    scores = {"truth": 0.9 * (confidences > 0.5), "nothing": np.full_like(confidences, 0.1),
              "everything": np.full_like(confidences, 0.9)}[seen].astype(np.float32)
    gallery(published(tmp_path, confidences, scores), small_stages.tfrecords, small_stages.lists)
    assert titles()[0] == f"All labels right: {len(records) if right is None else right} of {len(records)} images"
    colours = colours_of_texts()
    wanted = {"truth": {Verdict.RIGHT}, "nothing": {Verdict.MISSED}, "everything": {Verdict.RIGHT, Verdict.WRONG}}[seen]
    assert {outcome.value[1] for outcome in wanted} <= colours
    assert {outcome.value[1] for outcome in set(Verdict) - wanted}.isdisjoint(colours)
    captions = [len(ax.texts) for part in plt.gcf().subfigs for ax in part.axes]
    assert captions and max(captions) <= MAX_LINES
    pictures = [np.asarray(ax.images[0].get_array()) for part in plt.gcf().subfigs[2:3] for ax in part.axes]
    assert all((one != other).any() for one, other in zip(pictures, pictures[1:], strict=False)), "each its own"
    plt.close("all")


@pytest.mark.parametrize("images, count, expected", [([], 3, []), ([4, 5], 3, [4, 5]), (range(9), 3, [0, 3, 6])])
def test_images_are_spread(images: Sequence[int], count: int, expected: list[int]) -> None:
    assert spread(images, count) == expected
