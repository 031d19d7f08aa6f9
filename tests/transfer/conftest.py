"""Parameters of a small transfer."""

import dataclasses

import pytest

from mlimages.core.params import Params, Transfer, TransferDemo


@pytest.fixture(scope="session")
def small_transfer(params: Params) -> Transfer:
    """Two steps on 30 pictures of 24 pixels, with validation after each."""
    return dataclasses.replace(
        params.transfer, demo=TransferDemo(seed=0, train_images=3, val_images=2, pixels=24), pixels=[16, 24],
        shares=[0.5, 0.5], training={"epochs": None, "steps": 2, "warmup": 0.0, "checkpoint_steps": 1,
                                     "validation_images": 20, "learning_rate": 0.01})
