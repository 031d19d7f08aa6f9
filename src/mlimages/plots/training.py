"""Pictures of a training: its plan before, its course while it runs and after."""

import contextlib
import io
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from mlimages.core.params import Machine, Train
from mlimages.core.publish import read_manifest
from mlimages.inputs.pipeline import count_records
from mlimages.network.checkpoint_files import METRICS, PROFILE
from mlimages.plots.canvas import GOOD, MUTED, TRAIN, VALIDATION, axes, bars, label
from mlimages.train.run import work_folder
from mlimages.training.metrics_log import LOG, read_log
from mlimages.training.schedule import build_schedule

SMOOTHED_ROWS = 10
FEW_ROWS = 40  # that are drawn with a point each
WIDTH, PANEL_HEIGHT = 9.0, 2.4  # inches


def learning_rate_plan(params: Train, tfrecords: str | Path) -> None:
    """The learning rate of every step to come."""
    schedule = build_schedule(params, sum(count_records(tfrecords, read_manifest(tfrecords, "convert"), "train")))
    ax = axes(f"Learning rate over {schedule.total_steps:,} steps of {params.batch} images", "step", "learning rate")
    steps = np.unique(np.linspace(0, schedule.total_steps - 1, 2000).astype(int))
    ax.plot(steps, schedule(steps), color=TRAIN)
    plt.show()


def course(model: str | Path) -> None:
    """Losses, mean average precision, learning rate and speed over the steps."""
    _draw(plt.figure(layout="constrained"), read_log(Path(model) / LOG))
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
def live_course(params: Train, machine: Machine, tfrecords: str | Path = "data/tfrecords") -> Iterator[None]:
    """Shows the course of the training that the block runs, again whenever its log has grown.

    It reads the log that the training writes anyway, from a thread of its own: the training knows nothing of it, and
    goes on where a plot fails, which is said in its place. Where the training was finished before, this is said, with
    its plot. Raises UserError as `train` does where the records, or the checkpoint to start from, are missing.
    """
    work, ended = work_folder(params, machine, tfrecords), threading.Event()
    if (work / "out" / METRICS).exists():
        display("This training was finished before, with the same parameters, records and code: nothing is left to "
                "train, and its result is published again. This is its plot.", display_id=True)
        display(Image(_png(read_log(work / "out" / LOG)), format="png"), display_id=True)
        yield
        return
    shown = _stamp(work / LOG)
    picture = display("The plot comes with the first steps.", display_id=True)

    def follow() -> None:
        nonlocal shown
        last = False
        while not last:
            last = ended.wait(machine.progress_seconds)
            stamp = _stamp(work / LOG)
            if stamp == shown:
                continue
            try:
                if rows := read_log(work / LOG):
                    picture.update(Image(_png(rows), format="png"))
                shown = stamp
            except Exception as error:  # of whatever kind: the next plot may succeed
                picture.update(f"The plot could not be drawn ({type(error).__name__}: {error}); the training goes on.")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with a file; nothing where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _png(rows: list[dict[str, float]]) -> bytes:
    """The course as a picture; drawn without pyplot, which is for the main thread alone."""
    figure, body = Figure(layout="constrained"), io.BytesIO()
    _draw(figure, rows)
    figure.savefig(body, format="png", dpi=80)
    return body.getvalue()


def _draw(figure: Figure, rows: list[dict[str, float]]) -> None:
    tried = [row for row in rows if not np.isnan(row["validation_loss"])]
    figure.set_size_inches(WIDTH, PANEL_HEIGHT * (4 if tried else 3))
    loss, *middle, rate, speed = figure.subplots(4 if tried else 3, 1, sharex=True)
    steps, losses = ([row[name] for row in rows] for name in ("step", "loss"))
    marker = "." if len(rows) < FEW_ROWS else ""
    loss.plot(steps, losses, color=TRAIN, alpha=0.35, marker=marker, label="training, since the last row")
    loss.plot(steps, smoothed(losses), color=TRAIN, label=f"training, mean of the last {SMOOTHED_ROWS} rows")
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter(LogFormatter())
    loss.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    for ax in middle:
        tries, tried_losses = [row["step"] for row in tried], [row["validation_loss"] for row in tried]
        loss.plot(tries, tried_losses, "o-", color=GOOD, label="validation, all classes weighted alike")
        # In the first steps batch norm's averages lag behind: losses of thousands would flatten all else.
        loss.set_ylim(0.8 * min(losses + tried_losses), 1.5 * max(*losses, float(np.median(tried_losses))))
        ax.plot(tries, [row["validation_mean_average_precision"] for row in tried], "o-", color=GOOD)
        ax.set_ylim(0, 1)
        label(ax, "", "", "mean average\nprecision, validation")
    loss.legend()
    rate.plot(steps, [row["learning_rate"] for row in rows], color=VALIDATION, marker=marker)
    speed.plot(steps, [row["images_per_second"] for row in rows], color=MUTED, marker=marker)
    speed.set_ylim(bottom=0)
    label(loss, "Training", "", "loss")
    label(rate, "", "", "learning rate")
    label(speed, "", "step", "images per second")


def smoothed(values: Sequence[float]) -> list[float]:
    """Of each value and those before it, SMOOTHED_ROWS in all where there are so many, the mean."""
    return [float(np.mean(values[max(0, end - SMOOTHED_ROWS): end])) for end in range(1, len(values) + 1)]
