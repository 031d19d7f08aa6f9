"""The plots of a training: its learning rate, and its log while it grows."""

import dataclasses
import io
import json
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from tests.conftest import PATIENCE_SECONDS
from tests.training.outcomes import Trained

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.network.checkpoint_files import PROFILE
from mlimages.plots import training
from mlimages.train.run import train, work_folder
from mlimages.training.metrics_log import TrainingLog, ValidationScores, read_log
from mlimages.training.schedule import build_schedule

Live = Callable[..., AbstractContextManager[None]]


class Display:
    """The outputs that a notebook would show, in order."""

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
        assert "appears after the first steps" in self.next()

    def next_picture(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.next().data)))


@pytest.fixture
def often(machine: Machine) -> Machine:
    return dataclasses.replace(machine, progress_seconds=0.05)


@pytest.fixture
def work(often: Machine, small_train: Train, small_tfrecords: Path) -> Path:
    """The scratch folder of the training."""
    folder = work_folder(small_train, often, small_tfrecords)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def log(work: Path) -> Iterator[TrainingLog]:
    with TrainingLog(work / "training.csv", work / "tensorboard", 0) as opened:
        yield opened


@pytest.fixture
def live(often: Machine, small_train: Train, small_tfrecords: Path) -> Live:
    def begin(**changes: Any) -> AbstractContextManager[None]:
        return training.live_plot(small_train, dataclasses.replace(often, **changes), small_tfrecords)

    return begin


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Display:
    collecting = Display()
    monkeypatch.setattr(training, "display", collecting)
    return collecting


def test_the_log_is_drawn_again_while_it_grows(live: Live, log: TrainingLog, display: Display) -> None:
    with live():
        display.begin()
        log.row(5, 0.5, 9.0, 0.1, 100.0)
        first = display.next_picture()
        log.row(10, 1.0, 8.0, 0.1, 100.0, ValidationScores(8.5, 0.5, 0.5))
        second = display.next_picture()
        log.row(100, 10.0, 1.0, 0.1, 100.0)
        third = display.next_picture()
    assert len(first) < len(second), "validation has a panel of its own"
    assert second.shape == third.shape and (second != third).any()


def test_only_the_log_of_this_training_is_followed(live: Live, work: Path, log: TrainingLog, display: Display) -> None:
    other = work.with_name("other")
    other.mkdir()
    with TrainingLog(other / "training.csv", other / "tensorboard", 0) as newer, live():
        display.begin()
        newer.row(5, 0.5, 9.0, 0.1, 100.0)
        time.sleep(0.5)  # in which it would have been drawn
        log.row(5, 0.5, 9.0, 0.1, 100.0, ValidationScores(9.0, 0.5, 0.5))
        shown = display.next_picture()
    assert shown.shape[0] == pytest.approx(4 * training.PANEL_HEIGHT * 80), "the own one, with validation, comes first"


def test_the_last_rows_are_drawn_though_the_training_ends_before_the_next_plot_is_due(live: Live, log: TrainingLog,
                                                                            display: Display) -> None:
    with live(progress_seconds=600.0):
        display.begin()
        log.row(5, 0.5, 9.0, 0.1, 100.0)
    assert display.next().format == "png"


def test_a_training_that_finished_before_is_named_and_shown(
        trained: Trained, small_train: Train, small_tfrecords: Path, small_machine: Callable[..., Machine],
        display: Display, tmp_path: Path) -> None:
    machine = small_machine(trained.out.parent / "scratch")
    with training.live_plot(small_train, machine, small_tfrecords):
        train(small_train, machine, tfrecords=small_tfrecords, out=tmp_path / "model")
    assert "finished before" in display.next()
    assert display.next().format == "png"


