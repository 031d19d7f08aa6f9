"""Measure the metrics of evaluation: speed, memory, and the difference from scikit-learn's average precision.

    python benchmarks/evaluate.py                  # 88,739 images x 11,166 classes, as in the released validation lists
    python benchmarks/evaluate.py --images 20000

No network runs. The scores are random log-odds: normal in half of the classes, and of Student's t distribution with 4
degrees of freedom in the others, with a centre, a spread and a shift of the true labels for each class. The frequencies
of the classes have a long tail, from nearly every image down to one. The scores of `--aside` evenly spaced classes are
kept for scikit-learn. They do not count as memory of the evaluation.
"""

import argparse
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from lists import RELEASED_CLASSES
from sklearn.metrics import average_precision_score

from mlimages.evaluate.predictions import open_prediction_writer
from mlimages.metrics.decisions import top_classes
from mlimages.metrics.measurement import MetricsAccumulator

RELEASED_IMAGES = 88_739
BATCH, KEPT = 64, 100


@dataclass
class Spent:
    """The seconds for the metrics, for the file of the best classes, and for drawing the scores."""

    metrics: float = 0.0
    predictions: float = 0.0
    drawing: float = 0.0


class Scores:
    """Draws batches of probabilities and confidences."""

    def __init__(self, classes: int, images: int) -> None:
        self._rng = np.random.default_rng(0)
        rank = np.arange(1, classes + 1)
        self._share = np.maximum(0.9 / rank**0.9, 1 / images).astype(np.float32)
        self._spread, shift = (self._rng.uniform(low, high, classes).astype(np.float32)
                               for low, high in ((0.2, 2.5), (0.0, 4.0)))
        self._shift = shift * self._spread
        self._centre = np.log(self._share / (1.001 - self._share)) - self._rng.uniform(0, 3, classes)
        self._heavy = rank % 2 == 0
        self._first = True

    def batch(self, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and confidences, both float32 [images, classes]."""
        draw = self._rng.standard_normal((images, len(self._share)), np.float32)
        # t with 4 degrees of freedom: normal / sqrt(chi-squared(4) / 4).
        draw[:, self._heavy] /= np.sqrt(self._rng.standard_gamma(2, (images, int(self._heavy.sum())), np.float32) / 2)
        truths = self._rng.random(draw.shape, np.float32) < self._share
        truths[0] |= self._first  # so that every class has an image
        self._first = False
        odds = np.clip(self._centre + draw * self._spread + truths * self._shift, -80, 80).astype(np.float32)
        return 1 / (1 + np.exp(-odds)), truths.astype(np.float32)


def peak() -> float:
    """The peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def run(images: int, classes: int, aside: int) -> None:
    scores, spent, before = Scores(classes, images), Spent(), peak()
    scores.batch(BATCH)  # the memory for drawing is not counted
    drawing = peak() - before
    scores, before = Scores(classes, images), peak()
    kept = np.linspace(0, classes - 1, min(aside, classes)).astype(int)
    columns = np.empty((len(kept), images), np.float32), np.empty((len(kept), images), bool)
    measured = MetricsAccumulator(classes, parents=[(index - 1) // 8 for index in range(classes)])
    with TemporaryDirectory() as folder, open_prediction_writer(Path(folder), 16, min(KEPT, classes)) as writer:
        for begin in range(0, images, BATCH):
            started = time.perf_counter()
            some, confidences = scores.batch(min(BATCH, images - begin))
            for column, values in zip(columns, (some, confidences), strict=True):
                column[:, begin: begin + len(some)] = values[:, kept].T
            drawn = time.perf_counter()
            measured.update(some, confidences)
            updated = time.perf_counter()
            writer.add(np.arange(begin, begin + len(some)).astype("S16"), top_classes(some, KEPT), some, confidences)
            spent.drawing += drawn - started
            spent.metrics += updated - drawn
            spent.predictions += time.perf_counter() - updated
    started = time.perf_counter()
    metrics = measured.result()
    summary = metrics.summary()
    finished, memory = time.perf_counter() - started, peak() - before - sum(column.nbytes for column in columns) / 1e6
    exact = np.array([average_precision_score(truths, values)
                      for values, truths in zip(*columns, strict=True)])
    off = np.abs(metrics.average_precision[kept] - exact)
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; "
          f"{images:,} images x {classes:,} classes, batches of {BATCH}\n\n| what | measured |\n| --- | --- |\n"
          f"| metrics | {images / spent.metrics:,.0f} images/s |\n"
          f"| the file of the {KEPT} best classes | {images / spent.predictions:,.0f} images/s |\n"
          f"| metrics at the end | {finished:.1f} s |\n"
          f"| peak memory above the imports, drawing ({drawing:,.0f} MB) and kept columns | {memory:,.0f} MB |\n"
          f"| average precision beside scikit-learn's, {len(kept)} classes: largest difference | {off.max():.1e} |\n"
          f"| the largest possible difference in these classes | {metrics.average_precision_error[kept].max():.1e} |\n"
          f"| the mean possible difference, all classes | {summary['mean_average_precision_macro_error']:.1e} |\n"
          f"| average precision of these classes: smallest, mean, largest | {exact.min():.4f}, {exact.mean():.4f}, "
          f"{exact.max():.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=RELEASED_IMAGES)
    parser.add_argument("--classes", type=int, default=RELEASED_CLASSES)
    parser.add_argument("--aside", type=int, default=400, help="classes to compare with scikit-learn")
    options = parser.parse_args()
    run(options.images, options.classes, options.aside)


if __name__ == "__main__":
    main()
