"""Metrics of multi-label predictions: average precision, and precision, recall and F1 at k.

Scores are float [images, classes], higher is likelier; truths are bool [images, classes].
"""

from typing import Any, NamedTuple

import numpy as np


def average_precision(scores: np.ndarray, truths: np.ndarray) -> float:
    """Area under the precision-recall steps of one ranking, both [items]; NaN without a true item.

    Equal scores count as one threshold, as in scikit-learn's average_precision_score.
    """
    precision, recall = precision_recall(scores, truths)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if truths.any() else float("nan")


def precision_recall(scores: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each distinct score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truths[order])
    last_of_equals = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    return hits[last_of_equals] / (last_of_equals + 1), hits[last_of_equals] / max(int(truths.sum()), 1)


class AtK(NamedTuple):
    """Precision, recall and F1 of the k best classes: over all label decisions, and as means over images."""

    precision: float
    recall: float
    f1: float
    instance_precision: float
    instance_recall: float
    instance_f1: float


def at_k(scores: np.ndarray, truths: np.ndarray, k: int) -> AtK:
    """Call the `k` best classes of each image predicted, and count."""
    k = min(k, scores.shape[1])
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    hits = np.take_along_axis(truths, best, axis=1).sum(axis=1)
    true = truths.sum(axis=1)
    precision, recall = hits.sum() / (k * len(hits)), hits.sum() / max(int(true.sum()), 1)
    instance_precision, instance_recall = hits / k, hits / np.maximum(true, 1)
    return AtK(float(precision), float(recall), _f1(precision, recall), float(instance_precision.mean()),
               float(instance_recall.mean()), float(np.mean(2 * hits / (k + true))))


def per_class(scores: np.ndarray, truths: np.ndarray) -> list[dict[str, Any]]:
    """Of each class: its true images, its base rate (the expected precision of a random ranking), its precision."""
    return [{"class": index, "images": int(truths[:, index].sum()), "base_rate": float(truths[:, index].mean()),
             "average_precision": average_precision(scores[:, index], truths[:, index])}
            for index in range(scores.shape[1])]


def summary(scores: np.ndarray, truths: np.ndarray, ks: list[int]) -> dict[str, Any]:
    """The figures of metrics.json. Macro means are over the classes with a true image."""
    rows = [row for row in per_class(scores, truths) if row["images"]]
    return {
        "images": len(scores), "classes": len(rows),
        "mean_average_precision_macro": float(np.mean([row["average_precision"] for row in rows])),
        "mean_average_precision_micro": average_precision(scores.ravel(), truths.ravel()),
        "base_rate": float(np.mean([row["base_rate"] for row in rows])),
        "base_rate_micro": float(truths.mean()),
        **{f"at_{k}": at_k(scores, truths, k)._asdict() for k in ks},
    }


def _f1(precision: float, recall: float) -> float:
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
