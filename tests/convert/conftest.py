"""A small demo, acquired and downloaded once: 60 and 20 images, some of them missing or damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mlimages.acquire import acquire
from mlimages.download import download
from mlimages.params import Acquire, Convert, Demo, Download, Machine

# With this seed the archive lacks one training and one validation image, one training image in it is damaged, and
# two training URLs are gone.
SEED = 259


class SmallDemo(NamedTuple):
    """The folders that convert reads."""

    lists: Path
    images: Path


@pytest.fixture(scope="session")
def small_machine() -> Callable[..., Machine]:
    def build(scratch: Path, workers: int = 1) -> Machine:
        return Machine(threads=8, workers=workers, logical_devices=1, scratch=str(scratch), connect_to={},
                       progress_seconds=60.0)

    return build


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory, small_machine: Callable[..., Machine]) -> SmallDemo:
    root = tmp_path_factory.mktemp("small_demo")
    machine = small_machine(root / "scratch")
    demo = Demo(seed=SEED, train_images=60, val_images=20, pixels=48)
    lists = acquire(Acquire(source="demo", folder=None, malformed_fraction=0.0, demo=demo), machine,
                    out=root / "lists")
    images = download(Download(images_per_shard=20, connections_per_host=8, attempts=2, timeout_seconds=10.0,
                               deadline_seconds=30.0, max_bytes=2**20, max_pixels=2**20), machine, lists=lists,
                      out=root / "images")
    return SmallDemo(lists, images)


@pytest.fixture(scope="session")
def small_convert(small_demo: SmallDemo) -> Convert:
    return Convert(seed=0, imagenet=str(small_demo.lists / "imagenet.tar"), train_shards=3, val_shards=2, quality=90)
