"""The browser of the data set finds classes by tree and by name, and shows every record of a class."""

import html
import re

import numpy as np
import pytest
from tests.evaluate.fixtures import SmallStages

from mlimages.acquire.formats import DICTIONARY
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.convert.records import records_by_class
from mlimages.core.publish import read_manifest
from mlimages.inputs.pipeline import Records
from mlimages.plots.explore.dataset import DatasetBrowser, occurring_together
from mlimages.plots.explore.pages import PagePicture, page_html
from mlimages.plots.explore.records import RecordCatalogue


@pytest.fixture
def tree(small_stages: SmallStages) -> ClassTree:
    return read_tree(small_stages.lists / DICTIONARY)


@pytest.fixture
def browser(small_stages: SmallStages) -> DatasetBrowser:
    return DatasetBrowser(small_stages.lists, small_stages.tfrecords)


def choose(browser: DatasetBrowser, index: int) -> None:
    assert index in [value for _, value in browser.choice.options]
    browser.choice.value = index


def pages(browser: DatasetBrowser) -> list[str]:
    """The captions of all pages."""
    found = []
    for page in range(browser.pager.pages):
        browser.pager.go(page)
        found += re.findall(r"<figcaption>(.*?)</figcaption>", browser.pager.shown)
    return found


def test_up_leads_from_a_leaf_to_its_parent_and_from_a_root_to_all_classes(browser: DatasetBrowser,
                                                                           tree: ClassTree) -> None:
    assert [index for _, index in browser.choice.options] == [i for i in range(len(tree)) if tree.parents[i] < 0]
    leaf = tree.depths.index(max(tree.depths))
    lineage = [leaf, *tree.ancestors(leaf)]
    for index in reversed(lineage):
        choose(browser, index)
    for index in lineage:
        names = [tree.label(one) for one in reversed([index, *tree.ancestors(index)])]
        assert browser.path == " / ".join(["all classes", *names])
        browser.up.click()
    assert browser.path == "all classes"
    browser.up.click()
    assert browser.path == "all classes"


def test_a_class_is_found_by_a_part_of_its_name_and_by_its_wordnet_id(browser: DatasetBrowser,
                                                                      tree: ClassTree) -> None:
    index = len(tree) - 1
    for words in (tree.names[index][1:].upper(), tree.wnids[index]):
        browser.search.value = words
        assert index in [value for _, value in browser.choice.options]
        assert len(browser.choice.options) < len(tree)
    choose(browser, index)
    assert browser.search.value == "" and browser.path.endswith(tree.label(index))


def test_the_pages_of_both_parts_show_all_records_of_a_class_with_labels_and_source(
        browser: DatasetBrowser, tree: ClassTree, small_stages: SmallStages) -> None:
    manifest = read_manifest(small_stages.tfrecords, "convert")
    sources = set()
    for part in ("train", "val"):
        browser.part.value = part
        records = Records(small_stages.tfrecords, manifest, part)
        examples = [records.reader.example(*position) for position in records.positions().tolist()]
        for index in (None, tree.depths.index(max(tree.depths))):
            browser.go(index)
            expected = [one for one in examples if index is None or index in one.indices]
            captions = pages(browser)
            assert len(captions) == len(expected)
            for caption, example in zip(captions, expected, strict=True):
                lines = [html.unescape(line) for line in re.findall(r"<div[^>]*>(.*?)</div>", caption)]
                assert lines[0] == example.key.decode()
                assert sorted(lines[1:]) == sorted(f"{tree.label(one)} {confidence:.2g}" for one, confidence
                                                   in zip(example.indices, example.confidence, strict=True))
                sources.add("http" if "<a href=" in caption else "imagenet")
    assert sources == {"http", "imagenet"}, "downloaded images and those of the archive"


def test_a_random_page_is_one_of_the_pages(browser: DatasetBrowser) -> None:
    *_, random_page = browser.pager.widget.children[0].children[:3]
    seen = set()
    for _ in range(40):
        random_page.click()
        seen.add(browser.pager.position)
    assert 2 < len(seen) <= browser.pager.pages


def test_classes_that_occur_together_are_counted_without_relatives(small_stages: SmallStages,
                                                                   tree: ClassTree) -> None:
    index = int(np.argmax(records_by_class(small_stages.tfrecords, "train") * (np.array(tree.depths) > 0)))
    catalogue = RecordCatalogue(small_stages.tfrecords, "train")
    named = [catalogue.read(int(record)).confidences for record in catalogue.of_class(index)]
    table = occurring_together(small_stages.lists, small_stages.tfrecords, index, count=99)
    assert len(table) > 3
    relatives = {tree.label(one) for one in range(len(tree)) if index in (one, *tree.ancestors(one))}
    relatives |= {tree.label(one) for one in tree.ancestors(index)}
    assert relatives.isdisjoint(table.index)
    for one in range(len(tree)):
        if tree.label(one) in table.index:
            count = sum(one in confidences for confidences in named)
            assert table.loc[tree.label(one), "records"] == f"{count:,}"
            assert table.loc[tree.label(one), "share"] == f"{count / len(named):.1%}"


@pytest.mark.parametrize(("source", "linked"), [("https://a.example/?a=1&b='2'", True), ("javascript:alert(1)", False),
                                                ("n01/<b>.JPEG", False)])
def test_only_web_addresses_are_linked_and_all_text_is_escaped(source: str, linked: bool) -> None:
    page = page_html("<title>", [PagePicture(b"", [], source)])
    assert ("<a href" in page) == linked
    assert html.escape(source) in page and "<b>.J" not in page and "<title>" not in page
