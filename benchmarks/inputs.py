"""Measure the speed of the input pipeline against the released one and decoding alone, and its memory.

    python benchmarks/inputs.py speed serial memory --photos FOLDER     # pictures cut from the photographs in a folder

Without --photos the pictures are drawn. The pipelines run in turn for several rounds, each in a new process, with the
same parallelism.
"""

import argparse
import dataclasses
import itertools
import math
import os
import platform
import random
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlimages  # noqa: F401 - sets what TensorFlow reads when it is imported

# isort: split
import cv2
import numpy as np
import tensorflow as tf
from lists import RELEASED_CLASSES
from new_process import in_new_process
from photographs import HEIGHT, WIDTH, photographs

from mlimages.acquire.formats import Labels
from mlimages.convert.encode_image import Jpeg
from mlimages.convert.records import parse_sparse, serialize, serialize_dense, shard_name
from mlimages.convert.shard_writer import open_shard
from mlimages.core.params import load
from mlimages.core.publish import publish, read_manifest
from mlimages.core.tuning import FOR_STEPS, keep_freed_memory
from mlimages.inputs import preprocess
from mlimages.inputs.pipeline import Records, training_batches
from mlimages.inputs.preprocess import decode
from mlimages.inputs.reader import RecordBatch

ROOT = Path(__file__).parents[1]
PARAMS = dataclasses.replace(load(ROOT / "params.yaml").train, pixels=224, batch=32, crop_area=[0.7, 1.0])
SHARDS, LABELS = 8, 9
ROUNDS, SECONDS = 5, 4.0


def make_records(folder: Path, photos: Path, records: int, pictures: int, schema: str) -> Path:
    """Publish shards with `records` records of `pictures` different pictures, with nine labels each."""
    rng = random.Random(0)  # noqa: S311 - no cryptography
    names = [shard_name("train", index, SHARDS) for index in range(SHARDS)]
    for index, name in enumerate(names):
        with open_shard(folder / "work" / name) as add:
            for number in range(index * records // SHARDS, (index + 1) * records // SHARDS):
                jpeg = Jpeg((photos / f"{number % pictures}.jpg").read_bytes(), WIDTH, HEIGHT)
                labels = Labels(tuple(sorted(rng.sample(range(RELEASED_CLASSES), LABELS))), (1.0,) * LABELS)
                add(serialize(jpeg, labels, filename=str(number), key=str(number)) if schema == "sparse" else
                    serialize_dense(jpeg, labels, filename=str(number), classes=RELEASED_CLASSES), str(number))
    publish(folder / "work", folder / "tfrecords", stage="convert", records=dict.fromkeys(names, records // SHARDS),
            classes=RELEASED_CLASSES)
    return folder / "tfrecords"


def ours(folder: Path, parallel: int, **changed: Any) -> Any:
    records = Records(folder, read_manifest(folder, "convert"), "train")
    params = dataclasses.replace(PARAMS, **changed)
    return training_batches(records, params, steps=10**6, readers=parallel)


def decoded(folder: Path, parallel: int, decoder: Callable[[Any], Any]) -> Any:
    """Only decode the JPEGs of the records, and pass on one pixel of each."""
    files = sorted(str(path) for path in folder.glob("*.tfrecord"))
    pixels = tf.data.TFRecordDataset(files).repeat().map(
        lambda one: decoder(parse_sparse(one)["encoded"])[0, 0], num_parallel_calls=parallel)
    return pixels.batch(PARAMS.batch).prefetch(2)


def bare(folder: Path, parallel: int) -> Any:
    return decoded(folder, parallel, partial(tf.io.decode_jpeg, channels=3))


def cropped(folder: Path, parallel: int) -> Any:
    """Only decode a random crop, with TensorFlow's fused operation."""

    def crop(jpeg: Any) -> Any:
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(jpeg), tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), min_object_covered=0.0,
            aspect_ratio_range=(0.75, 1.33), area_range=PARAMS.crop_area)
        return tf.io.decode_and_crop_jpeg(jpeg, tf.concat([begin[:2], size[:2]], axis=0), channels=3)

    return decoded(folder, parallel, crop)


def best(folder: Path, parallel: int) -> Any:
    """Only decode with our own decoder, which reuses its memory. This is the upper bound for our pipeline."""
    files = sorted(str(path) for path in folder.glob("*.tfrecord"))

    def heights(jpegs: Any) -> Any:
        return np.array([len(decode(jpeg)) for jpeg in jpegs])

    return tf.data.TFRecordDataset(files).repeat().map(
        lambda one: parse_sparse(one)["encoded"], num_parallel_calls=parallel).batch(PARAMS.batch).map(
        lambda jpegs: tf.numpy_function(heights, [jpegs], tf.int64),
        num_parallel_calls=parallel).prefetch(2)


