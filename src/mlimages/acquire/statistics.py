"""Statistics of the lists, counted in the same pass that checks them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mlimages.acquire.formats import LISTS, PARTS, TRAINABLE_IMAGES, ListEntry, ListFile, Part, known_classes
from mlimages.acquire.hierarchy import ClassTree

BATCH = 8192  # entries counted at a time
MAX_HOSTS, OTHER_HOSTS = 100_000, "(others)"  # hosts beyond the first MAX_HOSTS of a list are counted together
COUNTS = ("malformed", "not_selected", "repeated", "conflicting", "ancestors_added")
CLASS_COLUMNS = ("class", "wnid", "parent", "depth", *(f"{part}_images" for part in PARTS), "names")


class ListStatistics:
    """Counts of one list: rejected lines, and images per class, per host and per number of labels.

    Labels of unknown confidence do not count.

    Memory grows with the number of classes and, up to MAX_HOSTS, of hosts; it does not grow with the lines.
    """

    def __init__(self, listed: ListFile, classes: int) -> None:
        self.malformed = self.not_selected = self.repeated = self.conflicting = self.ancestors_added = 0
        self.images = np.zeros(classes, np.int64)
        self.labels_per_image: Counter[int] = Counter()
        self.hosts: Counter[str] = Counter()
        self._with_hosts = listed.origin == "openimages"
        self._sign = 1
        self._lengths: list[int] = []
        self._classes: list[int] = []
        self._sites: list[str] = []

    @property
    def taken(self) -> int:
        """The number of images."""
        return self.labels_per_image.total()

    def add(self, entry: ListEntry, sign: int = 1) -> None:
        """Count an entry; with sign -1, subtract one that was counted."""
        if sign != self._sign or len(self._lengths) == BATCH:
            self.flush()
            self._sign = sign
        known = known_classes(entry.labels)
        self._lengths.append(len(known))
        self._classes += known
        if self._with_hosts:
            self._sites.append("/".join(entry.source.split("/", 3)[:3]))

    def flush(self) -> None:
        """Count the entries added since the last batch."""
        self.images += self._sign * np.bincount(self._classes, minlength=len(self.images))
        _add(self.labels_per_image, Counter(self._lengths), self._sign)
        hosts: Counter[str] = Counter()
        for site, images in Counter(self._sites).items():
            host = _host(site)
            known = host in self.hosts or len(self.hosts) + len(hosts) < MAX_HOSTS
            hosts[host if known else OTHER_HOSTS] += images
        _add(self.hosts, hosts, self._sign)
        self._lengths, self._classes, self._sites = [], [], []

    def to_json(self) -> dict[str, Any]:
        """All counts, for `from_json`."""
        return {**{name: getattr(self, name) for name in COUNTS}, "images": self.images.tolist(),
                "labels_per_image": list(self.labels_per_image.items()), "hosts": list(self.hosts.items())}

    @classmethod
    def from_json(cls, listed: ListFile, counts: Mapping[str, Any]) -> "ListStatistics":
        """Restore the statistics from the result of `to_json`."""
        statistics = cls(listed, len(counts["images"]))
        for name in COUNTS:
            setattr(statistics, name, counts[name])
        statistics.images[:] = counts["images"]
        statistics.labels_per_image.update(dict(counts["labels_per_image"]))
        statistics.hosts.update(dict(counts["hosts"]))
        return statistics

    def summary(self, top_hosts: int = 20) -> dict[str, Any]:
        """The counts of this list in statistics.json."""
        labels = sum(count * images for count, images in self.labels_per_image.items())
        return {
            "images": self.taken, "malformed_lines": self.malformed, "not_selected_lines": self.not_selected,
            "repeated_lines": self.repeated, "repeated_with_other_labels": self.conflicting,
            "ancestors_added": self.ancestors_added, "mean_labels_per_image": round(labels / max(self.taken, 1), 3),
            "labels_per_image": {str(count): self.labels_per_image[count] for count in sorted(self.labels_per_image)},
            "hosts": dict(self.hosts.most_common(top_hosts)),
        }


def summarise(tree: ClassTree, lists: Mapping[str, ListStatistics]) -> dict[str, Any]:
    """The content of statistics.json: counts of the class tree and of each list."""
    depths = Counter(tree.depths)
    train, val = (images_of(part, tree, lists) for part in PARTS)
    return {
        "classes": {"in_dictionary": len(tree), "with_images": int(np.sum(train + val > 0)),
                    "trainable": int(np.sum(train >= TRAINABLE_IMAGES)),
                    "with_fewer_images": int(np.sum(train < TRAINABLE_IMAGES)),
                    "roots": tree.parents.count(-1), "leaves": sum(not row for row in tree.children),
                    "by_depth": {str(depth): depths[depth] for depth in sorted(depths)}},
        "lists": {name: statistics.summary() for name, statistics in lists.items()},
    }


def images_of(part: Part, tree: ClassTree, lists: Mapping[str, ListStatistics]) -> np.ndarray:
    """The number of images of each class in the lists of a part, int64 [classes]."""
    found = [lists[listed.name].images for listed in LISTS if listed.part == part and listed.name in lists]
    return np.sum([np.zeros(len(tree), np.int64), *found], axis=0)


def class_rows(tree: ClassTree, lists: Mapping[str, ListStatistics]) -> list[tuple[Any, ...]]:
    """The rows of classes.csv, one per class, with CLASS_COLUMNS."""
    images = [images_of(part, tree, lists).tolist() for part in PARTS]
    return list(zip(range(len(tree)), tree.wnids, tree.parents, tree.depths, *images, tree.names, strict=True))


def _add(total: Counter[Any], more: Counter[Any], sign: int) -> None:
    for key, count in more.items():
        total[key] += sign * count
        if not total[key]:
            del total[key]


def _host(url: str) -> str:
    """The host of a URL, or "" if it has none. The downloader reports such URLs."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
