"""The browser of explore_images.ipynb: the classes of a picture, their heat maps, and similar pictures."""

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

from mlimages.acquire.hierarchy import ClassTree
from mlimages.core.errors import UserError
from mlimages.core.publish import MANIFEST
from mlimages.images.decode import Undecodable
from mlimages.inputs.pictures import PictureLike, to_pixels
from mlimages.network.classifier import Classifier
from mlimages.notebook import enter_repository, published
from mlimages.plots.canvas import DECIMALS, MUTED, TRAIN, display_table
from mlimages.plots.explore.pages import CaptionLine, PagePicture, page_html
from mlimages.plots.explore.records import RecordCatalogue, RecordPicture

YOURS: Sequence[CaptionLine] = [CaptionLine("your picture")]
TOP = 10  # classes to show
NEIGHBOURS = 6
COMPARED_RECORDS = 1000  # whose features are computed
HEAT_OPACITY = 0.55
MOST_PIXELS = 512  # of a side of a picture in a page, so that a photograph is not sent as megabytes of PNG


class PictureBrowser:
    """A widget that classifies an uploaded picture or a validation image.

    It shows the most probable classes in the class tree, and the heat map of a chosen class. At first this is the most
    probable one that is no ancestor of another. With `tfrecords` it also classifies validation images. It compares a
    picture with COMPARED_RECORDS of these, evenly spaced, and shows those with the nearest features.
    """

    def __init__(self, classifier: Classifier, tfrecords: str | Path | None = None) -> None:
        self._classifier, self._tree = classifier, classifier.classes
        self._records = None if tfrecords is None else RecordCatalogue(tfrecords, "val")
        self._neighbours: NeighbourSearch | None = None
        self._body, self._caption = b"", YOURS
        self.upload = ipywidgets.FileUpload(accept="image/*", description="your picture")
        self.image = ipywidgets.BoundedIntText(0, 0, max(0, len(self._records or ()) - 1), description="val. image",
                                               disabled=self._records is None)
        self.heat_of = ipywidgets.Dropdown(description="heat map of", layout={"width": "26em"})
        self.similar = ipywidgets.Button(description="find similar images", disabled=self._records is None)
        self._classes, self._heat, self._alike = (ipywidgets.HTML() for _ in range(3))
        self.upload.observe(self._take_upload, "value")
        self.image.observe(lambda change: self.show_record(change["new"]), "value")
        self.heat_of.observe(self._show_heat, "value")
        self.similar.on_click(lambda _: self.show_similar())
        self.widget = ipywidgets.VBox([
            ipywidgets.HBox([self.upload, self.image, self.heat_of, self.similar]),
            ipywidgets.HBox([self._heat, self._classes]), self._alike])
        if self._records is not None:
            self.show_record(0)

    @property
    def shown(self) -> str:
        """The HTML of all that is shown."""
        return self._heat.value + self._classes.value + self._alike.value

    def show_record(self, number: int) -> None:
        """Classify a validation image."""
        if self._records is not None:
            record = self._records.read(number)
            self.show(record.jpeg, [CaptionLine(record.key, TRAIN), *self._true_classes(record)])

    def show(self, body: bytes, caption: Sequence[CaptionLine] = YOURS) -> None:
        """Classify the picture in the bytes of a file, or show why it is no picture."""
        self._alike.value = ""
        try:
            scores = self._classifier.predict([body], top=len(self._classifier.classes))
        except (UserError, Undecodable) as error:
            self._classes.value, self._heat.value = html.escape(str(error)), ""
            return
        self._body, self._caption = body, caption
        probabilities = dict(zip(scores["class"].tolist(), scores["probability"].tolist(), strict=True))
        best = scores["class"].tolist()[:TOP]
        self._classes.value = tree_html(self._tree, best, probabilities)
        self.heat_of.unobserve(self._show_heat, "value")
        self.heat_of.options = [(f"{self._tree.label(one)} {probabilities[one]:.3f}", one) for one in best]
        self.heat_of.value = self._tree.specific(best)[0]  # most of a picture has a part in its ancestors
        self.heat_of.observe(self._show_heat, "value")
        self._show_heat(None)

    def show_similar(self) -> None:
        """Show the validation images whose features are nearest to those of the shown picture."""
        if self._records is None or not self._body:
            return
        if self._neighbours is None:
            self.similar.description = "computing features ..."
            self._neighbours = NeighbourSearch(self._classifier, self._records)
            self.similar.description = "find similar images"
        found = self._neighbours.nearest(self._body)
        pictures = []
        for record, similarity in found:
            one = self._records.read(record)
            pictures.append(PagePicture(one.jpeg, [CaptionLine(f"{one.key}: {similarity:.3f}", TRAIN),
                                                   *self._true_classes(one)]))
        self._alike.value = page_html(f"The nearest of {len(self._neighbours):,} validation images, by the cosine of "
                                      f"their features", pictures)

    def _take_upload(self, change: dict[str, Any]) -> None:
        if change["new"]:
            self.show(bytes(change["new"][-1]["content"]))

    def _show_heat(self, _: Any) -> None:
        index = self.heat_of.value
        if index is None:
            return
        pixels, heat = to_pixels(self._body), self._classifier.heatmap(self._body, index)
        self._heat.value = page_html("", [
            PagePicture(_png(pixels), self._caption),
            PagePicture(overlay(pixels, heat), [CaptionLine(f"heat map of {self._tree.label(index)}")])])

    def _true_classes(self, record: RecordPicture) -> list[CaptionLine]:
        """The most specific classes of a record, as lines of a caption."""
        classes = [index for index, confidence in record.confidences.items() if confidence > 0]
        return [CaptionLine(self._tree.label(index)) for index in self._tree.specific(classes)]


