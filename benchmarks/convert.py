"""Measure the stage convert: its speed against a pool of Pillow threads, the size of labels, and its memory.

    python benchmarks/convert.py speed --photos FOLDER      # pictures cut from the photographs in a folder
    python benchmarks/convert.py labels memory table        # without --photos, drawn pictures

Each measurement runs in a new process and begins after the imports. The programs run in turn.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import platform
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from lists import RELEASED_CLASSES, write_dictionary
from new_process import in_new_process
from photographs import photographs
from PIL import Image

from mlimages.acquire.formats import DICTIONARY, LISTS, Labels, read_list
from mlimages.acquire.run import acquire
from mlimages.core.params import load
from mlimages.core.publish import publish
from mlimages.download.shards import Sample, key_of, shard_path, write_shard

ROOT = Path(__file__).parents[1]
PARAMS = load(ROOT / "params.yaml")
LABELS = 9
IMAGES_PER_SHARD = 1000
RELEASED_IMAGES = 17_609_752
QUALITY = 90
PHOTOS = 2000  # different pictures, used in turn
IMAGES = 8000  # for `speed`: enough that the start of a run takes a small share of the time


def make_inputs(folder: Path, photos: Path, images: int) -> None:
    """Publish lists of 11,166 classes with nine labels a line, and shards of their images as download does."""
    raw, rng = folder / "raw", random.Random(0)  # noqa: S311 - no cryptography
    raw.mkdir(parents=True)
    write_dictionary(raw / DICTIONARY)
    for part, count in (("train", images), ("val", 10)):
        name = next(one.name for one in LISTS if (one.part, one.origin) == (part, "openimages"))
        with (raw / name).open("w", encoding="ascii") as file:
            for number in range(count):
                classes = sorted(rng.sample(range(RELEASED_CLASSES), LABELS))
                file.write(f"https://c1.staticflickr.com/{number % 9}/{number:010d}_o.jpg"
                           + "".join(f"\t{index}:{rng.choice((1, 0.9, 0.8))}" for index in classes) + "\n")
    acquire(dataclasses.replace(PARAMS.acquire, source="folder", folder=str(raw)), machine(folder),
            out=folder / "lists")
    records = {}
    for part, origin, name in LISTS:
        if origin == "openimages":
            samples = (Sample(key_of(part, entry.line), "jpg", (photos / f"{entry.line % PHOTOS}.jpg").read_bytes(),
                              entry.source, entry.labels)
                       for entry in read_list(folder / "lists" / name, origin, RELEASED_CLASSES))
            for number in range(-(-(images if part == "train" else 10) // IMAGES_PER_SHARD)):
                path = shard_path(folder / "work", part, number)
                write_shard(path, itertools.islice(samples, IMAGES_PER_SHARD))
                records[str(path.relative_to(folder / "work"))] = IMAGES_PER_SHARD
    publish(folder / "work", folder / "images", stage="download", records=records, classes=RELEASED_CLASSES)


def machine(folder: Path) -> Any:
    return dataclasses.replace(PARAMS.machine, workers=os.cpu_count() or 1, scratch=str(folder / "scratch"),
                               progress_seconds=60.0)


def ours(folder: Path, shorter_side: int | None) -> Callable[[], object]:
    """The stage convert: read, decode, downscale, serialize, write, hash, publish."""
    from mlimages.convert.encode_image import to_jpeg
    from mlimages.convert.run import convert

    to_jpeg(drawn(), quality=QUALITY, shorter_side=16)  # TensorFlow loads its kernels at the first call
    params = dataclasses.replace(PARAMS.convert, imagenet=None, train_shards=8, shorter_side=shorter_side,
                                 quality=QUALITY)
    place = Path(tempfile.mkdtemp(dir=folder))
    return lambda: convert(params, machine(place), lists=folder / "lists", images=folder / "images",
                           out=place / "tfrecords")


def pillow(folder: Path, shorter_side: int | None) -> Callable[[], object]:
    """A pool of threads that open, resize and save the same pictures with Pillow, and do nothing else."""
    paths = [folder.parent / "photos" / f"{number % PHOTOS}.jpg" for number in range(IMAGES)]
    out = Path(tempfile.mkdtemp(dir=folder))

    def one(number: int) -> None:
        image = Image.open(paths[number]).convert("RGB")
        scale = (shorter_side or min(image.size)) / min(image.size)
        made = image.resize((round(image.width * scale), round(image.height * scale)))
        made.save(out / f"{number}.jpg", quality=QUALITY)

    def run() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, range(IMAGES)))

    return run


def decoding(folder: Path, shorter_side: int | None) -> Callable[[], object]:
    """A pool of threads that only decode the same pictures with TensorFlow, which shows the speed of the machine."""
    import tensorflow as tf

    bodies = [(folder.parent / "photos" / f"{number}.jpg").read_bytes() for number in range(PHOTOS)]
    tf.io.decode_jpeg(bodies[0])

    def run() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(lambda number: tf.io.decode_jpeg(bodies[number % PHOTOS]).shape, range(IMAGES)):
                pass

    return run


def drawn() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def measure(make: Callable[..., Callable[[], object]], folder: Path, shorter_side: int | None) -> dict[str, float]:
    """Call the function that `make` returns. Returns its seconds, CPU seconds, and peak bytes above the imports."""
    run = make(folder, shorter_side)
    with open("/proc/self/statm", encoding="ascii") as file:
        imports = int(file.read().split()[1]) * resource.getpagesize()
    before, began = time.process_time(), time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        run()
    return {"seconds": time.monotonic() - began, "cpu": time.process_time() - before,
            "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - imports}


def speed(folder: Path, options: argparse.Namespace) -> None:
    """Print images per second and CPU time, as medians of several rounds."""
    make_inputs(folder / "small", folder / "photos", IMAGES)
    kinds: dict[str, tuple[Callable[..., Any], int | None]] = {
        "convert, the bytes kept, all verified": (ours, None), "convert, shorter side 256": (ours, 256),
        "a pool of threads that resize with Pillow": (pillow, 256),
        "a pool of threads of tf.io.decode_jpeg alone": (decoding, None)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, (make, shorter_side) in kinds.items():
            found[name].append(in_new_process(measure, make, folder / "small", shorter_side))
    sizes = [path.stat().st_size for path in (folder / "photos").iterdir()]
    print(f"\n{IMAGES:,} JPEGs of {statistics.mean(sizes) / 1000:.1f} kB, {RELEASED_CLASSES:,} classes, "
          f"{LABELS} labels each; median of {options.rounds} rounds\n\n"
          f"| | images/s | CPU ms per image |\n| --- | --- | --- |")
    for name, runs in found.items():
        seconds, cpu = (statistics.median(run[what] for run in runs) for what in ("seconds", "cpu"))
        print(f"| {name} | {IMAGES / seconds:,.0f} | {1000 * cpu / IMAGES:.2f} |")


def labels(folder: Path, options: argparse.Namespace) -> None:
    """Print the bytes that the labels of a record take."""
    from mlimages.convert.encode_image import Jpeg
    from mlimages.convert.records import serialize, serialize_dense

    rng = random.Random(0)  # noqa: S311
    jpeg, url, key = Jpeg(drawn(), 256, 256), "https://c1.staticflickr.com/1/1_o.jpg", "train-00000000"
    found: dict[str, list[int]] = {"sparse": [], "dense": []}
    for _ in range(1000):
        some = Labels(tuple(sorted(rng.sample(range(RELEASED_CLASSES), LABELS))), (1.0,) * LABELS)
        bare = len(serialize(jpeg, Labels((), ()), filename=url, key=key))
        found["sparse"].append(len(serialize(jpeg, some, filename=url, key=key)) - bare)
        found["dense"].append(len(serialize_dense(jpeg, some, filename=url, classes=RELEASED_CLASSES))
                              - len(serialize_dense(jpeg, Labels((), ()), filename=url, classes=0)))
    print("\n| labels | bytes a record |\n| --- | --- |")
    for name, sizes in found.items():
        print(f"| {name} | {statistics.mean(sizes):,.0f} |")


def memory(folder: Path, options: argparse.Namespace) -> None:
    """Print the peak memory above the imports, for few and for many records."""
    print("\n| records | MB above the imports |\n| --- | --- |")
    for images in (2000, options.many):
        make_inputs(folder / str(images), folder / "photos", images)
        measured = in_new_process(measure, ours, folder / str(images), None)
        print(f"| {images:,} | {measured['bytes'] / 1e6:,.0f} |", flush=True)


def table(folder: Path, options: argparse.Namespace) -> None:
    """Print the time, memory and disk space to shuffle the rows of as many images as the release has."""
    count = RELEASED_IMAGES
    folder.joinpath("table").mkdir()
    one = in_new_process(measure, shuffling, folder / "table", count)
    from mlimages.convert.members import ROW
    file = ROW.itemsize * count / 1e6
    print(f"\nThe table of {count:,} images: {ROW.itemsize} bytes each on the disk; shuffled in {one['seconds']:.0f} s "
          f"with {one['bytes'] / 1e6 - file:,.0f} MB above the imports and {file:,.0f} MB of pages of the file")


def shuffling(folder: Path, count: int) -> Callable[[], object]:
    from mlimages.convert import members

    with (folder / "train.listed").open("wb") as file:
        for first in range(0, count, 2**20):
            file.write(np.zeros(min(2**20, count - first), members.ROW).tobytes())
    return lambda: members.shuffle(folder, "train", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    kinds = {one.__name__: one for one in (speed, labels, memory, table)}
    parser.add_argument("kinds", nargs="+", choices=kinds)
    parser.add_argument("--photos", type=Path, help="a folder of photographs to cut the pictures from")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=20_000, help="records of the larger memory measurement")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        if {"speed", "memory"} & set(options.kinds):
            photographs(Path(folder) / "photos", options.photos, PHOTOS)
        for kind in options.kinds:
            kinds[kind](Path(folder), options)


if __name__ == "__main__":
    main()
