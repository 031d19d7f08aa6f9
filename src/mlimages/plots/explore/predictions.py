"""The error browser: validation images of a class or of a confused pair, with the worst mistakes first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.core.publish import read_manifest
from mlimages.inputs.pipeline import Records
from mlimages.plots.canvas import BAD, TRAIN, VALIDATION, axes
from mlimages.plots.explore.errors import ClassErrors, ClassScores
from mlimages.plots.explore.pages import CaptionLine, PagePicture, Pager, chosen_class, class_choice, page_html
from mlimages.plots.gallery import LabelOutcomes
from mlimages.plots.predictions import confused_pairs

PAIRS = 50  # confusions to choose from
KINDS: dict[str, Callable[[ClassScores], np.ndarray]] = {
    "worst false positives": ClassScores.false_positives, "worst misses": ClassScores.misses,
    "most confident true labels": ClassScores.found}


class ErrorBrowser:
    """A widget with pages of the mistakes of a class or of a confused pair.

    Every true label of an image is shown, and a sign marks the missed ones. Ancestors of a shown class are left out.
    """

    def __init__(self, evaluation: str | Path, tfrecords: str | Path, lists: str | Path) -> None:
        self._tree: ClassTree = read_tree(Path(lists) / DICTIONARY)
        self._errors = ClassErrors(evaluation)
        self._outcomes = LabelOutcomes(evaluation, self._tree, common=True)
        records = Records(tfrecords, read_manifest(tfrecords, "convert"), "val")
        self._reader, self._positions = records.reader, records.positions()
        self._images: np.ndarray = np.arange(len(self._outcomes))
        self._scores: dict[int, float] = {}
        self._title = "all validation images"
        pairs = confused_pairs(evaluation, self._tree, PAIRS)
        self.chosen_class = class_choice([self._tree.label(index) for index in range(len(self._tree))])
        self.kind = ipywidgets.ToggleButtons(options=list(KINDS), style={"button_width": "15em"})
        self.pair = ipywidgets.Dropdown(
            options=[("(choose a confused pair)", ()), *(
                (f"{self._tree.label(true)} → {self._tree.label(wrong)} ({excess:.2f})", (true, wrong))
                for true, wrong, excess in pairs)], description="pair", layout={"width": "32em"})
        self.threshold = ipywidgets.FloatSlider(self._errors.score_threshold, min=0, max=1, step=0.01,
                                                description="threshold", continuous_update=False)
        self._facts = ipywidgets.HTML()
        self.pager = Pager(self._page)
        self.chosen_class.observe(self._choose_class, "value")
        self.kind.observe(self._choose_class, "value")
        self.pair.observe(self._choose_pair, "value")
        self.threshold.observe(self._show_facts, "value")
        self.widget = ipywidgets.VBox([
            ipywidgets.HBox([self.chosen_class, self.pair]), self.kind, ipywidgets.HBox([self.threshold, self._facts]),
            self.pager.widget])
        self.pager.reset(len(self._images))

    @property
    def facts(self) -> str:
        """Precision and recall of the chosen class at the threshold."""
        return self._facts.value

    def _choose_class(self, _: Any) -> None:
        index = chosen_class(self.chosen_class.value)
        if index is None:
            return
        self.pair.value = ()
        scores = self._errors.scores(index)
        self._show(KINDS[self.kind.value](scores), scores, f"{self._tree.label(index)}: {self.kind.value}")
        self._show_facts(None)

    def _choose_pair(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        true, wrong = change["new"]
        self.chosen_class.value = ""
        self._facts.value = ""
        self._show(self._errors.confused(true, wrong), self._errors.scores(wrong),
                   f"{self._tree.label(true)}, but not {self._tree.label(wrong)}: the latter's highest score first")

    def _show(self, images: np.ndarray, scores: ClassScores, title: str) -> None:
        self._images, self._title = images, title
        self._scores = dict(zip(scores.image.tolist(), scores.score.tolist(), strict=True))
        self.pager.reset(len(images))

    def _show_facts(self, _: Any) -> None:
        index = chosen_class(self.chosen_class.value)
        if index is not None:
            precision, recall = self._errors.scores(index).precision_recall(self.threshold.value)
            self._facts.value = (f"from {self.threshold.value:.2f} on, {self._tree.label(index)} has a precision of "
                                 f"{precision:.3f} and a recall of {recall:.3f}")

    def _page(self, first: int, last: int) -> str:
        return page_html(self._title, [self._picture(image) for image in self._images[first:last].tolist()])

    def _picture(self, image: int) -> PagePicture:
        example = self._reader.example(*self._positions[image].tolist())
        score = [CaptionLine(f"probability {self._scores[image]:.3f}")] if image in self._scores else []
        labels = []
        for index, probability, outcome in self._outcomes[image]:
            sign, colour, _ = outcome.value
            shown = "not published" if np.isnan(probability) else f"{probability:.2f}"
            labels.append(CaptionLine(f"{sign} {self._tree.label(index)} {shown}", colour))
        return PagePicture(example.jpeg, [CaptionLine(f"{image:,}: {example.key.decode()}"), *score, *labels])


def threshold_curves(evaluation: str | Path, lists: str | Path, index: int) -> None:
    """Show precision and recall of a class over the threshold, and the threshold with the highest F1."""
    scores = ClassErrors(evaluation).scores(index)
    thresholds = np.unique(scores.score[scores.score > 0])
    precision, recall = np.array([scores.precision_recall(one) for one in thresholds]).reshape(-1, 2).T
    ax = axes(f"Thresholds of {read_tree(Path(lists) / DICTIONARY).label(index)}",
              "probability from which the class is predicted", "share")
    ax.plot(thresholds, precision, color=TRAIN, label="precision")
    ax.plot(thresholds, recall, color=VALIDATION, label="recall")
    if len(thresholds):
        f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
        ax.axvline(thresholds[f1.argmax()], color=BAD, ls="--",
                   label=f"highest F1: {f1.max():.2f} at {thresholds[f1.argmax()]:.2f}")
    ax.set(xlim=(0, 1), ylim=(0, 1.03))
    ax.legend()
    plt.show()
