"""Pictures of the tables in data/evaluation: what the network is worth."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mlimages.evaluate.tables import BY_DEPTH, BY_FREQUENCY, CALIBRATION, CLASS_CURVES, CURVE, METRICS, PER_CLASS
from mlimages.plots.canvas import MUTED, TRAIN, VALIDATION, axes, label, markdown_table, table

ENDS = (1e-7, 1 - 1e-7)  # of the probabilities that are drawn
MOST_NAMES = 80  # classes that have room for a bar and a name each
MOST_GROUPS = 6  # that have room for their names side by side


def metrics_table(evaluation: str | Path) -> str:
    """The figures over all of metrics.json as a Markdown table."""
    return markdown_table(("metric", "value"), [(name.replace("_", " "), f"{value:,.4g}")
                                                for name, value in _metrics(evaluation).items()
                                                if not isinstance(value, dict)])


def decisions_table(evaluation: str | Path) -> str:
    """Precision, recall and F1 of metrics.json as a Markdown table with a column for each cutoff."""
    cutoffs = {name: value for name, value in _metrics(evaluation).items() if isinstance(value, dict)}
    rows = [(figure.replace("_", " "), *(f"{values[figure]:.4f}" for values in cutoffs.values()))
            for figure in next(iter(cutoffs.values()))]
    return markdown_table(("", *(name.replace("_", " ") for name in cutoffs)), rows)


def class_table(evaluation: str | Path, count: int = 100) -> str:
    """The classes with the most validation images as a Markdown table; all of them are in per_class.csv."""
    rows = sorted(table(Path(evaluation) / PER_CLASS), key=lambda row: -int(row["images"]))[:count]
    columns = ("class", "name", "depth", "train_records", "images", "base_rate", "average_precision", "precision",
               "recall", "f1")
    return markdown_table([name.replace("_", " ") for name in columns],
                          [[row[name] for name in columns] for row in rows])


def precision_by_class(evaluation: str | Path) -> None:
    """Average precision of every class beside what a random ranking would reach."""
    rows = _measured(evaluation)
    rows.sort(key=lambda row: -float(row["average_precision"]))
    precision, base = ([float(row[name]) for row in rows] for name in ("average_precision", "base_rate"))
    few = len(rows) <= MOST_NAMES
    ax = axes("Average precision of each class", "" if few else "classes, the best first", "average precision",
              width=13, height=4.6)
    if few:
        ax.bar(range(len(rows)), precision, color=TRAIN, label="network")
        ax.plot(range(len(rows)), base, "_k", label="base rate", ms=9, mew=2)
        ax.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=90, fontsize=8)
    else:
        ax.fill_between(range(len(rows)), precision, color=TRAIN, label="network")
        ax.plot(range(len(rows)), base, ".k", label="base rate", ms=1)
    ax.set_ylim(0, 1)
    ax.legend()
    plt.show()


def precision_by_frequency(evaluation: str | Path) -> None:
    """Are rare classes worse? Average precision against the number of training records."""
    rows = [row for row in _measured(evaluation) if int(row["train_records"])]
    ax = axes("Average precision and frequency", "training records of the class", "average precision")
    drawn = ax.scatter([int(row["train_records"]) for row in rows], [float(row["average_precision"]) for row in rows],
                       s=16 if len(rows) <= MOST_NAMES else 3, c=[int(row["depth"]) for row in rows])
    plt.colorbar(drawn, ax=ax, label="depth in the class tree", ticks=MaxNLocator(integer=True))
    ax.set_xscale("log")
    ax.set_ylim(0, 1.03)
    plt.show()


def precision_by_group(evaluation: str | Path) -> None:
    """Mean average precision of the classes at each depth of the tree, and of frequent and rare ones."""
    _, both = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained", sharey=True)
    for ax, title, name, x in ((both[0], "By depth", BY_DEPTH, "depth in the class tree (0: a root)"),
                               (both[1], "By frequency", BY_FREQUENCY, "training records of the class")):
        rows = table(Path(evaluation) / name)
        places = range(len(rows))
        drawn = ax.bar(places, [float(row["average_precision"]) for row in rows], color=TRAIN, label="network")
        ax.bar_label(drawn, [f"{int(row['classes']):,} classes" for row in rows], fontsize=8, padding=2,
                     rotation=0 if len(rows) <= MOST_GROUPS else 90)
        ax.plot(places, [float(row["base_rate"]) for row in rows], "_k", ms=min(24, 120 / len(rows)), mew=2,
                label="base rate")
        ax.set_xticks(places, [next(iter(row.values())) for row in rows])
        label(ax, title, x, "mean average precision")
        ax.set_ylim(0, 1.25)
    both[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    plt.show()


def group_tables(evaluation: str | Path) -> str:
    """The figures by depth and by frequency as two Markdown tables."""
    tables = [table(Path(evaluation) / name) for name in (BY_DEPTH, BY_FREQUENCY)]
    return "\n\n".join(markdown_table([name.replace("_", " ") for name in rows[0]],
                                      [list(row.values()) for row in rows]) for rows in tables)


def precision_recall_curves(evaluation: str | Path) -> None:
    """Over all label decisions, and for the most frequent classes that not every image has."""
    ax = axes("Precision and recall", "recall", "precision", width=7, height=4.6)
    _curve(ax, table(Path(evaluation) / CURVE), color="black", lw=2, label="all label decisions (micro)")
    points = table(Path(evaluation) / CLASS_CURVES)
    for name in dict.fromkeys(row["name"] for row in points):
        _curve(ax, [row for row in points if row["name"] == name], lw=1, label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    ax.legend(fontsize=8)
    plt.show()


def calibration(evaluation: str | Path) -> None:
    """Is what is said with a probability of 0.8 true in 8 of 10 cases? On the right such that rare classes are seen."""
    rows = table(Path(evaluation) / CALIBRATION)
    error = _metrics(evaluation)["expected_calibration_error"]
    _, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for ax, scale, title in ((left, "probability", f"Reliability; expected calibration error {error:.4f}"),
                             (right, "log_odds", "The same, with the ends spread out")):
        chosen = [row for row in rows if row["scale"] == scale]
        if scale == "log_odds":  # which has no place for 0 and 1
            chosen = [row for row in chosen if 0 < float(row["true_share"]) < 1]
        decisions, said, true = (np.array([float(row[name]) for row in chosen])
                                 for name in ("decisions", "probability", "true_share"))
        label(ax, title, "mean probability of the decisions in a bin", "share of them that is true")
        if scale == "log_odds":
            ax.set(xscale="logit", yscale="logit")
        ax.plot(ENDS, ENDS, color=MUTED, ls="--", label="perfectly calibrated")
        ax.plot(said, true, color=TRAIN, lw=1)
        ax.scatter(said, true, s=10 + 8 * np.log10(decisions) ** 2, color=VALIDATION, zorder=3,
                   label="bins, the larger the more decisions")
        ax.minorticks_off()
        ax.legend(fontsize=8)
    plt.show()


def _curve(ax: Axes, rows: list[dict[str, str]], **style: object) -> None:
    ax.plot([float(row["recall"]) for row in rows], [float(row["precision"]) for row in rows], **style)  # type: ignore[arg-type]


def _measured(evaluation: str | Path) -> list[dict[str, str]]:
    """The rows of the classes that have a validation image."""
    return [row for row in table(Path(evaluation) / PER_CLASS) if row["average_precision"]]


def _metrics(evaluation: str | Path) -> dict[str, object]:
    return json.loads((Path(evaluation) / METRICS).read_text())