class NeighbourSearch:
    """Finds the records whose features are nearest to those of a picture. Compares evenly spaced records."""

    def __init__(self, classifier: Classifier, records: RecordCatalogue, count: int = COMPARED_RECORDS) -> None:
        self._classifier = classifier
        self._numbers = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)).tolist()
        self._features = _unit(classifier.features([records.read(number).jpeg for number in self._numbers]))

    def __len__(self) -> int:
        return len(self._numbers)

    def nearest(self, body: bytes, count: int = NEIGHBOURS) -> list[tuple[int, float]]:
        """The records nearest to a picture, and the cosine of their features with its own, the nearest first."""
        cosines = self._features @ _unit(self._classifier.features([body]))[0]
        return [(self._numbers[place], float(cosines[place])) for place in np.argsort(-cosines, kind="stable")[:count]]


def open_classifier(checkpoint: str | None, dictionary: str) -> tuple[Classifier, Path | None]:
    """The network in data/model, or of a released `checkpoint` with its `dictionary`, and the folder data/tfrecords.

    The folder is None if there are no records, or records of other classes. Raises UserError if there is neither a
    trained network nor a checkpoint.
    """
    if checkpoint is None:
        model, tfrecords = published("model", "tfrecords")
        return Classifier(model), tfrecords
    enter_repository()
    classifier, tfrecords = Classifier.released(checkpoint, dictionary), Path("data/tfrecords")
    known = (tfrecords / MANIFEST).exists() and RecordCatalogue(tfrecords, "val").classes == len(classifier.classes)
    return classifier, tfrecords if known else None


def similarities(classifier: Classifier, pictures: Sequence[PictureLike]) -> pd.DataFrame:
    """The cosine of the features of each pair of pictures."""
    features = _unit(classifier.features(pictures))
    names = [str(one) if isinstance(one, str | Path) else str(number) for number, one in enumerate(pictures)]
    frame = pd.DataFrame(features @ features.T, index=names, columns=names)
    return display_table(frame, dict.fromkeys(names, DECIMALS))


def tree_html(tree: ClassTree, best: Sequence[int], probabilities: dict[int, float]) -> str:
    """The best classes, and their ancestors, as an indented tree with a bar for each probability."""
    shown = {one for index in best for one in [index, *tree.ancestors(index)]}
    rows: list[str] = []

    def add(index: int, depth: int) -> None:
        colour = TRAIN if index in best else MUTED
        share = probabilities[index]
        rows.append(f'<tr><td style="padding-left:{1.2 * depth}em;text-align:left">{html.escape(tree.label(index))}'
                    f'</td><td style="text-align:right">{share:.3f}</td><td style="text-align:left"><div style="'
                    f'background:{colour};height:0.8em;width:{share * 12:.2f}em"></div></td></tr>')
        for child in sorted((one for one in shown if tree.parents[one] == index), key=lambda c: -probabilities[c]):
            add(child, depth + 1)

    for root in sorted((one for one in shown if tree.parents[one] < 0), key=lambda one: -probabilities[one]):
        add(root, 0)
    return f"<table><tr><th>class</th><th>probability</th><th></th></tr>{''.join(rows)}</table>"


def overlay(pixels: np.ndarray, heat: np.ndarray) -> bytes:
    """A PNG of a picture, uint8 [height, width, 3], with its heat map, float32 [height, width] from 0 to 1."""
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    opacity = HEAT_OPACITY * heat[..., None]
    return _png(np.round(pixels * (1 - opacity) + colours * opacity).astype(np.uint8))


def _png(pixels: np.ndarray) -> bytes:
    """A PNG of a picture, uint8 [height, width, 3], in the size of a page's pictures at most."""
    picture, data = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    picture.save(data, "PNG")
    return data.getvalue()


def _unit(vectors: np.ndarray) -> np.ndarray:
    """The rows scaled to length 1, float32. A row of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