def test_a_plot_that_fails_is_reported_and_stops_neither_the_training_nor_the_next_plot(
        live: Live, work: Path, log: TrainingLog, display: Display) -> None:
    with live():
        display.begin()
        damaged = work / "training.csv"
        good = damaged.read_text()
        damaged.write_text(f"{good}5,0.5,what,,,,0.1,100\n")
        assert "could not be drawn (ValueError: could not convert string to float: 'what'); the training" in \
            display.next()
        damaged.write_text(f"{good}5,0.5,9,,,,0.1,100\n10,1,8,,,,0.1,100\n")
        while isinstance(shown := display.next(), str):
            assert "could not be drawn" in shown
        assert shown.format == "png"


def test_records_that_are_missing_are_named_before_the_training(often: Machine, small_train: Train,
                                                                tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dvc repro convert"), training.live_plot(small_train, often, tmp_path):
        pytest.fail("it has begun")


def test_the_mean_of_the_last_rows_begins_with_the_rows_that_there_are() -> None:
    losses = [12.0, 6.0, 3.0, *[1.0] * 20]
    smooth = training.smoothed(losses)
    assert smooth[:4] == [12.0, 9.0, 7.0, 5.5]
    assert (len(smooth), smooth[-1]) == (len(losses), 1.0)


def test_both_losses_share_an_axis(trained: Trained) -> None:
    rows = read_log(trained.out / "training.csv")
    figure = plt.figure(layout="constrained")
    training.draw_log(figure, rows)
    loss, precision, rate, speed = figure.axes
    tried = [row for row in rows if not np.isnan(row["validation_loss"])]
    drawn = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in loss.lines}
    assert drawn["training, since the last row"] == [row["loss"] for row in rows]
    assert drawn["validation, all classes weighted equally"] == [row["validation_loss"] for row in tried]
    found = np.asarray(precision.lines[0].get_ydata()).tolist()
    assert found == [row["validation_mean_average_precision"] for row in tried]
    assert [ax.get_ylabel() for ax in (loss, rate, speed)] == ["loss", "learning rate", "images per second"]
    plt.close("all")


@pytest.mark.parametrize("schedule, boundaries", [("cosine", []), ("step", [2.0, 3.0])])
def test_the_learning_rate_of_every_step_is_drawn(small_tfrecords: Path, small_train: Train, schedule: Any,
                                                  boundaries: list[float]) -> None:
    params = dataclasses.replace(small_train, warmup=1.0, schedule=schedule, step_boundaries=boundaries)
    training.learning_rate_plan(params, small_tfrecords)
    [line] = plt.gca().lines
    steps, rates = (np.asarray(values) for values in (line.get_xdata(), line.get_ydata()))
    assert steps.tolist() == list(range(15))
    assert rates.tolist() == build_schedule(params, 24)(steps).tolist()
    plt.close("all")


@pytest.mark.parametrize(("profile", "title", "seconds"), [
    ((1, 0.4, 0.0, 0.1), "computing limits the speed, the input takes 25% of a step", [0.4, 0.1]),
    ((1, 0.4, -1e-5, 0.5), "the input limits the speed", [0.4, 0.5]),
    ((2, 0.4, 0.1, 0.2), "2 replicas; all-reduce of 3 MiB", [0.4, 0.2, 0.3, 0.1]),
    ((2, 0.4, -0.1, 0.2), "2 replicas; all-reduce of 3 MiB", [0.4, 0.2, 0.4, 0.0])])
def test_the_time_of_a_step_is_never_negative_and_says_what_limits_the_speed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: tuple[float, ...], title: str,
        seconds: list[float]) -> None:
    monkeypatch.setattr(plt, "show", lambda: None)
    names = ("replicas", "step_seconds", "exchange_seconds", "input_seconds")
    facts = {**dict(zip(names, profile, strict=True)), "exchanged_bytes": 3 * 2**20}
    (tmp_path / PROFILE).write_text(json.dumps(facts))
    training.step_profile(tmp_path)
    assert title in plt.gca().get_title()
    widths = [bar.get_path().get_extents(bar.get_transform() - plt.gca().transData).width for bar in plt.gca().patches]
    assert widths == pytest.approx(seconds)
    plt.close("all")
