"""Labelled pictures as records with one class each, in the format of data/tfrecords, which the training reads."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from mlimages.acquire.formats import Labels
from mlimages.convert.encode_image import Jpeg, to_jpeg
from mlimages.convert.records import CLASSES, serialize, shard_name
from mlimages.convert.shard_writer import open_shard
from mlimages.core.errors import UserError
from mlimages.core.parallel import ordered_map
from mlimages.core.params import Machine
from mlimages.core.progress import progress_bar
from mlimages.core.publish import publish, write_csv
from mlimages.images.decode import Undecodable
from mlimages.transfer.pictures import PARTS, LabelledPicture, LabelledPictures

SHARD_BYTES = 128 * 2**20
QUALITY = 90  # of pictures that are encoded again as JPEGs
AHEAD = 64  # pictures that are read and encoded at the same time, at most


class Encoded(NamedTuple):
    """A picture and its JPEG, or why it has none."""

    picture: LabelledPicture
    jpeg: Jpeg | None
    error: str = ""


def write_records(pictures: LabelledPictures, folder: Path, work: Path, machine: Machine, seed: int) -> None:
    """Write the records of both parts to `work` and publish them in `folder`, which then looks like data/tfrecords.

    The order of the training records is random, by `seed`. A picture that cannot be read is named and left out. Raises
    UserError if no picture of a part, or no training picture of a class, can be read.
    """
    counts, records, skipped = {}, dict[str, int](), 0
    with progress_bar("records", total=len(pictures.train) + len(pictures.val), unit=" images",
                      machine=machine) as bar:
        for part in PARTS:
            shuffled = sorted(pictures.part(part), key=lambda picture: _order(part, seed, picture))
            shards = -(-sum(picture.size for picture in shuffled) // SHARD_BYTES)
            encoded = ordered_map(_encode, shuffled, workers=machine.workers, window=AHEAD)
            counts[part] = Counter[int]()
            for shard in range(shards):
                names = shuffled[shard * len(shuffled) // shards: (shard + 1) * len(shuffled) // shards]
                with open_shard(work / shard_name(part, shard, shards)) as add:
                    for _ in names:
                        picture, jpeg, error = next(encoded)
                        bar.update(1)
                        if jpeg is None:
                            skipped += 1
                            print(f"{picture.key} is left out: {error}", flush=True)
                            continue
                        labels = Labels((picture.label,), (1.0,))
                        add(serialize(jpeg, labels, filename=picture.key, key=picture.key), picture.key)
                        counts[part][picture.label] += 1
                        name = shard_name(part, shard, shards)
                        records[name] = records.get(name, 0) + 1
    _check(pictures, counts)
    write_csv(work / CLASSES, ("class", "train_records", "val_records", "name"),
              [(number, counts["train"][number], counts["val"][number], name)
               for number, name in enumerate(pictures.classes)])
    publish(work, folder, stage="convert", records=records, classes=len(pictures.classes), skipped=skipped)


def _order(part: str, seed: int, picture: LabelledPicture) -> Any:
    """What training records are sorted by; validation records keep the order of their keys."""
    return hashlib.sha256(f"{seed}/{picture.key}".encode()).digest() if part == "train" else picture.key


def _encode(picture: LabelledPicture) -> Encoded:
    try:
        return Encoded(picture, to_jpeg(picture.read(), quality=QUALITY))
    except (Undecodable, UserError) as error:
        return Encoded(picture, None, str(error))


def _check(pictures: LabelledPictures, counts: dict[str, Counter[int]]) -> None:
    if not counts["val"].total():
        raise UserError("no validation picture can be read; the lines above name what is wrong with each")
    if missing := [name for number, name in enumerate(pictures.classes) if not counts["train"][number]]:
        raise UserError(f"no training picture of the class {missing[0]} can be read; the lines above name what is "
                        f"wrong with each")
