"""The demo's pictures and lists are the same everywhere, and its hosts produce every fault."""

import dataclasses
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from tests.download.conftest import Fetcher

import mlimages
from mlimages.acquire import demo_release
from mlimages.acquire.formats import DICTIONARY, LISTS
from mlimages.acquire.hierarchy import read_tree
from mlimages.core.params import Params
from mlimages.demo import server, world
from mlimages.download.ledger import Reason
from mlimages.download.schedule import retry_policy
from mlimages.download.schedule.politeness import registrable_domain

PRINT_DEMO = """
import hashlib, pathlib, sys
from mlimages.acquire import demo_release
from mlimages.demo import world
from mlimages.core.params import Demo
for one in world.image_ids(0, "train/openimages", 12):
    print(one, hashlib.sha256(world.draw(one, 32)).hexdigest(), sorted(world.labels_of(one).items()))
folder = pathlib.Path(sys.argv[1])
demo_release.write_release(folder, Demo(seed=0, train_images=40, val_images=20, pixels=32))
for path in sorted(folder.iterdir()):
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
"""
REASON_OF_FAULT = {None: Reason.OK, "missing": Reason.GONE, "placeholder": Reason.PLACEHOLDER,
                   "page": Reason.NOT_IMAGE, "short": Reason.TRUNCATED, "corrupt": Reason.CORRUPT,
                   "busy": Reason.OK, "unavailable": Reason.OK, "slow": Reason.OK}


@pytest.fixture
def fetcher(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetcher]:
    """A fetcher that reaches the demo's hosts."""
    monkeypatch.setattr(retry_policy, "BACKOFF_SECONDS", 0.001)
    with server.serving() as connect_to:
        yield Fetcher(dataclasses.replace(params.download, attempts=2), connect_to, tmp_path / "spools", {})


def _id_with(fault: str | None) -> str:
    wnid = world.CLASSES[world.INDEX["red disc"]].wnid
    return next(one for one in (f"{wnid}_{number}" for number in count()) if server.fault_of(one) == fault)


def test_pictures_labels_and_lists_are_the_same_in_every_process(tmp_path: Path) -> None:
    source = str(Path(mlimages.__file__).parents[1])
    printed = [subprocess.run([sys.executable, "-c", PRINT_DEMO, str(tmp_path / seed)], check=True, text=True,
                              capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source})
               for seed in ("1", "2")]
    assert printed[0].stdout == printed[1].stdout
    assert len(printed[0].stdout.splitlines()) == 12 + len(LISTS) + 2


def test_different_ids_give_different_pictures_of_the_given_size() -> None:
    pictures = [world.draw(one, 40) for one in world.image_ids(0, "train/openimages", 30)]
    assert len(set(pictures)) == 30
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (40, 40), "RGB")


def test_another_seed_and_another_part_give_other_ids() -> None:
    lists = [world.image_ids(seed, part, 200) for seed in (0, 1) for part in ("train/openimages", "val/openimages")]
    assert all(len(set(one)) == 200 for one in lists)
    assert len(set().union(*lists)) == 800


def test_labels_hold_all_ancestors_with_at_least_the_confidence_of_the_class() -> None:
    for one in world.image_ids(0, "train/openimages", 500):
        labels = world.labels_of(one)
        assert labels[world.INDEX[world.NAME_OF[one.partition("_")[0]]]] == world.MAIN
        for index, confidence in labels.items():
            parent = world.CLASSES[index].parent
            assert parent < 0 or labels[parent] >= confidence


def test_the_dictionary_of_the_release_is_the_demos_class_tree(params: Params, tmp_path: Path) -> None:
    demo = dataclasses.replace(params.acquire.demo, train_images=20, val_images=10, pixels=16)
    demo_release.write_release(tmp_path, demo)
    tree = read_tree(tmp_path / DICTIONARY)
    assert list(zip(tree.parents, tree.wnids, tree.names, strict=True)) == [tuple(one) for one in world.CLASSES]


def test_the_lists_name_the_given_number_of_images(params: Params, tmp_path: Path) -> None:
    demo = dataclasses.replace(params.acquire.demo, train_images=41, val_images=10, pixels=16)
    demo_release.write_release(tmp_path, demo)
    sources = {(part, line.split("\t")[0]) for part, _, name in LISTS
               for line in (tmp_path / name).read_text().splitlines()}
    assert sum(part == "train" for part, _ in sources) == 41
    assert sum(part == "val" for part, _ in sources) == 10


def test_every_fault_occurs_about_as_often_as_stated() -> None:
    faults = [server.fault_of(one) for one in world.image_ids(0, "train/openimages", 5000)]
    for fault, share in server.FAULTS:
        assert 0.4 * 5 * share < faults.count(fault) < 1.8 * 5 * share
    assert set(faults) == {None, *(fault for fault, _ in server.FAULTS)}


@pytest.mark.parametrize("fault", REASON_OF_FAULT)
def test_the_hosts_produce_each_fault(fetcher: Fetcher, fault: str | None) -> None:
    image_id = _id_with(fault)
    outcome = fetcher.fetch(server.url_of(image_id, 32))
    assert outcome.reason is REASON_OF_FAULT[fault]
    assert outcome.requests == (2 if fault in ("busy", "unavailable", "short") else 1)
    if outcome.image:
        assert outcome.image[0] == world.draw(image_id, 32)


def test_every_host_is_a_registrable_domain_of_its_own() -> None:
    assert len({registrable_domain(host) for host in server.HOSTS}) == len(server.HOSTS)
    served = {urlsplit(server.url_of(one, 32)).hostname for one in world.image_ids(0, "train/openimages", 500)}
    assert served == set(server.HOSTS)


def test_all_faults_are_tested() -> None:
    assert {fault for fault, _ in server.FAULTS} == set(REASON_OF_FAULT) - {None}


def test_other_paths_are_not_found(fetcher: Fetcher) -> None:
    outcome = fetcher.fetch(f"http://{server.HOSTS[0]}/nothing.jpg")
    assert (outcome.reason, outcome.http_status) == (Reason.GONE, 404)
