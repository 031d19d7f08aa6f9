"""The results of a training that tests compare."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlimages.core.params import Machine, Train
from mlimages.launch.tf_config import reserve_port

if TYPE_CHECKING:
    from mlimages.training.step import Trainer

MEASURED = ("images_per_second",)


class Trained(NamedTuple):
    """A finished training."""

    out: Path
    trainers: "list[Trainer]"


def weights(folder: Path) -> list[np.ndarray]:
    import keras  # only here: conftest.py imports this module in every process

    return keras.models.load_model(folder / "model.keras", compile=False).get_weights()


def assert_same_weights(one: Path, other: Path) -> None:
    for first, second in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(first, second)


def assert_close(one: Path, other: Path) -> None:
    for first, second in zip(weights(one), weights(other), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-2, atol=1e-2 * np.abs(second).max())


def log(folder: Path) -> list[dict[str, str]]:
    """The rows of the log, without measured times."""
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name not in MEASURED} for row in csv.DictReader(file)]


def as_json(params: Train, machine: Machine, tfrecords: Path, out: Path) -> str:
    return json.dumps([dataclasses.asdict(params), dataclasses.asdict(machine), str(tfrecords), str(out)])


def free_addresses(count: int) -> list[str]:
    """Addresses of this machine with unused ports."""
    held = [reserve_port(0, "a test") for _ in range(count)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in held]
    for one in held:
        one.close()
    return addresses
