"""Plots and tables of data/evaluation."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from mlimages.evaluate.tables import BY_DEPTH, BY_FREQUENCY, CALIBRATION, CLASS_CURVES, CURVE, METRICS, PER_CLASS
from mlimages.plots.canvas import (
    COUNT,
    DECIMALS,
    MUTED,
    TRAIN,
    VALIDATION,
    axes,
    both_ends,
    display_table,
    label,
    read_json,
    read_table,
)

ENDS = (1e-7, 1 - 1e-7)  # the drawn range of probabilities
MOST_NAMES = 80  # classes that have room for a bar and a name each
MOST_GROUPS = 6  # groups that have room for their names side by side
MEANS = {"macro": "base_rate", "weighted": "base_rate_weighted", "micro": "base_rate_micro"}
SHARES = {name: DECIMALS for name in ("average_precision", "base_rate", "precision", "recall", "f1")}


def metrics_table(evaluation: str | Path) -> pd.DataFrame:
    """The mean average precision, that of a random ranking, and the other metrics of metrics.json."""
    metrics = read_json(evaluation, METRICS)
    rows = {}
    for mean, base_rate in MEANS.items():
        found, random = metrics.pop(f"mean_average_precision_{mean}"), metrics.pop(base_rate)
        rows[f"mean average precision, {mean}"] = f"{found:.4f}", f"{random:.4f}", f"{found / random:.1f}"
    del metrics["times_base_rate"]  # the ratio of the macro means
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
    for name, value in sorted(numbers.items(), key=lambda item: isinstance(item[1], int)):
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if value >= 1e-4 else f"{value:.1e}"
        rows[name.replace("_", " ")] = text, "", ""
    return pd.DataFrame.from_dict(rows, orient="index", columns=["network", "random ranking", "ratio"])


def precision_recall_table(evaluation: str | Path) -> pd.DataFrame:
    """Precision, recall and F1 of metrics.json, with a column for each cutoff."""
    cutoffs = {name: value for name, value in read_json(evaluation, METRICS).items() if isinstance(value, dict)}
    rows = [f"{mean}_{share}" for mean in ("micro", "macro", "instance") for share in ("f1", "precision", "recall")]
    frame = pd.DataFrame(cutoffs).loc[[*rows, "without_parent"]]
    columns = ["at_threshold", *(name for name in cutoffs if name != "at_threshold")]
    return display_table(frame.rename(index=lambda name: name.replace("_", " ")), dict.fromkeys(columns, DECIMALS))


def class_table(evaluation: str | Path, count: int = 100) -> pd.DataFrame:
    """The classes, the best average precision first. Of more than `count` classes, the first and the last ones."""
    classes = _evaluated_classes(evaluation).sort_values("average_precision", ascending=False, kind="stable")
    return display_table(both_ends(classes, count).set_index("name"),
                         {**SHARES, "images": COUNT, "train_records": COUNT, "depth": COUNT, "class": "{}"})


def depth_table(evaluation: str | Path) -> pd.DataFrame:
    """The means over the classes at each depth of the class tree."""
    return _group_table(Path(evaluation) / BY_DEPTH)


def frequency_table(evaluation: str | Path) -> pd.DataFrame:
    """The means over the classes of each frequency."""
    return _group_table(Path(evaluation) / BY_FREQUENCY)


def precision_by_class(evaluation: str | Path) -> None:
    """Show the average precision of each class, and its base rate, which a random ranking has."""
    classes = _evaluated_classes(evaluation).sort_values("average_precision", ascending=False, kind="stable")
    places, few = range(len(classes)), len(classes) <= MOST_NAMES
    ax = axes("Average precision of each class", "" if few else "classes, the best first", "average precision",
              width=13, height=4.6)
    if few:
        ax.bar(places, classes["average_precision"], color=TRAIN, label="network")
        ax.plot(places, classes["base_rate"], "_k", label="base rate", ms=9, mew=2)
        ax.set_xticks(places, classes["name"], rotation=90, fontsize=8)
    else:
        ax.fill_between(places, classes["average_precision"], color=TRAIN, label="network")
        ax.plot(places, classes["base_rate"], ".k", label="base rate", ms=1)
    ax.set_ylim(0, 1)
    ax.legend()
    plt.show()


def precision_by_frequency(evaluation: str | Path) -> None:
    """Show the average precision of each class over its number of training records."""
    classes = _evaluated_classes(evaluation).query("train_records > 0")
    ax = axes("Average precision and frequency", "training records of the class", "average precision")
    drawn = ax.scatter(classes["train_records"], classes["average_precision"], c=classes["depth"],
                       s=16 if len(classes) <= MOST_NAMES else 3)
    plt.colorbar(drawn, ax=ax, label="depth in the class tree", ticks=MaxNLocator(integer=True))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(0, 1.03)
    plt.show()


def precision_by_group(evaluation: str | Path) -> None:
    """Show the mean average precision of the classes by depth in the tree, and by frequency."""
    _, both = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained", sharey=True)
    for ax, title, name, x in ((both[0], "By depth", BY_DEPTH, "depth in the class tree (0: a root)"),
                               (both[1], "By frequency", BY_FREQUENCY, "training records of the class")):
        groups = read_table(Path(evaluation) / name)
        places = range(len(groups))
        drawn = ax.bar(places, groups["average_precision"], color=TRAIN, label="network")
        ax.bar_label(drawn, [f"{classes:,} classes" for classes in groups["classes"]], fontsize=8, padding=2,
                     rotation=0 if len(groups) <= MOST_GROUPS else 90)
        ax.plot(places, groups["base_rate"], "_k", ms=min(24, 120 / len(groups)), mew=2, label="base rate")
        ax.set_xticks(places, groups.iloc[:, 0])
        label(ax, title, x, "mean average precision")
        ax.set_ylim(0, 1.25)
    both[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()


def precision_recall_curves(evaluation: str | Path) -> None:
    """Show the curve of all label decisions, and the curves of frequent classes that not every image has."""
    ax = axes("Precision and recall", "recall", "precision", width=7, height=4.6)
    _curve(ax, read_table(Path(evaluation) / CURVE), color="black", lw=2, label="all label decisions (micro)")
    for name, points in read_table(Path(evaluation) / CLASS_CURVES).groupby("name", sort=False):
        _curve(ax, points, lw=1, label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    ax.legend(fontsize=8)
    plt.show()


def calibration(evaluation: str | Path) -> None:
    """Show reliability diagrams: the share of true decisions over their mean probability.

    The right one has logit axes, which show the probabilities of rare classes.
    """
    bins = read_table(Path(evaluation) / CALIBRATION)
    error = read_json(evaluation, METRICS)["expected_calibration_error"]
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for ax, scale, title in ((left, "probability", f"Reliability diagram; expected calibration error {error:.4f}"),
                             (right, "log_odds", "The same on logit axes")):
        chosen = bins[bins["scale"] == scale]
        if scale == "log_odds":  # logit axes cannot show 0 and 1
            chosen = chosen.query("0 < true_share < 1")
            ax.set(xscale="logit", yscale="logit")
        label(ax, title, "mean probability of the decisions in a bin", "share of true decisions")
        ax.plot(ENDS, ENDS, color=MUTED, ls="--", label="perfectly calibrated")
        ax.plot(chosen["probability"], chosen["true_share"], color=TRAIN, lw=1)
        ax.scatter(chosen["probability"], chosen["true_share"], s=10 + 8 * np.log10(chosen["decisions"]) ** 2,
                   color=VALIDATION, zorder=3, label="bins; a larger point has more decisions")
        ax.minorticks_off()
        ax.legend(fontsize=8)
    plt.show()


def _curve(ax: Axes, points: pd.DataFrame, **style: Any) -> None:
    ax.plot(points["recall"], points["precision"], **style)


def _evaluated_classes(evaluation: str | Path) -> pd.DataFrame:
    """The rows of the classes that have a validation image."""
    return read_table(Path(evaluation) / PER_CLASS).dropna(subset="average_precision")


def _group_table(path: Path) -> pd.DataFrame:
    groups = read_table(path)
    return display_table(groups.set_index(groups.columns[0]), {**SHARES, "classes": COUNT, "true_labels": COUNT})
