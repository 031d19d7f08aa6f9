"""A small demo through all stages, once: 60 and 20 images, a tiny network trained for two steps."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest

from mlimages.acquire import acquire
from mlimages.convert import convert
from mlimages.download import download
from mlimages.params import Demo, Evaluate, Machine, Params, Train
from mlimages.train import train


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
    model = train(Train(seed=0, architecture="tiny", pixels=32, batch=30, epochs=1.0, learning_rate=0.05,
                        warmup_epochs=0.0, decay="cosine", decay_epochs=[], momentum=0.9, weight_decay=1e-4,
                        batch_norm_momentum=0.9, loss="sigmoid", positive_threshold=0.7, negative_selection=0.1,
                        positive_weight=12.0, crop_area=[0.7, 1.0], rotate_and_recolour=False, shuffle_buffer=64,
                        checkpoint_steps=10), machine, tfrecords=tfrecords, out=root / "model")
    evaluation = Evaluate(batch=8, preprocessing="central", central_fraction=0.8, at_k=[1, 5], threshold=0.5)
    return SmallStages(lists, tfrecords, model, evaluation, machine)
