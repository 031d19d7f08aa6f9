"""Every pair of augmentations, losses and precisions trains together."""

import dataclasses
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlimages.core.params import Machine, Train
from mlimages.inputs.pipeline import Records, training_batches
from mlimages.training.distribution import build_strategy, distribute
from mlimages.training.step import Trainer

VALUES: dict[str, tuple[Any, ...]] = {
    "loss": ("class_balanced", "sigmoid", "asymmetric", "focal", "softmax"),
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "rotate_and_color_jitter": (False, True), "rand_augment": (None, 0.5), "mixup": (None, 0.2),
    "augment_on": ("host", "device")}


FIRST = ("loss", "precision")  # every pair of these has a combination of its own


def pairs(changes: dict[str, Any]) -> set[Any]:
    return set(combinations(changes.items(), 2))


def combine(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [dict(zip(names, values, strict=True)) for values in product(*(VALUES[name] for name in names))]


def covering_combinations() -> list[dict[str, Any]]:
    """A combination for each loss and precision. The other values are those with the most pairs not yet covered."""
    others = combine(tuple(name for name in VALUES if name not in FIRST))
    covered, found = set[Any](), list[dict[str, Any]]()
    for first in combine(FIRST):
        found.append(max(({**first, **other} for other in others), key=lambda changes: len(pairs(changes) - covered)))
        covered |= pairs(found[-1])
    assert covered == set().union(*map(pairs, combine(tuple(VALUES))))
    return found


@pytest.mark.parametrize("changes", covering_combinations(), ids=lambda changes: "-".join(map(str, changes.values())))
def test_every_pair_of_augmentations_losses_and_precisions_trains_a_step(
        small_records: Records, small_train: Train, small_machine: Callable[..., Machine], tmp_path: Path,
        changes: dict[str, Any]) -> None:
    params = dataclasses.replace(small_train, batch=2, pixels=16, **changes)
    strategy = build_strategy(params, small_machine(tmp_path))
    trainer = Trainer(params, small_records.classes, strategy)
    batches = distribute(strategy, lambda context: training_batches(small_records, params, steps=1))
    before = trainer.model.get_weights()
    [loss] = trainer.train(batches, np.array([0.01], np.float32))
    assert np.isfinite(loss) and trainer.is_finite()
    assert any((one != other).any() for one, other in zip(before, trainer.model.get_weights(), strict=True))
