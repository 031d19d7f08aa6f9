"""A handful of real records, as convert would publish them, and the settings of a tiny training.

Record i has only the class i, so the labels of a batch identify its records. The fixtures import TensorFlow when they
are used, since conftest.py loads this module also in the process that only distributes the tests.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults import LEAN
from tests.training.outcomes import Trained

import mlimages
from mlimages.acquire.formats import Labels
from mlimages.convert.encode_image import to_jpeg
from mlimages.convert.records import CLASSES, index_path, serialize, shard_name
from mlimages.convert.shard_writer import open_shard
from mlimages.core.params import Machine, Params, Train
from mlimages.core.publish import publish, read_manifest, write_csv
from mlimages.demo import world
from mlimages.train.run import train

if TYPE_CHECKING:
    from mlimages.inputs.pipeline import Records

RECORDS, SHARDS = 24, 3
LONG_STEPS = 150
LONG_CHECKPOINT_STEPS = 10


def write_tfrecords(root: Path, counts: Sequence[int], *, held_out: bool = False) -> Path:
    """Publish shards with these numbers of records. The last one holds the validation records.

    It is also the last training shard, unless it is held out.
    """
    (root / "work").mkdir()
    names = [shard_name("train", index, len(counts)) for index in range(len(counts))]
    numbers = itertools.count()
    for name, count in zip(names, counts, strict=True):
        with open_shard(root / "work" / name) as add:
            for number in itertools.islice(numbers, count):
                wnid = world.CLASSES[world.INDEX[world.LEAVES[number]]].wnid
                jpeg = to_jpeg(world.draw(f"{wnid}_{number}", 48), quality=90)
                add(serialize(jpeg, Labels((number,), (1.0,)), filename=str(number), key=str(number)), str(number))
    validation = shard_name("val", 0, 1)
    for found in (Path, index_path):
        (root / "work" / found(Path(validation)).name).write_bytes(found(root / "work" / names[-1]).read_bytes())
    records = {**dict(zip(names, counts, strict=True)), validation: counts[-1]}
    if held_out:
        del records[names[-1]]
        for found in (Path, index_path):
            (root / "work" / found(Path(names[-1])).name).unlink()
    trained = sum(counts[:-1]) if held_out else sum(counts)
    write_csv(root / "work" / CLASSES, ("class", "train_records", "name"),
              ((number, int(number < trained), f"class {number}") for number in range(sum(counts))))
    publish(root / "work", root / "tfrecords", stage="convert", records=records, classes=sum(counts))
    return root / "tfrecords"


@pytest.fixture(scope="session")
def small_tfrecords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training records in 3 shards, of 24 classes, and the last 8 of them once more as validation records."""
    return write_tfrecords(tmp_path_factory.mktemp("small_tfrecords"), [RECORDS // SHARDS] * SHARDS)


@pytest.fixture(scope="session")
def small_records(small_tfrecords: Path) -> "Records":
    from mlimages.inputs.pipeline import Records

    return Records(small_tfrecords, read_manifest(small_tfrecords, "convert"), "train")


@pytest.fixture(scope="session")
def small_train(params: Params) -> Train:
    """15 steps of 8 images; checkpoints after steps 6, 12 and 15, inside epochs and at the end of one."""
    return dataclasses.replace(params.train, seed=3, architecture="tiny", pixels=32, batch=8, epochs=5.0,
                               optimizer="momentum", loss="class_balanced", zero_init_residual=False,
                               learning_rate=0.05, warmup=1.0, crop_area=[0.7, 1.0], rotate_and_color_jitter=True,
                               shuffle_buffer=16, checkpoint_steps=6, validation_images=6, validation_fraction=0.8)


@pytest.fixture(scope="session")
def small_machine(params: Params) -> Callable[..., Machine]:
    def build(scratch: Path, logical_devices: int = 1) -> Machine:
        return dataclasses.replace(params.machine, logical_devices=logical_devices, scratch=str(scratch))

    return build


@pytest.fixture(scope="session")
def trained(small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
            tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The tiny training, uninterrupted."""
    from mlimages.training.step import Trainer

    root = tmp_path_factory.mktemp("trained")
    trainers: list[Trainer] = []

    class Remembered(Trainer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            trainers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlimages.training.loop.Trainer", Remembered)
        out = train(small_train, small_machine(root / "scratch"), tfrecords=small_tfrecords, out=root / "model")
    return Trained(out, trainers)


@pytest.fixture
def no_saved_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no SavedModel, which takes a third of a tiny training's processor time, where no test reads it.

    That of `trained`, which is made before a test's own fixtures, is there.
    """
    monkeypatch.setattr("mlimages.network.serving.save_for_serving", lambda *arguments: None)


@pytest.fixture(scope="session")
def small_python() -> Callable[..., list[str]]:
    """The command that runs a Python program in another process, with this project on its path."""

    def command(program: str, *arguments: str) -> list[str]:
        source = Path(str(mlimages.__file__)).parents[1]
        path = os.pathsep.join([str(source), *filter(None, [os.environ.get("PYTHONPATH")])])
        return ["env", f"PYTHONPATH={path}", sys.executable, "-c", LEAN + program, *arguments]

    return command


@pytest.fixture(scope="session")
def cluster_train(small_train: Train) -> Train:
    """10 steps of 12 images, which two or three workers can share evenly. Small images keep rounding errors small."""
    return dataclasses.replace(small_train, strategy="multi_worker", batch=12, batch_norm="synchronized",
                               learning_rate=0.01)


@pytest.fixture(scope="session")
def long_train(cluster_train: Train) -> Train:
    """Long enough for a test to interrupt it."""
    return dataclasses.replace(cluster_train, epochs=None, steps=LONG_STEPS, checkpoint_steps=LONG_CHECKPOINT_STEPS,
                               learning_rate=0.01, validation_images=0)


@pytest.fixture(scope="session")
def cluster_machine(small_machine: Callable[..., Machine]) -> Callable[..., Machine]:
    def build(scratch: Path, **changes: Any) -> Machine:
        return dataclasses.replace(small_machine(scratch), **{"start_timeout": 200.0, **changes})

    return build