def released(folder: Path, parallel: int) -> Any:
    """The operations of the released program in its order, on records of its own schema, in float32."""

    def example(one: Any) -> tuple[Any, Any]:
        text = tf.io.FixedLenFeature([], tf.string)
        found = tf.io.parse_single_example(one, {"image": text, "label": text, "name": text})
        image = tf.image.convert_image_dtype(tf.io.decode_jpeg(found["image"], channels=3), tf.float32)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image), tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), min_object_covered=0.7,
            aspect_ratio_range=(0.75, 1.33), area_range=(0.7, 1.0), max_attempts=100)
        image = tf.image.resize(tf.slice(image, begin, size), (224, 224), "bilinear")
        image = tf.image.random_flip_left_right(image)
        case = tf.random.uniform([], 0, 3, tf.int32)
        image = tf.switch_case(case, [lambda: colours(turned(image), True), lambda: colours(image, False),
                                      lambda: image])
        image = tf.clip_by_value(image, 0.0, 1.0)
        labels = tf.ensure_shape(tf.io.decode_raw(found["label"], tf.float32), [RELEASED_CLASSES])
        return tf.ensure_shape(image * 2 - 1, (224, 224, 3)), labels

    files = sorted(str(path) for path in folder.glob("*.tfrecord"))
    stream = tf.data.TFRecordDataset(files).repeat().map(example, num_parallel_calls=parallel).prefetch(PARAMS.batch)
    return stream.shuffle(2048).batch(PARAMS.batch)  # of augmented images, as in the released program


