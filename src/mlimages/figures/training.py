"""Pictures of a training: its plan before, its course while it runs and after."""

import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from mlimages.figures.canvas import GOOD, MUTED, TRAIN, VALIDATION, axes, bars, label
from mlimages.params import Machine, Train
from mlimages.publish import read_manifest
from mlimages.scratch import root
from mlimages.train.files import PROFILE
from mlimages.train.inputs import Records
from mlimages.train.log import read_log
from mlimages.train.loop import LOG
from mlimages.train.schedule import build_schedule

SMOOTHED_ROWS = 10


def learning_rate_plan(params: Train, tfrecords: str | Path) -> None:
    """The learning rate of every step to come."""
    schedule = build_schedule(params, len(Records(tfrecords, read_manifest(tfrecords, "convert"), "train")))
    ax = axes(f"Learning rate over {schedule.total_steps:,} steps of {params.batch} images", "step", "learning rate")
    steps = np.unique(np.linspace(0, schedule.total_steps - 1, 2000).astype(int))
    ax.plot(steps, schedule(steps), color=TRAIN)
    plt.show()


def course(model: str | Path) -> None:
    """Loss, learning rate and speed over the steps."""
    _draw(plt.figure(figsize=(9, 7), layout="constrained"), read_log(Path(model) / LOG))
    plt.show()


def step_profile(model: str | Path) -> None:
    """The time of one step, beside what its exchange and its input take by themselves."""
    facts = json.loads((Path(model) / PROFILE).read_text(encoding="utf-8"))
    step, exchange, made = (facts[f"{name}_seconds"] for name in ("step", "exchange", "input"))
    replicas = f"{facts['replicas']} replica{'s' if facts['replicas'] > 1 else ''}"
    bars(f"One step on {replicas}, {facts['exchanged_bytes'] / 2**20:,.0f} MiB exchanged", "seconds",
         ["the step, as it was trained", "of it computing, if nothing overlaps", "exchanging, alone",
          "making the input, alone, beside the step"],
         [step, max(step - exchange, 0.0), exchange, made], [TRAIN, GOOD, VALIDATION, MUTED])


@contextlib.contextmanager
def live_course(machine: Machine) -> Iterator[None]:
    """Shows the course of the training that the block runs, drawn anew while it grows.

    It reads the log that the training writes anyway, from a thread of its own: the training knows nothing of it, and
    goes on where a plot fails, which is told in its place.
    """
    began, ended = time.time(), threading.Event()
    picture = display("The plot comes with the first steps.", display_id=True)

    def follow() -> None:
        shown = 0.0
        while not ended.wait(machine.progress_seconds):
            try:
                logs = [path for path in root(machine).glob(f"train/*/{LOG}")
                        if path.stat().st_mtime > max(began, shown)]
                if logs and len(rows := read_log(logs[0])) > 1:
                    shown = logs[0].stat().st_mtime
                    picture.update(Image(_png(rows), format="png"))
            except Exception as error:  # of whatever kind: the next plot may succeed
                picture.update(f"The plot could not be drawn ({type(error).__name__}: {error}); the training goes on.")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _png(rows: list[dict[str, float]]) -> bytes:
    """The course as a picture; drawn without pyplot, which is for the main thread alone."""
    figure, body = Figure(figsize=(9, 7), layout="constrained"), io.BytesIO()
    _draw(figure, rows)
    figure.savefig(body, format="png", dpi=80)
    return body.getvalue()


def _draw(figure: Figure, rows: list[dict[str, float]]) -> None:
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    steps, loss = ([row[name] for row in rows] for name in ("step", "loss"))
    smoothed = min(SMOOTHED_ROWS, len(rows))
    smooth = np.convolve(np.pad(loss, (smoothed - 1, 0), "edge"), np.ones(smoothed) / smoothed, "valid")
    top.plot(steps, loss, color=TRAIN, alpha=0.35, label="training, since the last row")
    top.plot(steps, smooth, color=TRAIN, label=f"mean of {smoothed} rows")
    tried = [row for row in rows if not np.isnan(row["validation_loss"])]
    if tried:
        right = top.twinx()
        right.plot([row["step"] for row in tried], [row["validation_loss"] for row in tried], "o-", color=GOOD)
        right.set_ylabel("validation loss", color=GOOD)
        _in_decades(right)
    _in_decades(top)
    top.legend()
    middle.plot(steps, [row["learning_rate"] for row in rows], color=VALIDATION)
    bottom.plot(steps, [row["images_per_second"] for row in rows], color=GOOD)
    bottom.set_ylim(bottom=0)
    label(top, "Training", "", "loss")
    label(middle, "", "", "learning rate")
    label(bottom, "", "step", "images per second")


def _in_decades(ax: Axes) -> None:
    """A logarithmic scale, its numbers written out."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(LogFormatter())
    ax.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
