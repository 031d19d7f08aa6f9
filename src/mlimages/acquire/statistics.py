"""What the lists hold, gathered in the one pass in which they are checked."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mlimages.acquire.formats import PARTS, Entry, ListFile
from mlimages.acquire.hierarchy import ClassTree


@dataclass
class ListStatistics:
    """Of one list: lines taken, lines refused, repeats left out, and of the taken their hosts and label counts."""

    taken: int = 0
    malformed: int = 0
    repeated: int = 0
    conflicting: int = 0
    labels_per_image: Counter[int] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)


class Statistics:
    """Counts over all lists; memory grows with classes and hosts, not with lines."""

    def __init__(self, tree: ClassTree) -> None:
        self.tree = tree
        self.lists: dict[str, ListStatistics] = {}
        self.images = {part: np.zeros(len(tree), np.int64) for part in PARTS}

    def add(self, its_list: ListFile, entry: Entry) -> None:
        """Count one entry that was taken."""
        of_list = self.lists[its_list.name]
        of_list.taken += 1
        of_list.labels_per_image[len(entry.labels.classes)] += 1
        self.images[its_list.part][list(entry.labels.classes)] += 1
        if its_list.origin == "openimages":
            of_list.hosts[_host(entry.source)] += 1

    def summary(self, top_hosts: int = 20) -> dict[str, Any]:
        """Figures as JSON: those of each list, and of the class tree."""
        depths = Counter(self.tree.depths)
        seen = sum(self.images.values()) > 0
        return {
            "classes": {"in_dictionary": len(self.tree), "with_images": int(np.sum(seen)),
                        "roots": self.tree.parents.count(-1), "leaves": sum(not row for row in self.tree.children),
                        "by_depth": {str(depth): depths[depth] for depth in sorted(depths)}},
            "lists": {name: {
                "images": one.taken, "malformed_lines": one.malformed, "repeated_lines": one.repeated,
                "repeated_with_other_labels": one.conflicting,
                "mean_labels_per_image": round(sum(k * n for k, n in one.labels_per_image.items()) / one.taken, 3),
                "labels_per_image": {str(count): one.labels_per_image[count] for count in sorted(one.labels_per_image)},
                "hosts": dict(one.hosts.most_common(top_hosts)),
            } for name, one in self.lists.items()},
        }

    def class_rows(self) -> list[tuple[Any, ...]]:
        """One row for each class: index, WordNet id, parent, depth, train images, validation images, names."""
        return [(index, self.tree.wnids[index], self.tree.parents[index], self.tree.depths[index],
                 *(int(self.images[part][index]) for part in PARTS), self.tree.names[index])
                for index in range(len(self.tree))]


def _host(url: str) -> str:
    """The URL's host, or "" where it has none: such a URL gets its reason from the downloader."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


CLASS_COLUMNS = ("class", "wnid", "parent", "depth", *(f"{part}_images" for part in PARTS), "names")
