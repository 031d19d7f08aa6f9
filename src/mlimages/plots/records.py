"""Plots of data/tfrecords: records, missing images, shards."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mlimages.acquire.formats import CLASSES as LISTED
from mlimages.acquire.formats import PARTS
from mlimages.convert.duplicates.find import DUPLICATES
from mlimages.convert.records import read_index, shard_paths
from mlimages.convert.report import CLASSES, SUMMARY
from mlimages.core.publish import read_manifest
from mlimages.inputs.reader import RecordReader
from mlimages.plots.canvas import (
    BAD,
    COUNT,
    GOOD,
    MUTED,
    TRAIN,
    axes,
    bars,
    display_table,
    image_grid,
    read_json,
    read_table,
)
from mlimages.plots.explore.records import RecordCatalogue


def coverage(tfrecords: str | Path) -> None:
    """Show the records, and the missing images by reason."""
    summary = read_json(tfrecords, SUMMARY)
    missing = summary["train"]["imagenet_missing"] + summary["val"]["imagenet_missing"]
    found = {"train records": summary["train"]["records"], "val records": summary["val"]["records"],
             "ImageNet ids without an image": missing, **summary["failures_by_reason"]}
    bars("Records and missing images", "images", list(found), list(found.values()),
         [GOOD, GOOD, *[BAD] * (len(found) - 2)])


def images_per_class(tfrecords: str | Path, lists: str | Path) -> None:
    """Show the number of training images of each class in the lists, in descending order, and in the records."""
    listed = read_table(Path(lists) / LISTED)["train_images"]
    order = listed.sort_values(ascending=False, kind="stable").index
    records = read_table(Path(tfrecords) / CLASSES)["train_records"]
    places = range(1, len(order) + 1)
    ax = axes("Training images per class: in the lists and in the records", "class, the most frequent first", "images")
    ax.plot(places, listed[order], color=MUTED, label="in the lists")
    ax.plot(places, records[order], ".", markersize=4, color=TRAIN, label="in the records")
    ax.set_yscale("symlog", linthresh=1, linscale=0.3)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    plt.show()


def imagenet_per_class(tfrecords: str | Path) -> None:
    """Show the share of each class's ImageNet ids that the archive has."""
    classes = read_table(Path(tfrecords) / CLASSES).query("imagenet_listed > 0")
    if classes.empty:
        print("Without ImageNet: convert.imagenet is null, or the lists name none of its images")
        return
    listed, found = classes["imagenet_listed"], classes["imagenet_found"]
    ax = axes(f"Coverage of ImageNet by class; of all labels {found.sum() / listed.sum():.1%}",
              "ImageNet ids of the class in the lists", "share in the archive")
    ax.plot(listed, found / listed, "o", color=TRAIN, alpha=0.5, markeredgewidth=0)
    ax.set_xscale("log")
    ax.set_ylim(-0.03, 1.03)
    plt.show()


def shard_bytes(tfrecords: str | Path) -> None:
    """Show the sizes of the shards, as bars or, for more than 24, as a histogram."""
    sizes = {name: round(facts["bytes"] / 2**20, 2) for name, facts in
             read_manifest(tfrecords, "convert")["files"].items() if name.endswith(".tfrecord")}
    if len(sizes) <= 24:
        bars("Size of the shards", "MiB", list(sizes), list(sizes.values()))
    else:
        ax = axes(f"Size of the {len(sizes):,} shards", "MiB", "shards")
        ax.hist(list(sizes.values()), bins=40, color=TRAIN)
        plt.show()


def record_bytes(tfrecords: str | Path) -> None:
    """Show the sizes of the records in the first training shard, which is a random sample of all."""
    shard = shard_paths(tfrecords, read_manifest(tfrecords, "convert"), "train")[0]
    ax = axes(f"Size of the records in {shard.name}", "KiB", "records")
    ax.hist(read_index(shard)["length"] / 1024, bins=40, color=TRAIN)
    plt.show()


def first_records(tfrecords: str | Path, count: int = 16) -> None:
    """Show the images of the first training records."""
    catalogue = RecordCatalogue(tfrecords, "train")
    records = [catalogue.read(number) for number in range(min(count, len(catalogue)))]
    image_grid("The first training records", [(record.jpeg, record.key) for record in records], columns=8)


def duplicates_table(tfrecords: str | Path) -> pd.DataFrame:
    """How many images repeat an earlier one: within train, within val, and of val in train. Empty if none was sought.
    """
    counts = read_json(tfrecords, SUMMARY).get("duplicates", {})
    frame = pd.DataFrame.from_dict(counts, orient="index", columns=["train", "val", "val_in_train"])
    return display_table(frame.rename_axis("duplicates"), dict.fromkeys(frame.columns, COUNT))


def duplicate_pictures(tfrecords: str | Path, count: int = 8) -> None:
    """Show pairs of duplicates: each image beside the earlier one, those of val in train first."""
    path = Path(tfrecords) / DUPLICATES
    if not path.exists():
        print("Duplicates were not sought: convert.duplicates is null")
        return
    found = read_table(path)
    in_train = found["key"].str.startswith("val-") & found["duplicate_of"].str.startswith("train-")
    # Of both kinds, as copies look the same and only alike pictures show whether the hash is right.
    order = found.assign(place=~in_train, number=found.groupby([in_train, "kind"]).cumcount())
    chosen = order.sort_values(["place", "number"], kind="stable").head(count)
    wanted = [*chosen["key"], *chosen["duplicate_of"]]
    pictures = _pictures(tfrecords, wanted)
    captions = [f"{kind}, {bits} bits\n{key}" for kind, bits, key in chosen[["kind", "different_bits", "key"]].values]
    pairs = zip(captions, chosen["key"], chosen["duplicate_of"], strict=True)
    image_grid("Duplicates, each beside the image that it repeats; a validation image that was left out is missing",
               [(pictures[key], caption) for label, one, other in pairs
                for key, caption in ((one, label), (other, f"of\n{other}")) if key in pictures], columns=8)


def _pictures(tfrecords: str | Path, keys: list[str]) -> dict[str, bytes]:
    """The JPEGs of records by their keys, of those keys that have a record."""
    manifest, wanted = read_manifest(tfrecords, "convert"), np.array(keys, "S")
    found = {}
    for shard in (path for part in PARTS for path in shard_paths(tfrecords, manifest, part)):
        shard_keys = read_index(shard)["key"]
        reader = RecordReader([shard], [len(shard_keys)], manifest["classes"])
        for number in np.flatnonzero(np.isin(shard_keys, wanted)).tolist():
            found[shard_keys[number].decode()] = reader.example(0, number).jpeg
    return found
