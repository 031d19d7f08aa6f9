"""What is taken for what, from the published predictions."""

from pathlib import Path

import numpy as np
import pytest

from mlimages.acquire.formats import DICTIONARY
from mlimages.evaluate.decisions import best
from mlimages.evaluate.predictions import writing_predictions
from mlimages.figures import predictions as figures
from mlimages.publish import publish

# A root with four leaves, and a leaf that is a root.
PARENTS = [-1, 0, 0, 0, 0, -1]
IMAGES = 60


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    rows = [f"{index}\tn{index:08d}\t{parent}\tclass {index}" for index, parent in enumerate(PARENTS)]
    (tmp_path / DICTIONARY).write_text("\n".join(["index\tid\tparent\tname", *rows]) + "\n")
    return tmp_path


@pytest.mark.parametrize("images_at_once", [7, 4096])
def test_confusions_are_how_much_more_a_class_is_seen_in_images_of_another(
        lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images_at_once: int) -> None:
    monkeypatch.setattr(figures, "IMAGES_AT_ONCE", images_at_once)
    rng = np.random.default_rng(0)
    scores = rng.random((IMAGES, len(PARENTS)), np.float32)
    truths = rng.random(scores.shape) < 0.3
    truths[:, 4], truths[:4, 4] = False, True  # too few images to tell
    confidences = np.where(truths, 0.7, np.where(rng.random(scores.shape) < 0.1, 0.2, 0)).astype(np.float32)
    kept = 4
    with writing_predictions(tmp_path / "work", 1, kept) as writer:
        writer.add(np.full(IMAGES, b"k"), best(scores, kept), scores, confidences)
    publish(tmp_path / "work", tmp_path / "evaluation", verb="evaluate", records={}, threshold=0.5)
    seen = np.where(scores >= np.sort(scores, axis=1)[:, -kept, None], scores, 0)
    expected = {}
    for true in (1, 2, 3, 5):
        for said in {1, 2, 3, 4, 5} - {true}:
            lacking = ~truths[:, said]
            expected[f"class {true}", f"class {said}"] = (seen[lacking & truths[:, true], said].mean()
                                                          - seen[lacking, said].mean())
    found = figures.confusions(tmp_path / "evaluation", lists, count=99)
    assert {(true, said): rise for true, said, rise in found} == pytest.approx(expected, abs=1e-6)
    assert [rise for *_, rise in found] == sorted((rise for *_, rise in found), reverse=True)
