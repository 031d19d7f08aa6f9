"""A small demo through all stages, once: 60 and 20 images, a tiny network trained for two steps."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest

from mlimages.acquire.run import acquire
from mlimages.convert.run import convert
from mlimages.core.params import Demo, Evaluate, Machine, Params
from mlimages.download.run import download
from mlimages.train.run import train


class SmallStages(NamedTuple):
    """The folders that evaluate reads, and how to run it."""

    lists: Path
    tfrecords: Path
    model: Path
    params: Evaluate
    machine: Machine


@pytest.fixture(scope="session")
def small_stages(params: Params, tmp_path_factory: pytest.TempPathFactory) -> SmallStages:
    root = tmp_path_factory.mktemp("small_stages")
    machine = dataclasses.replace(params.machine, scratch=str(root / "scratch"))
    demo = Demo(seed=7, train_images=60, val_images=20, pixels=48)
    lists = acquire(dataclasses.replace(params.acquire, source="demo", demo=demo), machine, out=root / "lists")
    images = download(dataclasses.replace(params.download, images_per_shard=20), machine, lists=lists,
                      out=root / "images")
    tfrecords = convert(dataclasses.replace(params.convert, imagenet=str(lists / "imagenet.tar"), train_shards=2,
                                            val_shards=2), machine, lists=lists, images=images, out=root / "tfrecords")
    small = dataclasses.replace(params.train, architecture="tiny", pixels=32, batch=30, epochs=1.0, learning_rate=0.05,
                                warmup=0.0, loss="sigmoid", shuffle_buffer=64, checkpoint_steps=10,
                                validation_images=0)
    model = train(small, machine, tfrecords=tfrecords, out=root / "model")
    evaluation = dataclasses.replace(params.evaluate, batch=8, central_fraction=0.8, frequency_groups=[40, 10])
    return SmallStages(lists, tfrecords, model, evaluation, machine)