def turned(image: Any) -> Any:
    angle = tf.random.uniform([], -math.pi / 4, math.pi / 4)
    cos, sin, centre = tf.cos(angle), tf.sin(angle), 111.5
    row = tf.stack([cos, -sin, centre - cos * centre + sin * centre, sin, cos, centre - sin * centre - cos * centre,
                    0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(images=image[None], transforms=row[None], output_shape=[224, 224],
                                                 fill_value=0.0, interpolation="NEAREST", fill_mode="CONSTANT")[0]


def colours(image: Any, contrast_last: bool) -> Any:
    image = tf.image.random_brightness(image, 32 / 255)
    image = image if contrast_last else tf.image.random_contrast(image, 0.5, 1.5)
    image = tf.image.random_hue(tf.image.random_saturation(image, 0.5, 1.5), 0.2)
    return tf.image.random_contrast(image, 0.5, 1.5) if contrast_last else image


def rate(make: Callable[[Path, int], Any], folder: Path, parallel: int) -> tuple[float, float]:
    """Images per second, and per CPU second, measured for SECONDS after a warm-up of one second."""
    keep_freed_memory(FOR_STEPS)  # as in training
    iterator, began, count = iter(make(folder, parallel)), time.monotonic(), 0
    while time.monotonic() < began + 1:
        next(iterator)
    began, worked = time.monotonic(), time.process_time()
    while time.monotonic() < began + SECONDS:
        next(iterator)
        count += PARAMS.batch
    return count / (time.monotonic() - began), count / (time.process_time() - worked)


# Functions that make a stream of batches from a folder of records and a parallelism, and the schema of the records.
PIPELINES: dict[str, tuple[Callable[[Path, int], Any], str]] = {
    "`tf.io.decode_jpeg` alone": (bare, "sparse"),
    "`tf.io.decode_and_crop_jpeg`, only the crop": (cropped, "sparse"),
    "the released pipeline": (released, "dense"),
    "decoding alone by TurboJPEG": (best, "sparse"),
    "ours, the full augmentation": (partial(ours, rotate_and_color_jitter=True), "sparse"),
    "ours, crop and flip": (partial(ours, rotate_and_color_jitter=False), "sparse"),
    "ours, the host's part with `augment_on: device`": (
        partial(ours, rotate_and_color_jitter=True, augment_on="device"), "sparse"),
    "ours, the full augmentation, as float32": (
        partial(ours, rotate_and_color_jitter=True, image_dtype="float32"), "sparse")}


def speed(folder: Path, options: argparse.Namespace) -> None:
    """Print the medians of the rates, and of their ratios within a round."""
    made = {schema: make_records(folder / schema, folder / "photos", options.images, options.images, schema)
            for schema in ("sparse", "dense")}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in PIPELINES}
    for _, (name, (make, schema)) in itertools.product(range(ROUNDS), PIPELINES.items()):
        rates[name].append(in_new_process(rate, make, made[schema], options.parallel))
    print(f"\n{options.images:,} records, {RELEASED_CLASSES:,} classes, to 224 pixels, {options.parallel} at a time, "
          f"medians of {ROUNDS} rounds\n")
    print("| | images/s | of decoding alone | times the released | images per CPU second | of decoding alone | "
          "times the released |\n| --- | --- | --- | --- | --- | --- | --- |")
    table = np.array(list(rates.values()))  # [kinds, rounds, clock and CPU]
    of_bare, of_released = (np.median(table / table[kind], axis=1) for kind in (0, 2))
    for name, found, share, times in zip(rates, np.median(table, axis=1), of_bare, of_released, strict=True):
        cells = [f"{found[of]:,.0f} | {share[of]:.0%} | {times[of]:.2f}" for of in range(2)]
        print(f"| {name} | {' | '.join(cells)} |")
    dense_labels()


def serial(folder: Path, options: argparse.Namespace) -> None:
    """Print the upper bound of one process with any number of cores, as medians of the rounds."""
    made = make_records(folder / "serial", folder / "photos", options.images, options.images, "sparse")
    print("\n| what one process hands on at most | images/s | images per CPU second |\n| --- | --- | --- |")
    for name, full in (("crop and flip", False), ("the full augmentation", True)):
        make = partial(freed, rotate_and_color_jitter=full)
        found = np.median([in_new_process(rate, make, made, options.parallel) for _ in range(ROUNDS)], axis=0)
        print(f"| {name} | {found[0]:,.0f} | {found[1]:,.0f} |", flush=True)


def freed(folder: Path, parallel: int, **changed: Any) -> Any:
    """Our pipeline with all calls that release Python's lock replaced by no-ops. The remaining work is serial."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    preprocess.decode = lambda jpeg, **how: picture
    for name in ("resize", "flip", "warpAffine", "transform"):
        setattr(cv2, name, lambda image, *how, dst=None, **more: image if dst is None else dst)
    return ours(folder, parallel, **changed)


def dense_labels() -> None:
    """Print the time to make the dense labels of a batch on the host, and by the operation for a device, on the CPU."""
    rng = np.random.default_rng(0)
    indices = np.concatenate([rng.choice(RELEASED_CLASSES, LABELS, replace=False) for _ in range(PARAMS.batch)])
    batch = RecordBatch([], indices, np.ones(len(indices), np.float32), np.full(PARAMS.batch, LABELS))
    places = np.stack([np.repeat(np.arange(PARAMS.batch), LABELS), indices], axis=1)
    scatter = tf.function(lambda places, confidence: tf.scatter_nd(
        places, confidence, np.array([PARAMS.batch, RELEASED_CLASSES], np.int64)))
    both = {"on the host": lambda: batch.dense(RELEASED_CLASSES),
            "by `tf.scatter_nd`, as a device would": lambda: scatter(places, batch.confidence)}
    found = {name: min(timeit.repeat(make, repeat=ROUNDS, number=100)) * 10 for name, make in both.items()}
    print(f"\nDense labels of a batch of {PARAMS.batch}: "
          f"{', '.join(f'{seconds:.2f} ms {name}' for name, seconds in found.items())}.")


def memory(folder: Path, options: argparse.Namespace) -> None:
    """Print the memory above the imports, for few and many records, and for small and large shuffle buffers."""
    print("\n| records | shuffle buffer, records | MB above the imports |\n| --- | --- | --- |")
    for records in (options.images, 10 * options.images):
        made = make_records(folder / str(records), folder / "photos", records, options.images, "sparse")
        for buffer in (100, 10_000):
            megabytes = in_new_process(memory_of, made, options.parallel, buffer)
            print(f"| {records:,} | {buffer:,} | {megabytes:,.0f} |", flush=True)


def memory_of(folder: Path, parallel: int, buffer: int) -> float:
    """The peak memory of 100 batches above the imports, in MB."""
    keep_freed_memory(FOR_STEPS)
    before = peak()
    batches = ours(folder, parallel, rotate_and_color_jitter=True, shuffle_buffer=buffer)
    for _ in itertools.islice(batches, 100):
        pass
    return peak() - before


def peak() -> float:
    """The peak memory of this process in MB. That of getrusage would include its parent before the fork."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    kinds = {kind.__name__: kind for kind in (speed, serial, memory)}
    parser.add_argument("kinds", nargs="+", choices=kinds)
    parser.add_argument("--photos", type=Path, help="a folder of photographs to cut the pictures from")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="machine.workers in training")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder) / "photos", options.photos, options.images)
        for kind in options.kinds:
            kinds[kind](Path(folder), options)


if __name__ == "__main__":
    main()
