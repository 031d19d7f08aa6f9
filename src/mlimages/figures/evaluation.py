"""Pictures of data/evaluation: what the network is worth."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import read_tree
from mlimages.convert.records import parse_sparse, shard_paths
from mlimages.evaluate.metrics import precision_recall
from mlimages.evaluate.predictions import Predictions, read_predictions
from mlimages.evaluate.run import METRICS, PER_CLASS, PREDICTIONS
from mlimages.figures.canvas import BAD, GOOD, TRAIN, VALIDATION, axes, markdown_table, picture_grid, table
from mlimages.figures.images import special_classes
from mlimages.publish import read_manifest


def metrics_table(evaluation: str | Path) -> str:
    """metrics.json as a Markdown table."""
    figures = json.loads((Path(evaluation) / METRICS).read_text())
    rows = [(name.replace("_", " "), f"{value:,.4g}") for name, value in figures.items() if not isinstance(value, dict)]
    rows += [(f"{name} {figure}".replace("_", " "), f"{value:.4g}")
             for name, value_of in figures.items() if isinstance(value_of, dict) for figure, value in value_of.items()]
    return markdown_table(("metric", "value"), rows)


def class_table(evaluation: str | Path, count: int = 100) -> str:
    """The classes with the most validation images as a Markdown table; all of them are in per_class.csv."""
    rows = sorted(table(Path(evaluation) / PER_CLASS), key=lambda row: -int(row["images"]))[:count]
    return markdown_table(("class", "name", "depth", "images", "base rate", "average precision"),
                          [(row["class"], row["name"], row["depth"], row["images"], row["base_rate"],
                            row["average_precision"]) for row in rows])


def precision_by_class(evaluation: str | Path) -> None:
    """Average precision of every class beside what a random ranking would reach."""
    rows = [row for row in table(Path(evaluation) / PER_CLASS) if row["average_precision"]]
    rows.sort(key=lambda row: -float(row["average_precision"]))
    ax = axes("Average precision of each class", "", "average precision", width=13, height=4.6)
    ax.bar(range(len(rows)), [float(row["average_precision"]) for row in rows], color=TRAIN, label="network")
    ax.plot(range(len(rows)), [float(row["base_rate"]) for row in rows], "_k", label="base rate", ms=9, mew=2)
    if len(rows) <= 80:
        ax.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=90, fontsize=8)
    ax.set_ylim(0, 1)
    ax.legend()
    plt.show()


def precision_by_frequency(evaluation: str | Path) -> None:
    """Are rare classes worse? Average precision against the number of validation images."""
    rows = [row for row in table(Path(evaluation) / PER_CLASS) if row["average_precision"]]
    ax = axes("Average precision and frequency", "validation images of the class", "average precision")
    for depth in sorted({int(row["depth"]) for row in rows}):
        chosen = [row for row in rows if int(row["depth"]) == depth]
        ax.scatter([int(row["images"]) for row in chosen], [float(row["average_precision"]) for row in chosen], s=16,
                   label=f"depth {depth}")
    ax.set_xscale("log")
    ax.set_ylim(0, 1.03)
    ax.legend()
    plt.show()


def precision_recall_curves(evaluation: str | Path, count: int = 5) -> None:
    """Over all label decisions, and for the most frequent classes that not every image has."""
    predictions = read_predictions(Path(evaluation) / PREDICTIONS)
    truths = _truths(evaluation, predictions)
    rows = sorted(table(Path(evaluation) / PER_CLASS), key=lambda row: -int(row["images"]))
    chosen = [row for row in rows if int(row["images"]) < len(truths)][:count]
    ax = axes("Precision and recall", "recall", "precision", width=7, height=4.6)
    precision, recall = precision_recall(predictions.scores.ravel(), truths.ravel())
    ax.plot(recall, precision, color="black", lw=2, label="all label decisions (micro)")
    for row in chosen:
        index = int(row["class"])
        precision, recall = precision_recall(predictions.scores[:, index], truths[:, index])
        ax.plot(recall, precision, lw=1, label=row["name"])
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    ax.legend(fontsize=8)
    plt.show()


def gallery(evaluation: str | Path, tfrecords: str | Path, lists: str | Path, count: int = 18) -> None:
    """Validation images with their true classes and the likeliest predicted ones, ancestors left out."""
    tree = read_tree(Path(lists) / DICTIONARY)
    predictions = read_predictions(Path(evaluation) / PREDICTIONS)
    leaves = np.array([not children for children in tree.children])
    shards = shard_paths(tfrecords, read_manifest(tfrecords, "convert"), "val")
    pictures, colours = [], []
    for index, serialized in enumerate(tf.data.TFRecordDataset([str(path) for path in shards]).take(count)):
        true = special_classes(tree, tuple(np.flatnonzero(predictions.confidences[index]).tolist()))
        best = np.argsort(np.where(leaves, -predictions.scores[index], 1))[:len(true)].tolist()
        caption = "\n".join(["TRUE", *(tree.label(one) for one in true[:4]), "SAID",
                            *(f"{tree.label(one)} {predictions.scores[index, one]:.2f}" for one in best[:4])])
        pictures.append((parse_sparse(serialized)["encoded"].numpy(), caption))
        colours.append(GOOD if set(best) & set(true) else BAD)
    picture_grid("Validation images (green: at least one special class is right)", pictures, colours=colours)


def confusions(evaluation: str | Path, lists: str | Path, count: int = 20) -> list[tuple[str, str, float]]:
    """The nearest confusions: (true class, wrongly said class, how much higher that class scores there).

    Among leaf classes: the mean score of one class on the images of another that lack it, above its mean score on
    all images that lack it.
    """
    tree = read_tree(Path(lists) / DICTIONARY)
    predictions = read_predictions(Path(evaluation) / PREDICTIONS)
    truths = _truths(evaluation, predictions)
    without = np.maximum((~truths).sum(axis=0), 1)
    usual = np.where(truths, 0, predictions.scores).sum(axis=0) / without
    found = []
    for true in range(len(tree)):
        if tree.children[true] or not truths[:, true].any():
            continue
        of_class = truths[:, true]
        for said in range(len(tree)):
            wrong = of_class & ~truths[:, said]
            if not tree.children[said] and said != true and wrong.any():
                rise = float(predictions.scores[wrong, said].mean() - usual[said])
                found.append((tree.label(true), tree.label(said), rise))
    return sorted(found, key=lambda row: -row[2])[:count]


def confusion_bars(evaluation: str | Path, lists: str | Path, count: int = 20) -> None:
    """`confusions` as a picture."""
    rows = confusions(evaluation, lists, count)
    ax = axes("The nearest confusions", "mean score of the wrong class, above its mean on all images that lack it", "",
              height=1.2 + 0.28 * len(rows))
    ax.barh([f"{true} taken for {said}" for true, said, _ in rows], [score for *_, score in rows], color=VALIDATION)
    ax.invert_yaxis()
    plt.show()


def _truths(evaluation: str | Path, predictions: Predictions) -> np.ndarray:
    """Bool [images, classes]: what was called true when the metrics were computed."""
    return predictions.confidences >= json.loads((Path(evaluation) / METRICS).read_text())["threshold"]
