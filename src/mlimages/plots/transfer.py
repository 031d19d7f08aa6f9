"""Plots and tables of data/transfer: fine-tuning compared with the same training from random weights."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mlimages.network.checkpoint_files import METRICS
from mlimages.network.classifier import Classifier
from mlimages.network.model_files import CLASSES, read_classes
from mlimages.plots.canvas import (
    BAD,
    COUNT,
    GOOD,
    MUTED,
    SHARE,
    TRAIN,
    axes,
    decode_image,
    display_table,
    image_grid,
    read_table,
    share_matrix,
)
from mlimages.transfer.scores import CONFUSION, PREDICTIONS, example_file

CURVES = {"from the trained network": ("model/validation.csv", GOOD),
          "from random weights": ("from_nothing.csv", MUTED)}
MAX_CLASSES = 50  # of a confusion matrix
COLUMNS = 4  # of mistakes


def accuracy_table(transfer: str | Path) -> pd.DataFrame:
    """The shares of validation pictures whose class is the most probable one (top 1), or among the first five."""
    metrics = json.loads((Path(transfer) / METRICS).read_text(encoding="utf-8"))
    rows = {"fine-tuned": ("top_1", "top_5"), "from random weights": ("top_1_from_nothing", None),
            "features and a linear classifier": ("top_1_linear", None)}
    frame = pd.DataFrame({"network": list(rows), "top_1": [metrics[first] for first, _ in rows.values()],
                          "top_5": [metrics[five] if five else None for _, five in rows.values()],
                          "images": [metrics["images"]] * len(rows)}).set_index("network")
    return display_table(frame, {"top_1": SHARE, "top_5": SHARE, "images": COUNT})


def examples(transfer: str | Path) -> None:
    """Show a validation picture of each of the first classes."""
    folder = Path(transfer)
    classes = read_classes(folder / "model" / CLASSES)
    found = [(folder / example_file(label), classes.label(label)) for label in range(len(classes))]
    image_grid("A picture of each class", [(path.read_bytes(), name) for path, name in found if path.exists()])


def accuracy_curves(transfer: str | Path) -> None:
    """Show the accuracy on validation pictures over the steps, with and without pretraining."""
    ax = axes("Accuracy while the network is trained", "step", "top-1 accuracy\non validation pictures")
    for name, (file, colour) in CURVES.items():
        if (path := Path(transfer) / file).exists():
            rows = read_table(path)
            ax.plot(rows["step"], rows["top_1"], "o-", color=colour, label=name)
    classes = len(read_classes(Path(transfer) / "model" / CLASSES))
    ax.axhline(1 / classes, color=BAD, linestyle=":", label=f"guessing among {classes} classes")
    ax.set_ylim(0, 1)
    ax.legend()
    plt.show()


def confusions(transfer: str | Path, max_classes: int = MAX_CLASSES) -> None:
    """Show how often each class is predicted for each class; of many classes, those with the most mistakes."""
    counts = read_table(Path(transfer) / CONFUSION)
    wrong = counts[counts["class"] != counts["predicted"]]
    mistakes = wrong.groupby("class")["images"].sum().add(wrong.groupby("predicted")["images"].sum(), fill_value=0)
    names = sorted(set(counts["class"]) | set(counts["predicted"]))
    if len(names) > max_classes:
        names = sorted(mistakes.nlargest(max_classes).index)
    matrix = counts.pivot_table(index="class", columns="predicted", values="images", aggfunc="sum", fill_value=0)
    matrix = matrix.reindex(index=names, columns=names, fill_value=0).to_numpy()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax = share_matrix("Share of the pictures of a class (row) that are predicted as a class (column)", shares, names,
                      names, x="predicted class", y="true class", cell_inches=0.42)
    if len(names) <= max_classes // 2:
        for row, column in np.argwhere(matrix > 0).tolist():
            ax.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", fontsize=7,
                    color="white" if shares[row, column] > 0.5 else "black")
    plt.show()


def mistakes(transfer: str | Path) -> None:
    """Show the most confident mistakes, each with the heat map of the wrong class."""
    folder = Path(transfer)
    rows = read_table(folder / PREDICTIONS)
    wrong = rows[rows["file"].notna()].sort_values("probability", ascending=False, kind="stable")
    if wrong.empty:
        print("The network made no mistake on the validation pictures")
        return
    bodies = [(folder / name).read_bytes() for name in wrong["file"]]
    heats = Classifier(folder / "model").heatmaps(bodies, wrong["predicted"].tolist())
    count = -(-len(wrong) // COLUMNS)
    figure, grid = plt.subplots(count, 2 * COLUMNS, figsize=(2 * COLUMNS * 1.5, 2.0 * count + 0.5), squeeze=False,
                                layout="constrained")
    figure.suptitle("The most confident mistakes, and the heat maps of the wrong classes")
    for ax in grid.flat:
        ax.axis("off")
    for number, row in enumerate(wrong.itertuples()):
        left, right = grid.flat[2 * number], grid.flat[2 * number + 1]
        left.imshow(decode_image(bodies[number]))
        left.set_title(f"is {row[2]}", fontsize=8, color=TRAIN)
        right.imshow(decode_image(bodies[number]).convert("L"), cmap="gray")
        right.imshow(heats[number], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
        right.set_title(f"{row.predicted}, {row.probability:.0%}", fontsize=8, color=BAD)
    plt.show()
