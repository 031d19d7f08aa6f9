"""Pictures of data/tfrecords: what went into the records."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import tensorflow as tf

from mlimages.acquire.formats import CLASSES as LISTED
from mlimages.convert.records import parse_sparse, shard_paths
from mlimages.convert.report import CLASSES, SUMMARY
from mlimages.figures.canvas import BAD, GOOD, TRAIN, axes, bars, picture_grid, table
from mlimages.publish import read_manifest


def coverage(tfrecords: str | Path) -> None:
    """Records written, and images that are not there, with their reasons."""
    summary = json.loads((Path(tfrecords) / SUMMARY).read_text())
    names = ["train records", "val records", "ImageNet ids without an image", "images that do not decode"]
    missing = summary["train"]["imagenet_missing"] + summary["val"]["imagenet_missing"]
    bars("What became records", "images", names,
         [summary["train"]["records"], summary["val"]["records"], missing, summary["failures"]], [GOOD, GOOD, BAD, BAD])


def kept_per_class(tfrecords: str | Path, lists: str | Path) -> None:
    """Training images of each class in the lists, and those that became records."""
    listed = [int(row["train_images"]) for row in table(Path(lists) / LISTED)]
    kept = [int(row["train_records"]) for row in table(Path(tfrecords) / CLASSES)]
    ax = axes("Training images per class: in the lists and in the records", "images in the lists",
              "share that became records")
    shares = [(there, here / there) for there, here in zip(listed, kept, strict=True) if there]
    ax.plot(*zip(*shares, strict=True), "o", color=TRAIN)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.05)
    plt.show()


def shard_bytes(tfrecords: str | Path) -> None:
    """How even the shards are."""
    files = {name: facts for name, facts in read_manifest(tfrecords, "convert")["files"].items()
             if name.endswith(".tfrecord")}
    bars("Size of the shards", "MiB", list(files), [round(facts["bytes"] / 2**20, 2) for facts in files.values()])


def first_records(tfrecords: str | Path, count: int = 16) -> None:
    """The first records of the first training shard: well mixed, they come from everywhere."""
    shard = shard_paths(tfrecords, read_manifest(tfrecords, "convert"), "train")[0]
    records = [parse_sparse(serialized) for serialized in tf.data.TFRecordDataset(str(shard)).take(count)]
    picture_grid(f"The first records of {shard.name}",
                 [(one["encoded"].numpy(), one["key"].numpy().decode()) for one in records], columns=8)
