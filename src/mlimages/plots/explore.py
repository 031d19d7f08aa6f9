"""Widgets and pictures of the notebooks that explore: choose a class or an image and look."""

from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt

from mlimages.acquire.formats import CLASSES, DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.core.publish import read_manifest
from mlimages.evaluate.predictions import read_predictions
from mlimages.inputs.pipeline import Records
from mlimages.inputs.preprocess import decode
from mlimages.plots.canvas import GOOD, TRAIN, bars, table
from mlimages.plots.downloads import images_of_class
from mlimages.plots.predictions import true_threshold

UP = "(up)"
SHOWN = 15  # classes of an image


def ancestor_counts(lists: str | Path, index: int) -> None:
    """Training images of a class and of each of its ancestors."""
    tree = read_tree(Path(lists) / DICTIONARY)
    counts = [int(row["train_images"]) for row in table(Path(lists) / CLASSES)]
    chain = [index, *tree.ancestors(index)]
    bars(f"From {tree.label(index)} up to its root", "training images", [tree.label(one) for one in chain],
         [counts[one] for one in chain], [GOOD] + [TRAIN] * (len(chain) - 1))


def class_browser(lists: str | Path, images: str | Path) -> Any:
    """A widget that walks the class tree and shows the images of the class it is at."""
    tree = read_tree(Path(lists) / DICTIONARY)
    counts = [int(row["train_images"]) for row in table(Path(lists) / CLASSES)]
    choice = ipywidgets.Select(options=_choices(tree, counts, -1), rows=14, layout={"width": "22em"})
    path, shown = ipywidgets.HTML(), ipywidgets.Output()

    def go(change: dict[str, Any]) -> None:
        if change["new"] is None:
            return
        index = change["new"]
        names = [tree.label(one) for one in reversed([index, *tree.ancestors(index)])] if index >= 0 else []
        path.value = " / ".join(names) or "all classes"
        if index < 0 or tree.children[index]:
            choice.unobserve(go, names="value")  # new options choose the first of them by themselves
            choice.options = _choices(tree, counts, index)
            choice.value = None
            choice.observe(go, names="value")
        if index >= 0:
            shown.clear_output(wait=True)
            with shown:
                images_of_class(images, lists, index)

    choice.value = None
    choice.observe(go, names="value")
    return ipywidgets.VBox([path, ipywidgets.HBox([choice, shown])])


def prediction_browser(evaluation: str | Path, tfrecords: str | Path, lists: str | Path) -> Any:
    """A widget that shows one validation image and the network's best classes for it."""
    tree = read_tree(Path(lists) / DICTIONARY)
    predictions, threshold = read_predictions(evaluation), true_threshold(evaluation)
    records = Records(tfrecords, read_manifest(tfrecords, "convert"), "val")
    positions = records.positions()

    def show(image: int) -> None:
        row = predictions.best[image]
        best, true = row["class"][:SHOWN], set(predictions.true(image, threshold).tolist())
        _, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(1, 2), layout="constrained")
        left.imshow(decode(records.reader.example(*positions[image].tolist()).jpeg))
        left.set_title(row["key"].decode(), fontsize=9)
        left.axis("off")
        right.barh([tree.label(one) for one in best], row["score"][:SHOWN],
                   color=[GOOD if int(one) in true else "#bbbbbb" for one in best])
        right.set(title="Best classes (green: true)", xlabel="probability", xlim=(0, 1))
        right.invert_yaxis()
        plt.show()

    slider = ipywidgets.IntSlider(0, 0, len(predictions.best) - 1, description="image", continuous_update=False)
    return ipywidgets.interactive(show, image=slider)


def _choices(tree: ClassTree, counts: list[int], index: int) -> list[tuple[str, int]]:
    """What can be chosen at a class: its children with their counts, and its parent; -1 stands above the roots."""
    below = tree.children[index] if index >= 0 else [one for one in range(len(tree)) if tree.parents[one] < 0]
    up = [(UP, tree.parents[index])] if index >= 0 else []
    return up + [(f"{tree.label(one)}  ({counts[one]:,})", one) for one in below]
