"""The tables of data/evaluation, which DVC compares and the notebook plots."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mlimages.acquire.hierarchy import ClassTree
from mlimages.core.publish import write_csv, write_json
from mlimages.metrics.average_precision import MultiLabelMetrics
from mlimages.network.checkpoint_files import HEADLINE

METRICS = "metrics.json"
# Short names: `dvc exp show` cuts off the columns that a terminal has no room for.
HEADLINE_METRICS = {"mAP_macro": "mean_average_precision_macro", "mAP_micro": "mean_average_precision_micro",
                    "base_rate": "base_rate"}
PER_CLASS = "per_class.csv"
BY_DEPTH = "by_depth.csv"
BY_FREQUENCY = "by_frequency.csv"
CURVE = "precision_recall.csv"
CLASS_CURVES = "class_curves.csv"
CALIBRATION = "calibration.csv"

GROUP_COLUMNS = ("classes", "true_labels", "base_rate", "average_precision", "precision", "recall", "f1")
CURVE_POINTS = 200
CURVE_CLASSES = 5
LOG_ODDS_EDGES = np.arange(-16, 17)


def write_tables(metrics: MultiLabelMetrics, tree: ClassTree, train_records: np.ndarray,
                 frequency_groups: Sequence[int], out: Path) -> None:
    """Write all tables into `out`; `train_records`, int64 [classes], counts the training records of each class."""
    summary = metrics.summary()
    write_json(out / METRICS, summary)
    write_json(out / HEADLINE, {name: summary[metric] for name, metric in HEADLINE_METRICS.items()})
    _write_classes(metrics, tree, train_records, out / PER_CLASS)
    depths = metrics.by_group(np.array(tree.depths))
    write_csv(out / BY_DEPTH, ("depth", *GROUP_COLUMNS), ((depth, *_digits(row)) for depth, row in depths.items()))
    edges = sorted(set(frequency_groups))
    groups, names = metrics.by_group(np.digitize(train_records, edges)), group_names(edges)
    write_csv(out / BY_FREQUENCY, ("train_records", *GROUP_COLUMNS),
              ((names[group], *_digits(row)) for group, row in groups.items()))
    write_csv(out / CURVE, ("recall", "precision"), _curve(metrics))
    # The precision of a class that every image has is 1 everywhere.
    chosen = [index for index in np.argsort(-metrics.positives, kind="stable")
              if 0 < metrics.positives[index] < metrics.images]
    write_csv(out / CLASS_CURVES, ("class", "name", "recall", "precision"),
              ((index, tree.label(index), *point) for index in chosen[:CURVE_CLASSES]
               for point in _curve(metrics, index)))
    _write_calibration(metrics, out / CALIBRATION)


def group_names(edges: Sequence[int]) -> list[str]:
    """The names of the groups between edges: those of 100 and 1,000 are "under 100", "100 to 999", "1,000 or more"."""
    between = [f"{low:,} to {high - 1:,}" for low, high in zip(edges, edges[1:], strict=False)]
    return [f"under {edges[0]:,}", *between, f"{edges[-1]:,} or more"]


def _write_classes(metrics: MultiLabelMetrics, tree: ClassTree, train_records: np.ndarray, path: Path) -> None:
    present = metrics.positives > 0
    shares = metrics.counts.by_class()
    columns = [np.where(present, [f"{value:.6f}" for value in column], "")
               for column in (metrics.average_precision, metrics.average_precision_error, shares["precision"],
                              shares["recall"], shares["f1"])]
    write_csv(path, ("class", "name", "depth", "train_records", "images", "predicted", "base_rate", "average_precision",
                     "average_precision_error", "precision", "recall", "f1"),
              zip(range(len(tree)), map(tree.label, range(len(tree))), tree.depths, train_records, metrics.positives,
                  metrics.counts.predicted, [f"{rate:.6f}" for rate in metrics.base_rate], *columns, strict=True))


def _write_calibration(metrics: MultiLabelMetrics, path: Path) -> None:
    """Reliability in bins of equal width, and in bins of the log-odds, which show the small probabilities of rare
    classes.
    """
    scales = {"probability": metrics.reliability_diagram(),
              "log_odds": metrics.reliability_diagram(1 / (1 + np.exp(-LOG_ODDS_EDGES)))}
    write_csv(path, ("scale", "low", "high", "decisions", "probability", "true_share"),
              ((name, f"{low:.9g}", f"{high:.9g}", int(decisions), f"{probability:.9g}", f"{share:.9g}")
               for name, found in scales.items()
               for low, high, decisions, probability, share in zip(*found, strict=True)))


def _curve(metrics: MultiLabelMetrics, index: int | None = None) -> list[tuple[str, str]]:
    """Points of a precision-recall curve as text, at evenly spaced recalls."""
    recall, precision = metrics.precision_recall_curve(index)
    chosen = np.unique(np.searchsorted(recall, np.linspace(0, 1, CURVE_POINTS)).clip(0, len(recall) - 1))
    return [(f"{recall[one]:.5f}", f"{precision[one]:.5f}") for one in chosen]


def _digits(values: Iterable[float]) -> list[float | str]:
    """Shares as text with six significant digits; counts stay integers."""
    return [value if isinstance(value, int) else f"{value:.6g}" for value in values]
