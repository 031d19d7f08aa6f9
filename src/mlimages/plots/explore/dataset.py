"""The browser of explore_dataset.ipynb, for classes and the pictures of their records."""

from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from mlimages.acquire.formats import DICTIONARY, PARTS
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.convert.records import records_by_class
from mlimages.plots.canvas import COUNT, GOOD, SHARE, TRAIN, bars, display_table
from mlimages.plots.explore.pages import CaptionLine, PagePicture, Pager, page_html
from mlimages.plots.explore.records import RecordCatalogue
from mlimages.plots.lists import training_images

MOST_MATCHES = 200  # of a search
SAMPLED_RECORDS = 1000  # for classes that occur together


class DatasetBrowser:
    """A widget that finds a class in the tree or by its name, and shows pages of its records."""

    def __init__(self, lists: str | Path, tfrecords: str | Path) -> None:
        self._tree: ClassTree = read_tree(Path(lists) / DICTIONARY)
        self._catalogues = {part: RecordCatalogue(tfrecords, part) for part in PARTS}
        self._counts = {part: records_by_class(tfrecords, part) for part in PARTS}
        self._class: int | None = None
        self._records: np.ndarray | range = range(0)
        self.search = ipywidgets.Text(placeholder="search by name or WordNet id", continuous_update=False)
        self.part = ipywidgets.ToggleButtons(options=list(PARTS), style={"button_width": "5em"})
        self.up = ipywidgets.Button(description="up")
        self.choice = ipywidgets.Select(rows=16, layout={"width": "24em"})
        self._path = ipywidgets.HTML()
        self.pager = Pager(self._page)
        self.search.observe(self._list_classes, "value")
        self.part.observe(lambda _: self._show(), "value")
        self.up.on_click(lambda _: self.go(None if self._class is None else self._parent(self._class)))
        self.choice.observe(self._choose, "value")
        self.widget = ipywidgets.VBox([
            ipywidgets.HBox([self.search, self.up, self.part]), self._path,
            ipywidgets.HBox([self.choice, self.pager.widget])])
        self.go(None)

    @property
    def path(self) -> str:
        """The names of the classes from the root to the shown class."""
        return self._path.value

    def go(self, index: int | None) -> None:
        """Show a class and its children, or with None all records and the roots."""
        self._class = index
        self.search.unobserve(self._list_classes, "value")
        self.search.value = ""
        self.search.observe(self._list_classes, "value")
        self._list_classes(None)
        self._show()

    def _parent(self, index: int) -> int | None:
        parent = self._tree.parents[index]
        return parent if parent >= 0 else None

    def _choose(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            self.go(change["new"])

    def _list_classes(self, _: Any) -> None:
        """List the classes that match the search or, without a search, the children of the shown class."""
        words = self.search.value.lower()
        if words:
            found = [index for index, (name, wnid) in enumerate(zip(self._tree.names, self._tree.wnids, strict=True))
                     if words in name.lower() or words == wnid][:MOST_MATCHES]
        elif self._class is None:
            found = [index for index, parent in enumerate(self._tree.parents) if parent < 0]
        else:
            found = list(self._tree.children[self._class])
        counts = self._counts["train"]
        # New options select one of themselves, which the user has not chosen.
        self.choice.unobserve(self._choose, "value")
        self.choice.options = [(f"{self._tree.label(index)}  ({counts[index]:,})", index) for index in found]
        self.choice.value = None
        self.choice.observe(self._choose, "value")

    def _show(self) -> None:
        catalogue = self._catalogues[self.part.value]
        lineage = [] if self._class is None else [self._class, *self._tree.ancestors(self._class)]
        self._path.value = " / ".join(["all classes", *(self._tree.label(index) for index in reversed(lineage))])
        self._records = range(len(catalogue)) if self._class is None else catalogue.of_class(self._class)
        self.pager.reset(len(self._records))

    def _page(self, first: int, last: int) -> str:
        title = "all classes" if self._class is None else self._tree.names[self._class]
        return page_html(f"{title}: {self.part.value}", [self._picture(int(one)) for one in self._records[first:last]])

    def _picture(self, record: int) -> PagePicture:
        found = self._catalogues[self.part.value].read(record)
        labels = sorted(found.confidences.items(), key=lambda item: (-self._tree.depths[item[0]], -item[1]))
        lines = [CaptionLine(f"{self._tree.label(index)} {confidence:.2g}", GOOD if index == self._class else "inherit")
                 for index, confidence in labels]
        return PagePicture(found.jpeg, [CaptionLine(found.key, TRAIN), *lines], found.source)


def ancestor_counts(lists: str | Path, index: int) -> None:
    """Show the training images of a class and of each of its ancestors."""
    tree = read_tree(Path(lists) / DICTIONARY)
    counts = training_images(lists)
    lineage = [index, *tree.ancestors(index)]
    bars(f"From {tree.label(index)} up to its root", "training images", [tree.label(ancestor) for ancestor in lineage],
         [counts[ancestor] for ancestor in lineage], [GOOD] + [TRAIN] * (len(lineage) - 1))


def occurring_together(lists: str | Path, tfrecords: str | Path, index: int, count: int = 20) -> pd.DataFrame:
    """The classes that occur most often in the training records of a class, except its ancestors and descendants.

    At most SAMPLED_RECORDS evenly spaced records of the class are read.
    """
    tree, catalogue = read_tree(Path(lists) / DICTIONARY), RecordCatalogue(tfrecords, "train")
    records = catalogue.of_class(index)
    chosen = records[np.unique(np.linspace(0, len(records) - 1, SAMPLED_RECORDS).astype(int))] if len(records) else []
    together = np.zeros(len(tree), int)
    for record in chosen:
        together[[one for one, confidence in catalogue.read(int(record)).confidences.items() if confidence > 0]] += 1
    related = [index, *tree.ancestors(index), *(one for one in range(len(tree)) if index in tree.lineages[one])]
    together[related] = 0
    overall = records_by_class(tfrecords, "train") / max(len(catalogue), 1)
    order = [one for one in np.argsort(-together, kind="stable")[:count].tolist() if together[one]]
    frame = pd.DataFrame({"records": together[order], "share": together[order] / max(len(chosen), 1),
                          "share_of_all_records": overall[order]},
                         index=pd.Index([tree.label(one) for one in order], name="class"))
    frame["times_as_often"] = frame["share"] / frame["share_of_all_records"]
    return display_table(frame, {"records": COUNT, "share": SHARE, "share_of_all_records": SHARE,
                                 "times_as_often": "{:.1f}"})
