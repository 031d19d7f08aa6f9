"""Pictures of data/lists: what the lists name."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from mlimages.acquire.formats import CLASSES, DICTIONARY, STATISTICS, TRAINABLE_IMAGES
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.plots.canvas import BAD, TRAIN, VALIDATION, axes, bars, markdown_table, table


def lists_table(lists: str | Path) -> str:
    """Each list's lines that were taken, refused or repeated, as a Markdown table."""
    statistics = _statistics(lists)["lists"]
    columns = [name for name, value in next(iter(statistics.values())).items() if isinstance(value, int | float)]
    return markdown_table(["list", *(name.replace("_", " ") for name in columns)],
                          [(name, *(f"{one[column]:,}" for column in columns)) for name, one in statistics.items()])


def images_per_class(lists: str | Path) -> None:
    """The long tail: classes by their number of images, on a logarithmic scale, and how many are too rare to learn."""
    rows = table(Path(lists) / CLASSES)
    few = _statistics(lists)["classes"]["with_fewer_images"]
    ax = axes(f"Images per class: {few:,} of {len(rows):,} classes have fewer than {TRAINABLE_IMAGES} training images",
              "classes, the most frequent first", "images")
    for part, colour in (("train", TRAIN), ("val", VALIDATION)):
        counts = sorted((int(row[f"{part}_images"]) for row in rows), reverse=True)
        ax.plot(range(1, len(counts) + 1), counts, ".-", markersize=3, color=colour, label=part)
    ax.axhline(TRAINABLE_IMAGES, color=BAD, linestyle="--", label=f"trainable: {TRAINABLE_IMAGES} training images")
    ax.set_yscale("symlog")
    ax.set_ylim(0, 2 * ax.get_ylim()[1])
    ax.legend()
    plt.show()


def labels_per_image(lists: str | Path) -> None:
    """How many classes an image has, ancestors included."""
    ax = axes("Labels per image", "labels of an image, ancestors included", "share of the list's images")
    for name, one in _statistics(lists)["lists"].items():
        if one["images"]:
            counts = range(1, 1 + max(map(int, one["labels_per_image"])))
            shares = [one["labels_per_image"].get(str(count), 0) / one["images"] for count in counts]
            mean = f", {one['mean_labels_per_image']:.1f} on average"
            ax.plot(counts, shares, ".-", label=name.removesuffix(".txt").replace("_", " ") + mean)
    ax.legend(fontsize=8)
    plt.show()


def classes_by_depth(lists: str | Path) -> None:
    """How deep the class tree is."""
    depths = _statistics(lists)["classes"]["by_depth"]
    ordered = sorted(depths, key=int)
    bars("Depth of the class tree", "classes", [f"depth {depth}" for depth in ordered],
         [depths[depth] for depth in ordered])


def hosts(lists: str | Path, count: int = 15) -> None:
    """Where the images of the lists of URLs lie."""
    images: Counter[str] = Counter()
    for one in _statistics(lists)["lists"].values():
        images.update(one["hosts"])
    named = images.most_common(count)
    bars(f"Images by host: the {len(named)} most frequent", "images", [host or "(no host)" for host, _ in named],
         [number for _, number in named])


def most_frequent_classes(lists: str | Path, count: int = 25) -> None:
    """The classes with the most training images."""
    rows = sorted(table(Path(lists) / CLASSES), key=lambda row: -int(row["train_images"]))[:count]
    bars(f"The {len(rows)} most frequent classes", "training images", [row["names"].split(",")[0] for row in rows],
         [int(row["train_images"]) for row in rows])


def class_tree(lists: str | Path, root: int | None = None, depth: int = 3) -> str:
    """The tree below `root` (all roots without one) as indented text, with each class's number of training images."""
    tree = read_tree(Path(lists) / DICTIONARY)
    counts = [int(row["train_images"]) for row in table(Path(lists) / CLASSES)]
    tops = [root] if root is not None else [index for index in range(len(tree)) if tree.parents[index] < 0]
    return "\n".join(line for top in tops for line in _branch(tree, counts, top, depth, ""))


def _statistics(lists: str | Path) -> dict[str, Any]:
    return json.loads((Path(lists) / STATISTICS).read_text())


def _branch(tree: ClassTree, counts: list[int], index: int, depth: int, indent: str) -> list[str]:
    lines = [f"{indent}{tree.label(index)} [{index}]  {counts[index]:,}"]
    if depth:
        for child in tree.children[index]:
            lines += _branch(tree, counts, child, depth - 1, indent + "    ")
    return lines
