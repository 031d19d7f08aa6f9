"""Plots of a training: its learning rate, its log, and the time of a step."""

import contextlib
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from mlimages.convert.records import count_records
from mlimages.core.params import Machine, Train
from mlimages.core.publish import read_manifest
from mlimages.network.checkpoint_files import METRICS, PROFILE
from mlimages.plots.canvas import GOOD, MUTED, TRAIN, VALIDATION, axes, bars, label, read_json
from mlimages.train.run import work_folder
from mlimages.training.metrics_log import LOG, read_log
from mlimages.training.schedule import build_schedule

SMOOTHED_ROWS = 10
FEW_ROWS = 40  # up to which each row gets a point
WIDTH, PANEL_HEIGHT = 9.0, 2.4  # inches


def learning_rate_plan(params: Train, tfrecords: str | Path) -> None:
    """Show the learning rate of every step of a training with these parameters."""
    schedule = build_schedule(params, sum(count_records(tfrecords, read_manifest(tfrecords, "convert"), "train")))
    ax = axes(f"Learning rate over {schedule.total_steps:,} steps of {params.batch} images", "step", "learning rate")
    steps = np.unique(np.linspace(0, schedule.total_steps - 1, 2000).astype(int))
    ax.plot(steps, schedule(steps), color=TRAIN)
    plt.show()


def step_profile(model: str | Path) -> None:
    """Show the time of one step, and the times that its all-reduce and its input take alone.

    With one replica there is no all-reduce. The title then states whether computing or the input limits the speed.
    """
    profile = read_json(model, PROFILE)
    # Noise can make a small measured difference negative.
    step, all_reduce, input_time = (max(profile[f"{name}_seconds"], 0.0) for name in ("step", "exchange", "input"))
    times = {"one step of the training": (step, TRAIN),
             "input pipeline, alone, while other steps run": (input_time, MUTED)}
    if profile["replicas"] > 1:
        title = (f"One step on {profile['replicas']} replicas; all-reduce of "
                 f"{profile['exchanged_bytes'] / 2**20:,.0f} MiB")
        times |= {"computing, if nothing overlaps": (max(step - all_reduce, 0.0), GOOD),
                  "all-reduce, alone": (all_reduce, VALIDATION)}
    elif input_time < step:
        title = f"One step on 1 replica: computing limits the speed, the input takes {input_time / step:.0%} of a step"
    else:
        title = "One step on 1 replica: the input limits the speed"
    bars(title, "seconds", list(times), [seconds for seconds, _ in times.values()],
         [colour for _, colour in times.values()])


@contextlib.contextmanager
def live_plot(params: Train, machine: Machine, tfrecords: str | Path = "data/tfrecords") -> Iterator[None]:
    """Plot the log of the training that the block runs, and update the plot whenever the log grows.

    A thread draws the plot, so the training does not depend on it: if drawing fails, the training continues, and a
    message replaces the plot. If the training has finished before, its plot is shown. Raises UserError as `train` does
    for missing records, or a missing checkpoint to start from.
    """
    work, ended = work_folder(params, machine, tfrecords), threading.Event()
    if (work / "out" / METRICS).exists():
        display("This training has finished before, with the same parameters, records and code. Its result is "
                "published again. This is its plot.", display_id=True)
        display(Image(_png(read_log(work / "out" / LOG)), format="png"), display_id=True)
        yield
        return
    drawn = _file_version(work / LOG)
    plot = display("The plot appears after the first steps.", display_id=True)

    def follow() -> None:
        nonlocal drawn
        last = False
        while not last:
            last = ended.wait(machine.progress_seconds)
            version = _file_version(work / LOG)
            if version == drawn:
                continue
            try:
                if rows := read_log(work / LOG):
                    plot.update(Image(_png(rows), format="png"))
                drawn = version
            except Exception as error:  # whatever it is, the next plot may succeed
                plot.update(f"The plot could not be drawn ({type(error).__name__}: {error}); the training continues.")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def draw_log(figure: Figure, rows: list[dict[str, float]]) -> None:
    """Draw losses, mean average precision, learning rate and speed over the steps, one below the other."""
    validated = [row for row in rows if not np.isnan(row["validation_loss"])]
    panels = 4 if validated else 3
    figure.set_size_inches(WIDTH, PANEL_HEIGHT * panels)
    loss, *middle, rate, speed = figure.subplots(panels, 1, sharex=True)
    steps, losses = ([row[name] for row in rows] for name in ("step", "loss"))
    marker = "." if len(rows) < FEW_ROWS else ""
    loss.plot(steps, losses, color=TRAIN, alpha=0.35, marker=marker, label="training, since the last row")
    loss.plot(steps, smoothed(losses), color=TRAIN, label=f"training, mean of the last {SMOOTHED_ROWS} rows")
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter(LogFormatter())
    loss.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    for ax in middle:
        validated_steps = [row["step"] for row in validated]
        validation_losses = [row["validation_loss"] for row in validated]
        loss.plot(validated_steps, validation_losses, "o-", color=GOOD,
                  label="validation, all classes weighted equally")
        # In the first steps, batch norm's averages are not accurate yet. Losses of thousands would hide all others.
        loss.set_ylim(0.8 * min(losses + validation_losses), 1.5 * max(*losses, float(np.median(validation_losses))))
        ax.plot(validated_steps, [row["validation_mean_average_precision"] for row in validated], "o-", color=GOOD)
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
    """The mean of each value and up to SMOOTHED_ROWS - 1 before it."""
    return [float(np.mean(values[max(0, end - SMOOTHED_ROWS): end])) for end in range(1, len(values) + 1)]


def _file_version(path: Path) -> tuple[int, ...]:
    """Numbers that change when a file changes; empty for a missing file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _png(rows: list[dict[str, float]]) -> bytes:
    """The plot of a log as PNG. Does not use pyplot, which is not thread-safe."""
    figure, body = Figure(layout="constrained"), io.BytesIO()
    draw_log(figure, rows)
    figure.savefig(body, format="png", dpi=80)
    return body.getvalue()
