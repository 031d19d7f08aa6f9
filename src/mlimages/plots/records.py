"""Pictures of data/tfrecords: what went into the records."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import tensorflow as tf

from mlimages.acquire.formats import CLASSES as LISTED
from mlimages.convert.records import parse_sparse, read_index, shard_paths
from mlimages.convert.report import CLASSES, SUMMARY
from mlimages.core.publish import read_manifest
from mlimages.plots.canvas import BAD, GOOD, MUTED, TRAIN, axes, bars, picture_grid, table


def coverage(tfrecords: str | Path) -> None:
    """Records written, and images that are not there, with their reasons."""
    summary = json.loads((Path(tfrecords) / SUMMARY).read_text())
    missing = summary["train"]["imagenet_missing"] + summary["val"]["imagenet_missing"]
    found = {"train records": summary["train"]["records"], "val records": summary["val"]["records"],
             "ImageNet ids without an image": missing, **summary["failures_by_reason"]}
    bars("What became records, and what did not", "images", list(found), list(found.values()),
         [GOOD, GOOD, *[BAD] * (len(found) - 2)])


def images_per_class(tfrecords: str | Path, lists: str | Path) -> None:
    """Training images of each class, the most frequent first: in the lists, and those that became records."""
    listed = [int(row["train_images"]) for row in table(Path(lists) / LISTED)]
    kept = [int(row["train_records"]) for row in table(Path(tfrecords) / CLASSES)]
    order = sorted(range(len(listed)), key=lambda index: -listed[index])
    ax = axes("Training images per class: in the lists and in the records", "class, the most frequent first", "images")
    ax.plot(range(1, len(order) + 1), [listed[index] for index in order], color=MUTED, label="in the lists")
    ax.plot(range(1, len(order) + 1), [kept[index] for index in order], ".", markersize=4, color=TRAIN,
            label="in the records")
    ax.set_yscale("symlog", linthresh=1, linscale=0.3)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    plt.show()


def imagenet_per_class(tfrecords: str | Path) -> None:
    """Of each class's ImageNet ids, the share that the archive has."""
    rows = [(int(row["imagenet_listed"]), int(row["imagenet_found"])) for row in table(Path(tfrecords) / CLASSES)]
    shares = [(listed, found / listed) for listed, found in rows if listed]
    if not shares:
        print("Without ImageNet: convert.imagenet is null, or the lists name none of its images")
        return
    whole = sum(found for _, found in rows) / sum(listed for listed, _ in rows)
    ax = axes(f"Coverage of ImageNet by class; of all labels {whole:.1%}", "ImageNet ids of the class in the lists",
              "share in the archive")
    ax.plot(*zip(*shares, strict=True), "o", color=TRAIN, alpha=0.5, markeredgewidth=0)
    ax.set_xscale("log")
    ax.set_ylim(-0.03, 1.03)
    plt.show()


def shard_bytes(tfrecords: str | Path) -> None:
    """How even the shards are: bars of a few, a histogram of many."""
    sizes = {name: round(facts["bytes"] / 2**20, 2) for name, facts in
             read_manifest(tfrecords, "convert")["files"].items() if name.endswith(".tfrecord")}
    if len(sizes) <= 24:
        bars("Size of the shards", "MiB", list(sizes), list(sizes.values()))
    else:
        ax = axes(f"Size of the {len(sizes):,} shards", "MiB", "shards")
        ax.hist(list(sizes.values()), bins=40, color=TRAIN)
        plt.show()


def record_bytes(tfrecords: str | Path) -> None:
    """How large records are, in the first training shard, which is a fair sample of all."""
    shard = shard_paths(tfrecords, read_manifest(tfrecords, "convert"), "train")[0]
    ax = axes(f"Size of the records in {shard.name}", "KiB", "records")
    ax.hist(read_index(shard)["length"] / 1024, bins=40, color=TRAIN)
    plt.show()


def first_records(tfrecords: str | Path, count: int = 16) -> None:
    """The first records of the first training shard: well mixed, they come from everywhere."""
    shard = shard_paths(tfrecords, read_manifest(tfrecords, "convert"), "train")[0]
    records = [parse_sparse(serialized) for serialized in tf.data.TFRecordDataset(str(shard)).take(count)]
    picture_grid(f"The first records of {shard.name}",
                 [(one["encoded"].numpy(), one["key"].numpy().decode()) for one in records], columns=8)
