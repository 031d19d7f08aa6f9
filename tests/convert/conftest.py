"""A small demo, acquired and downloaded once: 60 training and 20 validation images, a few missing or damaged."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mlimages.acquire.run import acquire
from mlimages.core.params import Convert, Demo, Machine, Params
from mlimages.download.run import download

# With this seed the archive lacks one training and one validation image, one training image in it is damaged, and
# two training URLs are gone.
SEED = 259


class SmallDemo(NamedTuple):
    """The folders that convert reads."""

    lists: Path
    images: Path


@pytest.fixture(scope="session")
def small_machine(params: Params) -> Callable[..., Machine]:
    def build(scratch: Path, workers: int = 1) -> Machine:
        return dataclasses.replace(params.machine, workers=workers, scratch=str(scratch))

    return build


@pytest.fixture(scope="session")
def small_demo(params: Params, tmp_path_factory: pytest.TempPathFactory,
               small_machine: Callable[..., Machine]) -> SmallDemo:
    root = tmp_path_factory.mktemp("small_demo")
    machine = small_machine(root / "scratch")
    demo = Demo(seed=SEED, train_images=60, val_images=20, pixels=48)
    lists = acquire(dataclasses.replace(params.acquire, source="demo", demo=demo), machine, out=root / "lists")
    images = download(dataclasses.replace(params.download, images_per_shard=20), machine, lists=lists,
                      out=root / "images")
    return SmallDemo(lists, images)


@pytest.fixture(scope="session")
def small_convert(small_demo: SmallDemo) -> Convert:
    return Convert(seed=0, imagenet=str(small_demo.lists / "imagenet.tar"), labels="sparse", train_shards=3,
                   val_shards=2, shard_mib=None, shorter_side=None, quality=90, to_srgb=False, duplicates=None,
                   drop_val_duplicates=False)
