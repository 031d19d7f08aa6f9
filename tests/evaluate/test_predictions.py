"""The prediction files are written batch by batch, and hold the best classes and the labels of every image."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlimages.core.errors import UserError
from mlimages.evaluate.predictions import LABELS, PREDICTIONS, open_prediction_writer, read_predictions
from mlimages.metrics.decisions import top_classes

RNG = np.random.default_rng(0)
SCORES = RNG.random((25, 6), np.float32)
CONFIDENCES = np.where(RNG.random((25, 6)) < 0.3, RNG.choice([-1, 0.4, 1.0], (25, 6)), 0).astype(np.float32)
KEYS = np.array([f"val-{number:05d}".encode() for number in range(25)])


def write(folder: Path, batch: int, kept: int = 4) -> Path:
    with open_prediction_writer(folder, 9, kept) as writer:
        for begin in range(0, 25, batch):
            rows = slice(begin, begin + batch)
            writer.add(KEYS[rows], top_classes(SCORES[rows], kept), SCORES[rows], CONFIDENCES[rows])
    return folder


def test_the_best_classes_of_every_image_are_read_back_in_order(tmp_path: Path) -> None:
    found = read_predictions(write(tmp_path, 10)).best
    assert found["key"].tolist() == KEYS.tolist()
    assert found["class"].tolist() == np.argsort(-SCORES, axis=1)[:, :4].tolist()
    assert found["score"].tolist() == np.take_along_axis(SCORES, found["class"], axis=1).tolist()


def test_the_labels_of_every_image_are_read_back(tmp_path: Path) -> None:
    predictions = read_predictions(write(tmp_path, 10))
    dense = np.zeros_like(CONFIDENCES)
    dense[predictions.labels["image"], predictions.labels["class"]] = predictions.labels["confidence"]
    assert dense.tolist() == CONFIDENCES.tolist()
    for image in range(25):
        assert predictions.true(image, 0.5).tolist() == np.flatnonzero(CONFIDENCES[image] >= 0.5).tolist()


def test_the_files_do_not_depend_on_batches_and_are_numpys_own(tmp_path: Path) -> None:
    for name in (PREDICTIONS, LABELS):
        one, other = ((write(tmp_path / str(batch), batch) / name).read_bytes() for batch in (1, 25))
        assert one == other
        saved = io.BytesIO()
        np.lib.format.write_array(saved, np.load(io.BytesIO(one)), (2, 0))
        assert saved.getvalue() == one


def test_predictions_are_memory_maps(tmp_path: Path) -> None:
    assert all(isinstance(array, np.memmap) for array in read_predictions(write(tmp_path, 5)))


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_prediction_writer(tmp_path, 9, 4) as writer:
        writer.add(KEYS, top_classes(SCORES, 4), SCORES, CONFIDENCES)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{PREDICTIONS} is missing; run `dvc repro evaluate`"):
        read_predictions(tmp_path)
    write(tmp_path, 25)
    (tmp_path / LABELS).write_bytes((tmp_path / LABELS).read_bytes()[:150])
    with pytest.raises(UserError, match=f"{LABELS} holds no predictions"):
        read_predictions(tmp_path)


class Hostile:
    """Creates a file if a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("save", [np.save, np.savez, lambda file, objects: file.write(pickle.dumps(objects))])
def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path: Path, save: Callable[..., None]) -> None:
    write(tmp_path, 25)
    with (tmp_path / LABELS).open("wb") as file:
        save(file, np.array([Hostile(tmp_path / "ran")], dtype=object))
    with pytest.raises(UserError, match=f"{LABELS} holds no predictions"):
        read_predictions(tmp_path)
    assert not (tmp_path / "ran").exists()
