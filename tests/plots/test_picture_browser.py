"""The browser of one picture: its classes, heat map and nearest images; and files that are no picture."""

import io
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.evaluate.fixtures import SmallStages

from mlimages.acquire.hierarchy import ClassTree
from mlimages.core.errors import UserError
from mlimages.network.classifier import Classifier
from mlimages.plots.explore.pictures import (
    TOP,
    NeighbourSearch,
    PictureBrowser,
    open_classifier,
    overlay,
    similarities,
    tree_html,
)
from mlimages.plots.explore.records import RecordCatalogue


@pytest.fixture(scope="module")
def classifier(small_stages: SmallStages) -> Classifier:
    return Classifier(small_stages.model)


def png(colour: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(data, "PNG")
    return data.getvalue()


def test_an_uploaded_picture_shows_its_best_classes_below_their_ancestors(classifier: Classifier) -> None:
    browser = PictureBrowser(classifier)
    assert browser.image.disabled and browser.similar.disabled, "without records"
    body = png((200, 30, 30))
    browser.upload.value = ({"name": "a.png", "type": "image/png", "size": len(body), "content": memoryview(body),
                             "last_modified": datetime.now(UTC)},)
    best = classifier.predict([body], top=TOP)
    rows = re.findall(r"padding-left:([\d.]+)em[^>]*>([^<]*)</td><td[^>]*>([\d.]+)", browser.shown)
    shown = {name: (float(depth) / 1.2, probability) for depth, name, probability in rows}
    classes = classifier.classes
    for index, probability in zip(best["class"], best["probability"], strict=True):
        depth, lineage = 0, index
        while (lineage := classes.parents[lineage]) >= 0:
            depth += 1
            assert classes.label(lineage) in shown
        assert shown[classes.label(index)] == (pytest.approx(depth), f"{probability:.3f}")
    assert [index for _, index in browser.heat_of.options] == best["class"].tolist()
    before = browser.shown
    first = classes.specific(best["class"].tolist())[0]
    assert f"heat map of {classes.label(first)}" in before
    browser.heat_of.value = next(index for _, index in browser.heat_of.options if index != first)
    assert f"heat map of {classes.label(browser.heat_of.value)}" in browser.shown != before


def test_bytes_that_are_no_picture_are_named_so(classifier: Classifier) -> None:
    browser = PictureBrowser(classifier)
    browser.show(b"<html>")
    assert "<img" not in browser.shown and "&lt;" not in browser.shown and browser.shown


def test_a_records_nearest_image_is_itself(classifier: Classifier, small_stages: SmallStages) -> None:
    records = RecordCatalogue(small_stages.tfrecords, "val")
    search = NeighbourSearch(classifier, records)
    for number in (0, len(records) - 1):
        found = search.nearest(records.read(number).jpeg, count=3)
        assert found[0] == (number, pytest.approx(1, abs=1e-5))
        assert found[1][1] <= found[0][1] and len(found) == 3
    browser = PictureBrowser(classifier, small_stages.tfrecords)
    browser.image.value = 4
    names = [classifier.classes.label(index) for index in classifier.classes.specific(records.read(4).confidences)]
    assert re.findall(r">([^<>]+)</div>", browser.shown)[:1 + len(names)] == [records.read(4).key, *names]
    browser.similar.click()
    assert f"{records.read(4).key}: 1.000" in browser.shown
    table = similarities(classifier, [records.read(0).jpeg, records.read(1).jpeg])
    assert table.loc["0", "0"] == "1.0000" and table.loc["0", "1"] == table.loc["1", "0"] != "1.0000"


def test_a_heat_map_colours_only_where_it_is_hot() -> None:
    pixels, heat = np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    drawn = np.asarray(Image.open(io.BytesIO(overlay(pixels, heat))))
    assert (drawn[:, :4] == 90).all() and (drawn[:, 4:] != 90).any(axis=-1).all()


def test_a_photograph_is_sent_in_the_size_of_a_page() -> None:
    pixels = np.zeros((1500, 3000, 3), np.uint8)
    assert Image.open(io.BytesIO(overlay(pixels, np.zeros((1500, 3000), np.float32)))).size == (512, 256)


def test_names_are_escaped_in_the_tree() -> None:
    assert "<script>" not in tree_html(ClassTree(("n1",), (-1,), ("<script>",)), [0], {0: 0.5})


def test_without_training_and_without_a_checkpoint_the_command_is_named(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run `make repro`"):
        open_classifier(None, "")
    with pytest.raises(UserError, match="nowhere.txt"):
        open_classifier("model.ckpt", "nowhere.txt")
