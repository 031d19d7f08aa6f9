"""Lists are counted exactly, in batches, with bounded memory."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mlimages.acquire import statistics
from mlimages.acquire.formats import LISTS, TRAINABLE_IMAGES, Labels, ListEntry
from mlimages.acquire.hierarchy import ClassTree, read_tree
from mlimages.acquire.statistics import OTHER_HOSTS, ListStatistics, class_rows, summarise

TRAIN_IDS, TRAIN_URLS, VAL_IDS, _ = LISTS


@pytest.fixture
def tree(release: Path) -> ClassTree:
    return read_tree(release / "dictionary_and_semantic_hierarchy.txt")


def _entry(url: str, *classes: int) -> ListEntry:
    return ListEntry(1, url, Labels(classes, (1.0,) * len(classes)))


def test_counts_are_those_of_a_simple_count_also_after_subtractions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BATCH", 7)
    rng = random.Random(0)  # noqa: S311
    one = ListStatistics(TRAIN_URLS, 5)
    entries = [_entry(f"http://host{rng.randrange(4)}.example/{number}",
                      *sorted(rng.sample(range(5), rng.randint(1, 5)))) for number in range(200)]
    for number, entry in enumerate(entries):
        one.add(entry)
        if number % 3 == 0:
            one.add(entry, sign=-1)
    one.flush()
    kept = [entry for number, entry in enumerate(entries) if number % 3]
    assert one.taken == len(kept)
    assert one.images.tolist() == [sum(index in entry.labels.classes for entry in kept) for index in range(5)]
    assert one.labels_per_image == Counter(len(entry.labels.classes) for entry in kept)
    assert one.hosts == Counter(entry.source.split("/")[2] for entry in kept)


@pytest.mark.parametrize(("url", "host"), [
    ("http://a.example/1.jpg", "a.example"), ("https://A.example:8080?x=/1", "a.example"),
    ("http://a.example", "a.example"), ("http://[broken/4.jpg", ""), ("no address", ""), ("http:///1.jpg", ""),
    ("//a.example/1", "a.example"),
    ("http://user@a.example#/", "a.example")])
def test_a_host_is_counted_in_every_spelling_of_its_url(url: str, host: str) -> None:
    one = ListStatistics(TRAIN_URLS, 5)
    one.add(_entry(url, 1))
    one.flush()
    assert one.hosts == {host: 1}


def test_hosts_beyond_a_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_HOSTS", 10)
    monkeypatch.setattr(statistics, "BATCH", 7)
    one = ListStatistics(TRAIN_URLS, 5)
    for number in [*range(30), 3, 29]:
        one.add(_entry(f"http://host{number}.example/", 1))
    one.add(_entry("http://host3.example/", 1), sign=-1)
    one.add(_entry("http://host29.example/", 1), sign=-1)
    one.flush()
    assert one.hosts == {**{f"host{number}.example": 1 for number in range(10)}, OTHER_HOSTS: 20}


def test_a_class_with_100_training_images_is_trainable(tree: ClassTree) -> None:
    lists = {one.name: ListStatistics(one, len(tree)) for one in LISTS}
    lists[TRAIN_IDS.name].images += np.array([60, 99, 100, 0, 0])
    lists[TRAIN_URLS.name].images += np.array([60, 0, 0, 0, 0])
    lists[VAL_IDS.name].images += np.array([0, 0, 0, 900, 0])
    classes = summarise(tree, lists)["classes"]
    assert TRAINABLE_IMAGES == 100
    assert (classes["trainable"], classes["with_fewer_images"], classes["with_images"]) == (2, 3, 4)
    assert [row[4:6] for row in class_rows(tree, lists)] == [(120, 0), (99, 0), (100, 0), (0, 900), (0, 0)]
