"""The widget and the plot of explore_dataset.ipynb. Nothing here needs TensorFlow."""

from pathlib import Path
from typing import Any

import ipywidgets

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.plots.canvas import GOOD, TRAIN, bars
from mlimages.plots.downloads import images_of_class
from mlimages.plots.lists import training_images

UP = "(up)"


def ancestor_counts(lists: str | Path, index: int) -> None:
    """Show the training images of a class and of each of its ancestors."""
    tree = read_tree(Path(lists) / DICTIONARY)
    counts = training_images(lists)
    lineage = [index, *tree.ancestors(index)]
    bars(f"From {tree.label(index)} up to its root", "training images", [tree.label(ancestor) for ancestor in lineage],
         [counts[ancestor] for ancestor in lineage], [GOOD] + [TRAIN] * (len(lineage) - 1))


def class_browser(lists: str | Path, images: str | Path) -> Any:
    """A widget to browse the class tree; it shows the images of the chosen class."""
    tree = read_tree(Path(lists) / DICTIONARY)
    counts = training_images(lists)
    choice = ipywidgets.Select(options=_choices(tree, counts, -1), rows=14, layout={"width": "22em"})
    path, shown = ipywidgets.HTML(), ipywidgets.Output()

    def go(change: dict[str, Any]) -> None:
        if change["new"] is None:
            return
        index = change["new"]
        names = [tree.label(one) for one in reversed([index, *tree.ancestors(index)])] if index >= 0 else []
        path.value = " / ".join(names) or "all classes"
        if index < 0 or tree.children[index]:
            choice.unobserve(go, names="value")  # new options select the first of them, which is no choice of the user
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


def _choices(tree: ClassTree, counts: list[int], index: int) -> list[tuple[str, int]]:
    """The options at a class: its parent, and its children with their counts. -1 is the parent of the roots."""
    below = tree.children[index] if index >= 0 else [one for one in range(len(tree)) if tree.parents[one] < 0]
    up = [(UP, tree.parents[index])] if index >= 0 else []
    return up + [(f"{tree.label(one)}  ({counts[one]:,})", one) for one in below]
