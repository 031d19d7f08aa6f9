"""Compare the trained network of the demo with nearest neighbours on 16 x 16 pixels.

    python benchmarks/nearest_neighbour.py        # after `make repro`
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import average_precision_score

from mlimages.core.publish import read_manifest
from mlimages.inputs.pipeline import Records

SIDE = 16
NEIGHBOURS = (1, 5, 20, 50)
THRESHOLD = 0.5  # a class is true from this confidence on, as in evaluate


def read(tfrecords: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read all records of a part. Returns pixels, float32 [images, 768], and true classes, bool [images, classes]."""
    records = Records(tfrecords, read_manifest(tfrecords, "convert"), part)
    pixels: list[np.ndarray] = []

    def take(index: int, jpeg: bytes) -> None:
        small = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        pixels.append(np.asarray(small, np.float32).ravel())

    batch = records.reader.read(records.positions(), take)
    return np.array(pixels), batch.dense(records.classes) >= THRESHOLD


def distances(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The squared distance of each image to each known one: float32 [images, known]."""
    return (images**2).sum(1)[:, None] - 2 * images @ known.T + (known**2).sum(1)


def mean_average_precision(true: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The macro average over the classes with a true image, and the micro average."""
    named = np.flatnonzero(true.any(0))
    macro = np.mean([average_precision_score(true[:, index], scores[:, index]) for index in named])
    return float(macro), float(average_precision_score(true.ravel(), scores.ravel()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    data = parser.parse_args().data
    known, true_of_known = read(data / "tfrecords", "train")
    images, true = read(data / "tfrecords", "val")
    apart = distances(images, known)
    nearest = np.argpartition(apart, NEIGHBOURS[-1], axis=1)[:, : NEIGHBOURS[-1]]
    nearest = np.take_along_axis(nearest, np.argsort(np.take_along_axis(apart, nearest, 1), 1), 1)
    print(f"{len(known):,} training and {len(images):,} validation images of {SIDE} x {SIDE} pixels")
    print("| mean average precision | macro | micro |")
    print("| --- | --- | --- |")
    for count in NEIGHBOURS:
        macro, micro = mean_average_precision(true, true_of_known[nearest[:, :count]].mean(1))
        print(f"| mean of the labels of the {count} nearest | {macro:.3f} | {micro:.3f} |")
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    print(f"| the trained network | {metrics['mean_average_precision_macro']:.3f} | "
          f"{metrics['mean_average_precision_micro']:.3f} |")


if __name__ == "__main__":
    main()
