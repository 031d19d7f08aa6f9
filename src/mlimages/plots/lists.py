"""Plots and tables of data/lists: their images and classes."""

from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from mlimages.acquire.formats import CLASSES, DICTIONARY, STATISTICS, TRAINABLE_IMAGES
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.plots.canvas import BAD, COUNT, TRAIN, VALIDATION, axes, bars, display_table, read_json, read_table


def lists_table(lists: str | Path) -> pd.DataFrame:
    """The numbers of lines of each list that were taken, rejected or repeated."""
    frame = pd.DataFrame.from_dict(read_json(lists, STATISTICS)["lists"], orient="index").select_dtypes("number")
    formats = {"images": COUNT, "mean_labels_per_image": "{:.1f}"}
    formats |= {name: COUNT for name in frame if name not in formats}
    return display_table(frame.rename_axis("list"), formats)


def images_per_class(lists: str | Path) -> None:
    """Show the number of images of each class in descending order, and how many classes have too few to train."""
    classes = read_table(Path(lists) / CLASSES)
    few = read_json(lists, STATISTICS)["classes"]["with_fewer_images"]
    ax = axes(f"Images per class: {few:,} of {len(classes):,} classes have fewer than {TRAINABLE_IMAGES} training "
              "images", "classes, the most frequent first", "images")
    for part, colour in (("train", TRAIN), ("val", VALIDATION)):
        counts = sorted(classes[f"{part}_images"], reverse=True)
        ax.plot(range(1, len(counts) + 1), counts, ".-", markersize=3, color=colour, label=part)
    ax.axhline(TRAINABLE_IMAGES, color=BAD, linestyle="--", label=f"trainable: {TRAINABLE_IMAGES} training images")
    ax.set_yscale("symlog")
    ax.set_ylim(0, 2 * ax.get_ylim()[1])
    ax.legend()
    plt.show()


def labels_per_image(lists: str | Path) -> None:
    """Show how many classes an image has, ancestors included."""
    ax = axes("Labels per image", "labels of an image, ancestors included", "share of the list's images")
    for name, statistics in read_json(lists, STATISTICS)["lists"].items():
        if statistics["images"]:
            images = statistics["labels_per_image"]
            counts = range(1, 1 + max(map(int, images)))
            shares = [images.get(str(count), 0) / statistics["images"] for count in counts]
            mean = f", {statistics['mean_labels_per_image']:.1f} on average"
            ax.plot(counts, shares, ".-", label=name.removesuffix(".txt").replace("_", " ") + mean)
    ax.legend(fontsize=8)
    plt.show()


def classes_by_depth(lists: str | Path) -> None:
    """Show the number of classes at each depth of the tree."""
    depths = read_json(lists, STATISTICS)["classes"]["by_depth"]
    ordered = sorted(depths, key=int)
    bars("Depth of the class tree", "classes", [f"depth {depth}" for depth in ordered],
         [depths[depth] for depth in ordered])


def hosts(lists: str | Path, count: int = 15) -> None:
    """Show the hosts with the most images in the lists of URLs."""
    images: Counter[str] = Counter()
    for statistics in read_json(lists, STATISTICS)["lists"].values():
        images.update(statistics["hosts"])
    frequent = images.most_common(count)
    bars(f"Images by host: the {len(frequent)} most frequent", "images", [host or "(no host)" for host, _ in frequent],
         [number for _, number in frequent])


def most_frequent_classes(lists: str | Path, count: int = 25) -> None:
    """Show the classes with the most training images."""
    classes = read_table(Path(lists) / CLASSES).nlargest(count, "train_images")
    bars(f"The {len(classes)} most frequent classes", "training images",
         [names.split(",")[0] for names in classes["names"]], classes["train_images"].tolist())


def class_tree(lists: str | Path, root: int | None = None, depth: int = 3) -> str:
    """The tree below `root` (None: below all roots) as indented text, with the training images of each class."""
    tree = read_tree(Path(lists) / DICTIONARY)
    counts = training_images(lists)
    roots = [root] if root is not None else [index for index in range(len(tree)) if tree.parents[index] < 0]
    return "\n".join(line for index in roots for line in _branch(tree, counts, index, depth, ""))


def training_images(lists: str | Path) -> list[int]:
    """The number of training images of each class."""
    return read_table(Path(lists) / CLASSES)["train_images"].tolist()


def _branch(tree: ClassTree, counts: list[int], index: int, depth: int, indent: str) -> list[str]:
    lines = [f"{indent}{tree.label(index)} [{index}]  {counts[index]:,}"]
    if depth:
        for child in tree.children[index]:
            lines += _branch(tree, counts, child, depth - 1, indent + "    ")
    return lines
