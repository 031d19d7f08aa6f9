"""The pictures of a training: its plan, and its course while the log grows."""

import dataclasses
import io
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from tests.conftest import PATIENCE_SECONDS

from mlimages.figures import training
from mlimages.params import Machine, Train
from mlimages.train.log import TrainingLog
from mlimages.train.schedule import build_schedule

NONE = float("nan")


class Display:
    """What a notebook would show, one thing after the other."""

    def __init__(self) -> None:
        self._shown: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, shown: Any, *, display_id: bool) -> "Display":
        assert display_id
        self.update(shown)
        return self

    def update(self, shown: Any) -> None:
        self._shown.put(shown)

    def next(self) -> Any:
        return self._shown.get(timeout=PATIENCE_SECONDS)

    def begin(self) -> None:
        assert "comes with the first steps" in self.next()
        time.sleep(0.05)  # the times of files are coarser than the clock

    def next_picture(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.next().data)))


@pytest.fixture
def often(machine: Machine) -> Machine:
    return dataclasses.replace(machine, progress_seconds=0.05)


@pytest.fixture
def log(often: Machine) -> Iterator[TrainingLog]:
    folder = Path(often.scratch) / "train" / "key"
    folder.mkdir(parents=True)
    with TrainingLog(folder / "training.csv", folder / "tensorboard", 0) as opened:
        yield opened


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Display:
    collecting = Display()
    monkeypatch.setattr(training, "display", collecting)
    return collecting


def test_the_course_is_drawn_anew_while_the_log_grows(often: Machine, log: TrainingLog, display: Display) -> None:
    with training.live_course(often):
        display.begin()
        log.row(5, 0.5, 9.0, NONE, NONE, 0.1, 100.0)
        log.row(10, 1.0, 8.0, 8.5, 0.5, 0.1, 100.0)
        first = display.next_picture()
        log.row(100, 10.0, 1.0, NONE, NONE, 0.1, 100.0)
        second = display.next_picture()
    assert first.shape == second.shape and (first != second).any()


def test_a_plot_that_fails_is_told_and_neither_the_training_nor_the_next_plot_is_stopped(
        often: Machine, log: TrainingLog, display: Display) -> None:
    with training.live_course(often):
        display.begin()
        damaged = Path(often.scratch) / "train" / "key" / "training.csv"
        good = damaged.read_text()
        damaged.write_text(f"{good}5,0.5,what,,,0.1,100\n")
        assert "could not be drawn (ValueError: could not convert string to float: 'what'); the training" in \
            display.next()
        damaged.write_text(f"{good}5,0.5,9,,,0.1,100\n10,1,8,,,0.1,100\n")
        while isinstance(shown := display.next(), str):
            assert "could not be drawn" in shown
        assert shown.format == "png"


@pytest.mark.parametrize("decay, decay_at", [("cosine", []), ("stairs", [2.0, 3.0])])
def test_the_plan_draws_the_rate_that_every_step_will_have(small_tfrecords: Path, small_train: Train, decay: Any,
                                                           decay_at: list[float]) -> None:
    params = dataclasses.replace(small_train, warmup=1.0, decay=decay, decay_at=decay_at)
    training.learning_rate_plan(params, small_tfrecords)
    [line] = plt.gca().lines
    steps, rates = (np.asarray(values) for values in (line.get_xdata(), line.get_ydata()))
    assert steps.tolist() == list(range(15))
    assert rates.tolist() == build_schedule(params, 24)(steps).tolist()
    plt.close("all")
