"""What the lists hold, gathered in the one pass in which they are checked."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mlimages.acquire.formats import LISTS, PARTS, TRAINABLE_IMAGES, ListEntry, ListFile, Part
from mlimages.acquire.hierarchy import ClassTree

# Entries that are counted together.
BATCH = 8192
# A list's first so many hosts have counts of their own, whatever the list holds.
MAX_HOSTS, OTHER_HOSTS = 100_000, "(others)"
COUNTS = ("malformed", "not_selected", "repeated", "conflicting", "ancestors_added")


class ListStatistics:
    """Of one list: what came of its lines, and of those taken their images by class, hosts and numbers of labels.

    Memory grows with classes and, up to a bound, with hosts; not with lines.
    """

    def __init__(self, one: ListFile, classes: int) -> None:
        self.malformed = self.not_selected = self.repeated = self.conflicting = self.ancestors_added = 0
        self.images = np.zeros(classes, np.int64)
        self.labels_per_image: Counter[int] = Counter()
        self.hosts: Counter[str] = Counter()
        self._with_hosts = one.origin == "openimages"
        self._sign = 1
        self._lengths: list[int] = []
        self._classes: list[int] = []
        self._sites: list[str] = []

    @property
    def taken(self) -> int:
        return self.labels_per_image.total()

    def add(self, entry: ListEntry, sign: int = 1) -> None:
        """Count one entry that is taken; with sign -1, take one back that was counted."""
        if sign != self._sign or len(self._lengths) == BATCH:
            self.flush()
            self._sign = sign
        self._lengths.append(len(entry.labels.classes))
        self._classes += entry.labels.classes
        if self._with_hosts:
            self._sites.append("/".join(entry.source.split("/", 3)[:3]))

    def flush(self) -> None:
        """Count the entries that wait to be counted together."""
        self.images += self._sign * np.bincount(self._classes, minlength=len(self.images))
        _count(self.labels_per_image, Counter(self._lengths), self._sign)
        hosts: Counter[str] = Counter()
        for site, images in Counter(self._sites).items():
            host = _host(site)
            known = host in self.hosts or len(self.hosts) + len(hosts) < MAX_HOSTS
            hosts[host if known else OTHER_HOSTS] += images
        _count(self.hosts, hosts, self._sign)
        self._lengths, self._classes, self._sites = [], [], []

    def to_json(self) -> dict[str, Any]:
        """All that was counted, as JSON that `restored` reads."""
        return {**{name: getattr(self, name) for name in COUNTS}, "images": self.images.tolist(),
                "labels_per_image": list(self.labels_per_image.items()), "hosts": list(self.hosts.items())}

    @classmethod
    def from_json(cls, one: ListFile, kept: Mapping[str, Any]) -> "ListStatistics":
        """What `kept` was called on."""
        statistics = cls(one, len(kept["images"]))
        for name in COUNTS:
            setattr(statistics, name, kept[name])
        statistics.images[:] = kept["images"]
        statistics.labels_per_image.update(dict(kept["labels_per_image"]))
        statistics.hosts.update(dict(kept["hosts"]))
        return statistics

    def summary(self, top_hosts: int = 20) -> dict[str, Any]:
        """Figures as JSON."""
        labels = sum(count * images for count, images in self.labels_per_image.items())
        return {
            "images": self.taken, "malformed_lines": self.malformed, "not_selected_lines": self.not_selected,
            "repeated_lines": self.repeated, "repeated_with_other_labels": self.conflicting,
            "ancestors_added": self.ancestors_added, "mean_labels_per_image": round(labels / max(self.taken, 1), 3),
            "labels_per_image": {str(count): self.labels_per_image[count] for count in sorted(self.labels_per_image)},
            "hosts": dict(self.hosts.most_common(top_hosts)),
        }


def summarise(tree: ClassTree, lists: Mapping[str, ListStatistics]) -> dict[str, Any]:
    """Figures as JSON: those of each list, and of the class tree."""
    depths = Counter(tree.depths)
    train, val = (images_of(part, tree, lists) for part in PARTS)
    return {
        "classes": {"in_dictionary": len(tree), "with_images": int(np.sum(train + val > 0)),
                    "trainable": int(np.sum(train >= TRAINABLE_IMAGES)),
                    "with_fewer_images": int(np.sum(train < TRAINABLE_IMAGES)),
                    "roots": tree.parents.count(-1), "leaves": sum(not row for row in tree.children),
                    "by_depth": {str(depth): depths[depth] for depth in sorted(depths)}},
        "lists": {name: one.summary() for name, one in lists.items()},
    }


def images_of(part: Part, tree: ClassTree, lists: Mapping[str, ListStatistics]) -> np.ndarray:
    """Images of each class, int64 [classes], in the lists of a part."""
    found = [lists[one.name].images for one in LISTS if one.part == part and one.name in lists]
    return np.sum([np.zeros(len(tree), np.int64), *found], axis=0)


def class_rows(tree: ClassTree, lists: Mapping[str, ListStatistics]) -> list[tuple[Any, ...]]:
    """One row for each class: index, WordNet id, parent, depth, train images, validation images, names."""
    images = [images_of(part, tree, lists).tolist() for part in PARTS]
    return list(zip(range(len(tree)), tree.wnids, tree.parents, tree.depths, *images, tree.names, strict=True))


def _count(total: Counter[Any], more: Counter[Any], sign: int) -> None:
    for key, count in more.items():
        total[key] += sign * count
        if not total[key]:
            del total[key]


def _host(url: str) -> str:
    """The URL's host, or "" where it has none: such a URL gets its reason from the downloader."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


CLASS_COLUMNS = ("class", "wnid", "parent", "depth", *(f"{part}_images" for part in PARTS), "names")
