"""Pictures of a training: its plan before, its inputs, its course after."""

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mlimages.figures.canvas import GOOD, TRAIN, VALIDATION, axes, label
from mlimages.params import Train
from mlimages.publish import read_manifest
from mlimages.train.inputs import Records, told, training_batches
from mlimages.train.log import read_log
from mlimages.train.run import LOG
from mlimages.train.schedule import build_schedule

SMOOTHED_ROWS = 10


def learning_rate_plan(params: Train, tfrecords: str | Path) -> None:
    """The learning rate of every step to come."""
    schedule = build_schedule(params, len(Records(tfrecords, read_manifest(tfrecords, "convert"), "train")))
    ax = axes(f"Learning rate over {schedule.total_steps:,} steps of {params.batch} images", "step", "learning rate")
    steps = np.unique(np.linspace(0, schedule.total_steps - 1, 2000).astype(int))
    ax.plot(steps, np.array(schedule(steps)), color=TRAIN)
    plt.show()


def first_batch(params: Train, tfrecords: str | Path, count: int = 16) -> None:
    """Images as the network gets them: cropped, flipped and, by parameter, rotated and recoloured."""
    records = Records(tfrecords, read_manifest(tfrecords, "convert"), "train")
    images, labels = next(told(training_batches(records, dataclasses.replace(params, batch=count), steps=1)))
    figure, grid = plt.subplots(2, -(-len(images) // 2), figsize=(12, 3.6), squeeze=False, layout="constrained")
    figure.suptitle(f"A training batch, {params.pixels} x {params.pixels} pixels, with its number of labels")
    for ax in grid.flat:
        ax.axis("off")
    for ax, image, confidences in zip(grid.flat, np.array(images), np.array(labels), strict=False):
        ax.imshow((image + 1) / 2)
        ax.set_title(f"{np.count_nonzero(confidences)} labels", fontsize=8)
    plt.show()


def course(model: str | Path) -> None:
    """Loss, learning rate and speed over the steps."""
    rows = read_log(Path(model) / LOG)
    steps = [row["step"] for row in rows]
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    loss = np.array([row["loss"] for row in rows])
    smooth = np.convolve(np.pad(loss, (SMOOTHED_ROWS - 1, 0), "edge"), np.ones(SMOOTHED_ROWS) / SMOOTHED_ROWS, "valid")
    top.plot(steps, loss, color=TRAIN, alpha=0.35, label="since the last row")
    top.plot(steps, smooth, color=TRAIN, label=f"mean of {SMOOTHED_ROWS} rows")
    top.set_yscale("log")
    top.legend()
    middle.plot(steps, [row["learning_rate"] for row in rows], color=VALIDATION)
    bottom.plot(steps, [row["images_per_second"] for row in rows], color=GOOD)
    bottom.set_ylim(bottom=0)
    label(top, "Training", "", "loss")
    label(middle, "", "", "learning rate")
    label(bottom, "", "step", "images per second")
    plt.show()
