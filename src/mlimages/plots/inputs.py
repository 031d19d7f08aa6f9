"""The first training batch, and the speed of the input pipeline up to each of its stages.

    python -m mlimages.plots.inputs
"""

import argparse
import dataclasses
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlimages.convert.records import CLASSES
from mlimages.core.errors import UserError, command
from mlimages.core.params import Machine, Train, load
from mlimages.core.publish import atomic_write, read_manifest
from mlimages.inputs.augmentation import TensorAugmentation
from mlimages.inputs.pipeline import Records, training_batches, with_user_errors
from mlimages.inputs.stage_rates import StageRate, measure_stages
from mlimages.plots.canvas import TRAIN, VALIDATION, label, read_table

SHOWN = 16
CLASSES_NAMED = 3
NAME_LETTERS = 24


def inputs(params: Train, machine: Machine, tfrecords: str | Path, seconds: float = 0.2) -> None:
    """Show the first batch, and the images per second up to each stage, measured for `seconds` each."""
    draw(params, machine, tfrecords, seconds)
    plt.show()


def draw(params: Train, machine: Machine, tfrecords: str | Path, seconds: float) -> tuple[Figure, list[StageRate]]:
    """The figure and its measurements. Raises UserError for missing or damaged records."""
    records = Records(tfrecords, read_manifest(tfrecords, "convert"), "train")
    if not len(records):
        raise UserError(f"{tfrecords} holds no training records, expected at least one; run `dvc repro convert` with "
                        f"lists of training images")
    shown = dataclasses.replace(params, batch=SHOWN)
    batch = next(with_user_errors(training_batches(records, shown, steps=1)))
    images, labels = map(np.array, TensorAugmentation(shown, device=True)(*batch))
    measured = measure_stages(records, params, readers=machine.workers, seconds=seconds)
    figure = plt.figure(figsize=(12, 6.6), layout="constrained")
    top, bottom = np.array(figure.subfigures(2, 1, height_ratios=[3, 2]), object)
    top.suptitle(f"The first training images, {params.pixels} x {params.pixels} pixels, with their rarest classes")
    classes = read_table(Path(tfrecords) / CLASSES)
    for ax, image, confidences in zip(top.subplots(2, SHOWN // 2).flat, images, labels, strict=True):
        ax.imshow(np.clip((image + 1) / 2, 0, 1))
        ax.set_title(_rarest_classes(confidences, classes), fontsize=8)
        ax.axis("off")
    rates, costs = bottom.subplots(1, 2, sharey=True)
    bottom.suptitle(f"Left: the input pipeline up to each stage, {machine.workers} batches of {params.batch} at a time."
                    f" Right: the time that the stage adds")
    stages = [f"+ {stage.name}" if index else stage.name for index, stage in enumerate(measured)]
    for ax, values, unit, colour in (
            (rates, [stage.images_per_second for stage in measured], "images per second", TRAIN),
            (costs, _added(measured, machine), "microseconds an image on a reader", VALIDATION)):
        ax.bar_label(ax.barh(stages, values, color=colour), fmt="{:,.0f}", padding=3)
        ax.margins(x=0.15)
        label(ax, "", unit, "")
        ax.grid(axis="y", visible=False)
    rates.invert_yaxis()
    return figure, measured


def stages_table(measured: list[StageRate], machine: Machine) -> str:
    """The measurements as text, with the microseconds that each stage adds to an image on one reader."""
    rows = [f"{stage.name:24}{stage.images_per_second:>18,.0f}{more:>40,.0f}"
            for stage, more in zip(measured, _added(measured, machine), strict=True)]
    return "\n".join([f"{'up to the stage':24}{'images per second':>18}{'adds, microseconds an image on a reader':>40}",
                      *rows])


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mlimages.plots.inputs", description=(
        "Draw the first training batch, and measure the images per second by stage of the input pipeline, with the "
        "parameters of params.yaml."))
    parser.add_argument("--tfrecords", default="data/tfrecords", help="the folder that convert published; %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="for measuring each stage; %(default)s")
    parser.add_argument("--out", type=Path, default=Path("inputs.png"), help="the PNG file to write; %(default)s")
    options = parser.parse_args(arguments)
    matplotlib.use("agg")
    params = load()
    figure, measured = draw(params.train, params.machine, options.tfrecords, options.seconds)
    with atomic_write(options.out) as file:
        figure.savefig(file, format="png", dpi=100)
    print(f"{stages_table(measured, params.machine)}\n\n{options.out} shows the first images and these measurements")


def _added(measured: list[StageRate], machine: Machine) -> list[float]:
    """The microseconds that each stage adds to an image on one reader. Noise can make a small one negative."""
    until = [1e6 * machine.workers / stage.images_per_second for stage in measured]
    return [time - before for time, before in zip(until, [0.0, *until], strict=False)]


def _rarest_classes(confidences: Any, classes: pd.DataFrame) -> str:
    """The names of an image's rarest and so most specific classes, one on each line."""
    rarest = classes[confidences > 0].nsmallest(CLASSES_NAMED, "train_records")
    return "\n".join(textwrap.shorten(name, NAME_LETTERS) for name in rarest["name"])


if __name__ == "__main__":
    sys.exit(main())
